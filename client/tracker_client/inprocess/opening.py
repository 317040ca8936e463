"""``setup_tracker(endpoint="inprocess")``: the named backends in this process, and no daemon.

One that cannot be had or begun is warned about, and the others go on. Each is given its own options: the
dict of its name, and of the bare ones those that it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracker_client.backends.base import TrackerBackend, registered_backends
from tracker_client.backends.built_in import CLASSES, RunArguments
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
    """A backend that can be begun; ``takes_any``: its constructor takes whatever options there are."""

    name: str
    begin: Callable[[RunArguments, Mapping[str, Any]], TrackerBackend]
    takes: frozenset[str]
    takes_any: bool = False


def open_tracker(backends: str | None, run: RunArguments, options: Mapping[str, Any]) -> Tracker:
    """Begin the run in each of ``backends``, names with commas between; None means W&B.

    ``options``: keyword arguments of ``setup_tracker`` that are not the client's own.
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
    return Tracker(begun, run_id=run.run_id) if begun else NullTracker()


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


def _registered_choice(name: str, cls: type[TrackerBackend]) -> _Choice:
    takes, takes_any = parameters_of(cls)

    def begin(run: RunArguments, options: Mapping[str, Any]) -> TrackerBackend:
        backend = ScriptClass(cls, options).construct(
            project_name=run.project_name, config=run.config, outdir=run.outdir, rank=run.rank
        )
        if not backend.name:
            backend.name = name  # type: ignore[misc]  # this one's, which it is registered under
        return backend

    return _Choice(name, begin, takes, takes_any)


def _begin(choice: _Choice, run: RunArguments, options: Mapping[str, Any]) -> TrackerBackend | None:
    try:
        return choice.begin(run, options)
    except Exception as error:  # noqa: BLE001 - a backend is anyone's code, and the others go on without it
        logger.warning(
            "the backend %r cannot be used, and the run goes on without it: %s: %s",
            choice.name, type(error).__name__, error,
        )  # fmt: skip
        return None


def _options_of(choice: _Choice, names: frozenset[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The bare options that this backend takes, under its own names for them, then those of its dict."""
    translated = ARGUMENTS.get(choice.name, {})
    taken = {
        translated.get(bare, bare): value
        for bare, value in options.items()
        if value is not None and bare not in names and (choice.takes_any or bare in _bare_names(choice))
    }
    own = options.get(choice.name)
    return {**taken, **(own if isinstance(own, Mapping) else {})}


def _bare_names(choice: _Choice) -> frozenset[str]:
    return choice.takes.union(ARGUMENTS.get(choice.name, ()))


def _warn_of_unknown(choices: Sequence[_Choice], names: frozenset[str], options: Mapping[str, Any]) -> None:
    if any(choice.takes_any for choice in choices):
        return
    known = {*names, "name"}.union(*map(_bare_names, choices))
    if unknown := sorted(set(options) - known):
        logger.warning(
            "setup_tracker does not know %s, and none of the backends takes it; each takes a dict of its own "
            "options, such as wandb={...}",
            ", ".join(unknown),
        )
