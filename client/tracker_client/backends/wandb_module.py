"""The names ``wandb.log``, ``wandb.run`` and so on in a script that tracks through a daemon.

``wandb.init`` makes the module's own functions record to its run: it sets the module's public names. A
tracker of the primary rank sets the same names to its handle, so that ``wandb.log()`` and the like record
through the tracker. If the script has opened a run itself, only ``wandb.log`` changes.

Nothing here imports W&B. If the script imports it later, a finder of imports sets the names as soon as the
module is complete. Only public names are read and set; if a version of W&B lacks them, nothing is set, and a
warning names the tracker's methods.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from tracker_client.values.refusals import Refusals

MODULE = "wandb"
_ESSENTIAL = frozenset(("run", "log", "config", "summary"))
_lock = threading.RLock()
_holders: list[ModuleNames] = []
"""Those that have set names and not reset them yet; the last one's names hold."""
_originals: dict[str, Any] = {}
"""The module's own values of the names that are set."""


class ModuleNames:
    """The names that one tracker sets in the module ``wandb``, from :meth:`begin` to :meth:`end`."""

    def __init__(self, names: Mapping[str, Any], refusals: Refusals) -> None:
        self.names = names
        self._refusals = refusals
        self._finder: _Finder | None = None

    def begin(self) -> None:
        """Set the names, or have them set once the script imports ``wandb``."""
        module = sys.modules.get(MODULE)
        with _lock:
            if module is not None:
                self._set_in(module)
            else:
                self._finder = _Finder(self._set_in)
                sys.meta_path.insert(0, self._finder)

    def end(self) -> None:
        """Reset the names to those of the tracker before, or to the module's own."""
        with _lock:
            if self._finder is not None and self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)
            self._finder = None
            module = sys.modules.get(MODULE)
            if module is None or self not in _holders:
                return
            _holders.remove(self)
            self._warn_of_later_run(module)
            others = _holders[-1].names if _holders else {}
            for name, value in self.names.items():
                if vars(module).get(name) is value:  # else the script has opened a run since then
                    setattr(module, name, others.get(name, _originals[name]))

    def _warn_of_later_run(self, module: ModuleType) -> None:
        ours = [holder.names.get("run") for holder in (self, *_holders)]
        current = vars(module).get("run")
        if ours[0] is None or current is None or any(current is run for run in ours):
            return
        self._refusals.warn_once(
            "wandb.init()",
            "the script has opened a W&B run after setup_tracker, beside the daemon's run; wandb.log() has "
            "recorded to it alone; call wandb.init() before setup_tracker to have one run",
        )

    def _set_in(self, module: ModuleType) -> None:
        known = vars(module)
        if _ESSENTIAL - set(known):
            version = known.get("__version__", "of an unknown version")
            self._refusals.warn_once(
                "wandb.log() and the like",
                f"wandb {version} does not have the usual names, so they do not record through the tracker; "
                "call tracker.log, tracker.log_config and tracker.wandb_run instead",
            )
            return
        with _lock:
            for name, value in self.names.items():
                if not any(name in holder.names for holder in _holders):
                    _originals[name] = known.get(name)
                setattr(module, name, value)
            _holders.append(self)


def names_of_handle(run: Any, refusals: Refusals) -> dict[str, Any]:
    """Return the names by which the module records to ``run``, a ``WandbRun``."""
    recording = ("log", "config", "summary", "watch", "unwatch", "define_metric")
    elsewhere = ("save", "alert", "use_artifact", "log_artifact", "log_model", "use_model", "link_model")
    return {
        "run": run,
        **{name: getattr(run, name) for name in recording},
        **{name: _only_at_daemon(name, run, refusals) for name in (*elsewhere, "mark_preempting")},
    }


def _only_at_daemon(name: str, run: Any, refusals: Refusals) -> Callable[..., None]:
    def explain(*_: Any, **__: Any) -> None:
        refusals.warn_once(
            f"wandb.{name}()",
            f"it does nothing, since the run is written at the daemon; use {run.replacement(name)} instead",
        )

    return explain


class _Finder(MetaPathFinder):
    """Finds ``wandb`` where the other finders do, and calls ``imported`` with the complete module."""

    def __init__(self, imported: Callable[[ModuleType], None]) -> None:
        self._imported = imported
        self._searching = threading.local()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the interface's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return the module's specification with a loader that reports; None for all other modules."""
        if fullname != MODULE or getattr(self._searching, "now", False):
            return None
        self._searching.now = True
        try:
            spec = find_spec(fullname)
        finally:
            self._searching.now = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec

    def loaded(self, module: ModuleType) -> None:
        """Report the complete module, once."""
        with _lock:
            if self not in sys.meta_path:
                return
            sys.meta_path.remove(self)
            self._imported(module)


class _Loader(Loader):
    """Loads a module with its own loader, which the module keeps, and reports it."""

    def __init__(self, loader: Loader, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module as its own loader does; then report it."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._finder.loaded(module)


def _forget_after_fork() -> None:
    """Leave the imports of a forked child alone; another thread may have held the lock."""
    global _lock  # noqa: PLW0603 - a lock cannot be renewed in place
    _lock = threading.RLock()
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


os.register_at_fork(after_in_child=_forget_after_fork)
