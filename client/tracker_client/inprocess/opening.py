"""``setup_tracker(endpoint="inprocess")``: begins a run in each named backend, without a daemon.

If a backend cannot be loaded or begun, there is a warning and the run continues without it. Each backend gets
its own options: the items of the dict with its name, and the bare options that it accepts.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracker_client.backends.base import registered_backends
from tracker_client.backends.built_in import CLASSES, RunArguments
from tracker_client.backends.calls import AnyBackend, call
from tracker_client.backends.script_classes import ScriptClass, parameters_of
from tracker_client.errors import BackendNotInstalled
from tracker_client.inprocess.loading import built_in_class
from tracker_client.settings.selectors import ARGUMENTS
from tracker_client.trackers.null_tracker import NullTracker
from tracker_client.trackers.tracker import Tracker

DEFAULT_BACKENDS = "wandb"

logger = logging.getLogger("tracker_client")


@dataclass(frozen=True)
class _Choice:
    """A backend that a run can begin in.

    Attributes:
        name: the backend's name.
        begin: begins a run with the given options.
        accepts: names of the options that the backend accepts.
        accepts_any: True if it accepts any option.
    """

    name: str
    begin: Callable[[RunArguments, Mapping[str, Any]], AnyBackend]
    accepts: frozenset[str]
    accepts_any: bool = False


def open_tracker(backends: str | None, run: RunArguments, options: Mapping[str, Any]) -> Tracker:
    """Begin the run in each backend; return a :class:`NullTracker` if none can be begun.

    Args:
        backends: names separated by commas; None means W&B.
        run: the arguments that every backend gets.
        options: the keyword arguments of ``setup_tracker`` that concern backends.
    """
    names = (backends or DEFAULT_BACKENDS).split(",")
    choices = [choice for name in names if (choice := _choose(name)) is not None]
    named = frozenset({*CLASSES, *(choice.name for choice in choices)})
    begun = [
        backend
        for choice in choices
        if (backend := _begin(choice, run, _options_of(choice, named, options))) is not None
    ]
    _warn_of_unknown(choices, named, options)
    return Tracker(begun, run_id=run.run_id, directory=run.outdir) if begun else NullTracker()


def _choose(name: str) -> _Choice | None:
    registered = registered_backends()
    if name in registered:
        return _registered_choice(name, registered[name])
    if name not in CLASSES:
        logger.warning(
            "there is no backend %r; there are: %s; register_backend(%r, cls) adds one",
            name, ", ".join(sorted({*CLASSES, *registered})), name,
        )  # fmt: skip
        return None
    try:
        built_in = built_in_class(name)
    except BackendNotInstalled as error:
        logger.warning("%s", error)
        return None
    return _Choice(name, built_in.for_run, built_in.option_names())


def _registered_choice(name: str, cls: type[AnyBackend]) -> _Choice:
    accepts, accepts_any = parameters_of(cls)

    def begin(run: RunArguments, options: Mapping[str, Any]) -> AnyBackend:
        backend = ScriptClass(cls, options).construct(
            project_name=run.project_name,
            config=run.config,
            rank=run.rank,
            outdir=str(run.outdir) if run.outdir_is_named else ".",
        )
        if run.config is not None and not (accepts_any or "config" in accepts):
            call(backend, "log_config", run.config)
        if not getattr(backend, "name", ""):
            # The instance's name hides the class's empty one; only a class with slots refuses it.
            with contextlib.suppress(AttributeError):
                setattr(backend, "name", name)  # noqa: B010 - not every class declares the attribute
        return backend

    return _Choice(name, begin, accepts, accepts_any)


def _begin(choice: _Choice, run: RunArguments, options: Mapping[str, Any]) -> AnyBackend | None:
    try:
        return choice.begin(run, options)
    except Exception as error:  # noqa: BLE001 - a backend is anyone's code, and must not stop the others
        logger.warning(
            "the backend %r cannot be used, and the run continues without it: %s: %s",
            choice.name, type(error).__name__, error,
        )  # fmt: skip
        return None


def _options_of(choice: _Choice, names: frozenset[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bare options that this backend accepts, under its own names, then the items of its dict."""
    own_names = ARGUMENTS.get(choice.name, {})
    bare_options = {
        own_names.get(bare, bare): value
        for bare, value in options.items()
        if value is not None and bare not in names and (choice.accepts_any or bare in _bare_names(choice))
    }
    own = options.get(choice.name)
    return {**bare_options, **(own if isinstance(own, Mapping) else {})}


def _bare_names(choice: _Choice) -> frozenset[str]:
    return choice.accepts.union(ARGUMENTS.get(choice.name, ()))


def _warn_of_unknown(choices: Sequence[_Choice], names: frozenset[str], options: Mapping[str, Any]) -> None:
    if any(choice.accepts_any for choice in choices):
        return
    known = {*names, "name", "mlflow_own_name"}.union(*map(_bare_names, choices))
    if unknown := sorted(set(options) - known):
        logger.warning(
            "setup_tracker does not know %s, and none of the backends takes it; each takes a dict of its own "
            "options, such as wandb={...}",
            ", ".join(unknown),
        )
