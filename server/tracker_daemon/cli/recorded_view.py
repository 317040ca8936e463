"""Recorded runs as tables for people, and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from tracker_client.recorded import FinalValue, RecordedRun

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

FILES_SHOWN = 20
_STYLES = {"RUNNING": "yellow", "FINISHED": "green", "FAILED": "red", "INTERRUPTED": "red"}
_UNITS = ("B", "kB", "MB", "GB", "TB")
_TEN, _THOUSAND = 10, 1000


def listed(runs: Sequence[RecordedRun]) -> str:
    """Return the runs as JSON, one object each."""
    return _json([_document(run) for run in runs])


def shown(run: RecordedRun) -> str:
    """Return one run as JSON, with its configuration, final values and files."""
    final = {name: asdict(value) for name, value in run.final().items()}
    return _json({**_document(run), "config": run.config(), "final": final, "files": run.files})


def listing(runs: Sequence[RecordedRun]) -> RenderableType:
    """Return the table of the runs."""
    from rich.text import Text  # noqa: PLC0415

    table = _table("NAME", "ID", "STATE", ">LAST STEP", ">RANKS", "WHEN", ">SIZE", "TAGS", "WHERE")
    for run in runs:
        table.add_row(
            Text(run.name),
            Text(run.run_id),
            Text(run.state, _STYLES.get(run.state, "")),
            _count(run.last_step),
            _count(run.world_size),
            _time(run.created),
            _size(run.size_bytes),
            Text(" ".join(run.tags)),
            Text(str(run.directory)),
        )
    return table


def sight(run: RecordedRun) -> RenderableType:
    """Return everything about one run."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    facts = _table("", "")
    for name, value in _facts(run):
        facts.add_row(name, Text(value))
    parts: list[RenderableType] = [facts]
    if config := dict(_flat(run.config())):
        parts += [Text(""), _pairs("CONFIGURATION", config)]
    if final := run.final():
        parts += [Text(""), _final_table(final)]
    if run.files:
        parts += [Text(""), _files_table(run)]
    return Group(*parts)


def _document(run: RecordedRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "project": run.project,
        "state": run.state,
        "reason": run.reason,
        "attempt": run.attempt,
        "last_step": run.last_step,
        "world_size": run.world_size,
        "created": _iso(run.created),
        "ended": _iso(run.ended),
        "size_bytes": run.size_bytes,
        "tags": run.tags,
        "directory": str(run.directory),
        "backends": {one.name: {"location": one.location, "url": one.url} for one in run.backends},
    }


def _facts(run: RecordedRun) -> Iterator[tuple[str, str]]:
    yield "run", f"{run.name} ({run.run_id})"
    if run.project:
        yield "project", run.project
    state = f"{run.state}: {run.reason}" if run.reason else run.state
    yield "state", state if run.attempt == 1 else f"{state}, attempt {run.attempt}"
    yield "when", f"{_time(run.created)} – {_time(run.ended)}" if run.ended else _time(run.created)
    yield "ranks", _count(run.world_size)
    yield "last step", _count(run.last_step)
    if run.tags:
        yield "tags", " ".join(run.tags)
    yield "where", str(run.directory)
    for backend in run.backends:
        yield backend.name, backend.url or backend.location


def _final_table(final: Mapping[str, FinalValue]) -> Table:
    from rich.text import Text  # noqa: PLC0415

    table = _table("METRIC", ">STEP", ">VALUE", ">MEAN", ">MIN", ">MAX", ">STD")
    for name, value in final.items():
        cells = (value.value, value.mean, value.min, value.max, value.std)
        table.add_row(Text(name), _count(value.step), *(Text(_short(cell)) for cell in cells))
    return table


def _files_table(run: RecordedRun) -> Table:
    from rich.text import Text  # noqa: PLC0415

    table = _table("FILE", ">SIZE")
    for file, size_bytes in list(run.file_sizes().items())[:FILES_SHOWN]:
        table.add_row(Text(file), _size(size_bytes))
    if len(run.files) > FILES_SHOWN:
        table.add_row(f"and {len(run.files) - FILES_SHOWN} more", _size(run.size_bytes))
    return table


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    from rich.text import Text  # noqa: PLC0415

    table = _table(title, "")
    for name, value in values.items():
        table.add_row(Text(name), Text(value if isinstance(value, str) else _json(value)))
    return table


def _table(*columns: str) -> Table:
    """Return a table without lines; a column whose title begins with ``>`` is set to the right."""
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for column in columns:
        justify = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _json(value: Any) -> str:
    return msgspec.json.encode(_printable(value)).decode()


def _printable(value: Any) -> Any:
    """Return ``value`` with texts that are Unicode; a path may have other bytes."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(one) for key, one in value.items()}
    return [_printable(one) for one in value] if isinstance(value, list | tuple) else value


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _short(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _size(size_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if size_bytes < _THOUSAND:
            return (
                f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= 10 else f"{size_bytes:.1f} {unit}"
            )
        size_bytes /= _THOUSAND
    return f"{size_bytes:.1f} {_UNITS[-1]}"
