"""The configuration and the summary of a run, as far as this process has logged them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, ClassVar, NoReturn

from tracker_client.errors import NotLoggedHere, NotRemote


class _LoggedValues(MutableMapping[str, Any]):
    """Values that this process has logged. Items and attributes read and set them."""

    _kind: ClassVar[str]
    _values: dict[str, Any]

    def __delitem__(self, name: str) -> NoReturn:
        raise NotRemote(f"{self._kind}[{name!r}] cannot be deleted: what is logged stays; log another value")

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class RunConfig(_LoggedValues):
    """The configuration that this process has logged so far. Setting a value logs it.

    Items and attributes read and set values. Values that other ranks log are not here.
    """

    _kind = "config"

    def __init__(self, values: dict[str, Any], log_config: Callable[[Mapping[str, Any]], None]) -> None:
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "_log_config", log_config)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise NotLoggedHere(
                f"this process has logged no configuration {name!r}, and the configuration of other ranks is "
                "not known here: read it from the run, at wandb_run.url"
            ) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self._log_config({name: value})

    def update(self, *others: Any, allow_val_change: bool | None = None, **values: Any) -> None:  # noqa: ARG002 - W&B's
        """Log all of ``others`` and ``values`` as one configuration; values may change."""
        self._log_config({key: value for other in (*others, values) for key, value in dict(other).items()})

    def as_dict(self) -> dict[str, Any]:
        """Return a copy, as a plain dict."""
        return dict(self._values)


class RunSummary(_LoggedValues):
    """The summary of a run: the last value of each metric.

    Setting a value, as an item or as an attribute, logs the value with the next row. Reading returns values
    that were set here, by this process. The last values of all ranks are at the run's ``url``.
    """

    _kind = "summary"

    def __init__(self, log: Callable[..., None]) -> None:
        object.__setattr__(self, "_log", log)
        object.__setattr__(self, "_values", {})

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise NotLoggedHere(
                f"summary[{name!r}] was not set by this process, and the daemon makes the summary of logged "
                "metrics; keep the value that was given to tracker.log, or read it from the run, at "
                "wandb_run.url or with wandb.Api().run(wandb_run.path).summary, with an API key of the script"
            ) from None

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, *others: Any, **values: Any) -> None:
        """Log all of ``others`` and ``values`` with the next row."""
        new = {key: value for other in (*others, values) for key, value in dict(other).items()}
        self._values.update(new)
        self._log(new, commit=False)
