"""The classes of a script that its run's backends name, and what each is constructed with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tracker_client.backends.base import TrackerBackend


@dataclass(frozen=True)
class ScriptClass:
    """One class, with the keyword arguments of ``setup_tracker`` that are its own."""

    cls: type[TrackerBackend]
    options: Mapping[str, Any] = field(default_factory=dict)

    def construct(self, **described: Any) -> TrackerBackend:
        """An instance; of what describes the run it is given what its constructor takes.

        Raises whatever the class's constructor raises.
        """
        names, takes_any = parameters_of(self.cls)
        fitting = {name: value for name, value in described.items() if takes_any or name in names}
        return self.cls(**{**fitting, **self.options})


@dataclass(frozen=True)
class ScriptClasses:
    """By name. ``sure``: the run's backends are known to name them; else the daemon tells.

    ``taken`` are the keyword arguments that concern them and nobody else.
    """

    by_name: Mapping[str, ScriptClass] = field(default_factory=dict)
    sure: bool = False
    taken: frozenset[str] = frozenset()


def script_classes(
    backends: str | None, registered: Mapping[str, type[TrackerBackend]], options: Mapping[str, Any]
) -> ScriptClasses:
    """Those of the ``registered`` classes that ``backends`` (names with commas between; None: unknown) names.

    A class takes the dict of its name among ``options``, and bare ones that its constructor has parameters
    for, or all where it has ``**kwargs``.
    """
    wanted = list(registered) if backends is None else backends.split(",")
    found: dict[str, ScriptClass] = {}
    taken: set[str] = set()
    for name in wanted:
        cls = registered.get(name)
        if cls is None:
            continue
        names, takes_any = parameters_of(cls)
        bare = {key: value for key, value in options.items() if key not in registered}
        bare = {key: value for key, value in bare.items() if takes_any or key in names}
        given = options.get(name)
        own = dict(given) if isinstance(given, Mapping) else {}
        found[name] = ScriptClass(cls, {**bare, **own})
        taken.update(bare, {name} & set(options))
    return ScriptClasses(found, backends is not None, frozenset(taken))


def parameters_of(cls: type) -> tuple[frozenset[str], bool]:
    """The names that a class can be given as keyword arguments, and whether it takes any others."""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):  # built without one that can be looked at
        return frozenset(), True
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(parameter.name for parameter in parameters if parameter.kind in by_keyword)
    return names, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
