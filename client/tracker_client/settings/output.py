"""The output directory: the argument ``outdir``, else TRACKER_OUTDIR, else one in the working directory.

The directory is a path of this process and a text for the daemon. A file system's names are bytes, so the two
may differ. Python decodes names by the file-system encoding, which may be ASCII; the text is always UTF-8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_client.errors import SettingsError
from tracker_protocol.run_files import DEFAULT_OUTPUT_DIRECTORY

OUTDIR_VARIABLE = "TRACKER_OUTDIR"


@dataclass(frozen=True)
class OutputDirectory:
    """An output directory. ``named``: by the script or the environment."""

    path: Path
    named: bool

    @property
    def text(self) -> str:
        """The path in UTF-8, for the daemon.

        Raises:
            SettingsError: the path is not UTF-8.
        """
        try:
            return os.fsencode(self.path).decode()
        except UnicodeDecodeError:
            raise SettingsError(
                f"the output directory {os.fsencode(self.path)!r} is not UTF-8, and a daemon's paths are; "
                "name another with outdir"
            ) from None


@dataclass(frozen=True)
class OutputSettings:
    """The output directory in a client's settings.

    Attributes:
        path: the directory here; only a launch that starts its own daemon uses it.
        outdir: the directory that the script or the environment names, for the daemon; None for none.
        default_outdir: the script's default, for a daemon whose settings name no directory either.
    """

    path: Path
    outdir: str | None = None
    default_outdir: str | None = None

    @staticmethod
    def read(
        outdir: str | os.PathLike[str] | None,
        environ: Mapping[str, str],
        default: str | None,
        *,
        needed: bool,
    ) -> OutputSettings:
        """Read the settings; ``needed`` is False if a daemon that runs already may choose the directory.

        Raises:
            SettingsError: see :func:`read_output_directory`, or the path is not UTF-8.
        """
        named = is_named(outdir, environ)
        if not (named or needed or default is not None):
            return OutputSettings(Path())
        output = read_output_directory(outdir, environ, default or DEFAULT_OUTPUT_DIRECTORY)
        text = output.text
        return OutputSettings(output.path, text if named else None, text if not named and default else None)


def is_named(outdir: object, environ: Mapping[str, str]) -> bool:
    """Return True if the argument or the environment names an output directory."""
    return outdir is not None or bool(environ.get(OUTDIR_VARIABLE))


def read_output_directory(
    outdir: str | os.PathLike[str] | None,
    environ: Mapping[str, str],
    default: str = DEFAULT_OUTPUT_DIRECTORY,
) -> OutputDirectory:
    """Return the absolute output directory; ``~`` stands for a home directory.

    Raises:
        SettingsError: the directory cannot be a path here, or it is relative and there is no working
            directory.
    """
    named = is_named(outdir, environ)
    given: Any = default if not named else environ[OUTDIR_VARIABLE] if outdir is None else outdir
    text = _local(given)
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path's raises RuntimeError
    if text.startswith("~") and expanded == text:
        raise SettingsError(f"outdir is {text!r}, and no home directory is known for it; name it in full")
    try:
        return OutputDirectory(Path(expanded).absolute(), named)
    except OSError:
        raise SettingsError(
            f"outdir is {text!r}, relative to the working directory, and that has been deleted; "
            "name a directory in full"
        ) from None


def working_directory(environ: Mapping[str, str]) -> str:
    """Return the working directory; if it has been deleted, the path that it had."""
    try:
        return str(Path.cwd())
    except OSError:
        return environ.get("PWD") or "/"


def _local(given: Any) -> str:
    """Return a path as a text that this process's file-system encoding takes."""
    try:
        text = os.fsdecode(given)
    except TypeError:
        raise SettingsError(f"outdir is {given!r}; it must be a path") from None
    if "\0" in text:
        raise SettingsError(f"outdir is {text!r}; a path has no null characters")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return _reencoded(text)
    return text


def _reencoded(text: str) -> str:
    try:
        return os.fsdecode(text.encode())
    except UnicodeEncodeError:
        raise SettingsError(f"outdir is {text!r}, which no file system can name") from None
