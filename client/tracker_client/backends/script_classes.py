"""The classes of the script that a run's backends name, and the arguments of their constructors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracker_client.backends.calls import AnyBackend


@dataclass(frozen=True)
class ScriptClass:
    """One class, with the keyword arguments of ``setup_tracker`` that belong to it."""

    cls: Callable[..., AnyBackend]
    options: Mapping[str, Any] = field(default_factory=dict)

    def construct(self, **described: Any) -> AnyBackend:
        """Construct an instance, with those of the run's arguments that the constructor has parameters for.

        Raises whatever the class's constructor raises.
        """
        names, accepts_any = parameters_of(self.cls)
        fitting = {name: value for name, value in described.items() if accepts_any or name in names}
        return self.cls(**{**fitting, **self.options})


@dataclass(frozen=True)
class ScriptClasses:
    """The classes of a run.

    Attributes:
        by_name: the classes by their registered names.
        sure: True if the script names the run's backends; else the daemon decides which classes are used.
        argument_names: names of the keyword arguments that belong to the classes.
        adopted: the script's own W&B run that one of the classes records to; None if there is none.
    """

    by_name: Mapping[str, ScriptClass] = field(default_factory=dict)
    sure: bool = False
    argument_names: frozenset[str] = frozenset()
    adopted: Any = None


def script_classes(
    backends: str | None, registered: Mapping[str, type[AnyBackend]], options: Mapping[str, Any]
) -> ScriptClasses:
    """Select the ``registered`` classes that ``backends`` names.

    A class gets the items of the dict with its name among ``options``. It also gets the other options that
    its constructor has parameters for; all of them if the constructor has ``**kwargs``.

    Args:
        backends: names separated by commas; None if they are not known, which selects all classes.
        registered: the registered classes by name.
        options: the keyword arguments of ``setup_tracker`` that concern backends.
    """
    wanted = list(registered) if backends is None else backends.split(",")
    found: dict[str, ScriptClass] = {}
    argument_names: set[str] = set()
    for name in wanted:
        cls = registered.get(name)
        if cls is None:
            continue
        names, accepts_any = parameters_of(cls)
        bare = {key: value for key, value in options.items() if key not in registered}
        bare = {key: value for key, value in bare.items() if accepts_any or key in names}
        given = options.get(name)
        own = dict(given) if isinstance(given, Mapping) else {}
        found[name] = ScriptClass(cls, {**bare, **own})
        argument_names.update(bare, {name} & set(options))
    return ScriptClasses(found, backends is not None, frozenset(argument_names))


def parameters_of(cls: Callable[..., object]) -> tuple[frozenset[str], bool]:
    """Return the names of a class's keyword arguments, and True if it accepts any others."""
    try:
        parameters = inspect.signature(cls).parameters.values()
    except (TypeError, ValueError):  # a class without a readable signature
        return frozenset(), True
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(parameter.name for parameter in parameters if parameter.kind in by_keyword)
    return names, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
