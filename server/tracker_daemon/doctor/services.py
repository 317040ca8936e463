"""Checks backends: each is installed, and its service accepts its credentials.

A separate process asks the service. It has only that backend's environment, as the backend's process will
have it, and it writes nothing there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tracker_daemon.backends import registry
from tracker_daemon.backends.child.process import ChildBackend
from tracker_daemon.doctor.finding import Finding, good, problem
from tracker_daemon.errors import BackendRefused, SettingsError
from tracker_daemon.settings.credentials import masked
from tracker_protocol import limits


def examine_backends(names: Sequence[str], outdir: Path) -> Iterator[Finding]:
    """Check that the backends ``names`` can be used."""
    for name in names:
        yield _examine(name, outdir)


def _examine(name: str, outdir: Path) -> Finding:
    subject = f"backend {name}"
    try:
        backend = registry.create(name)
    except SettingsError as error:
        return problem(subject, str(error), "install it, or leave it out of --backends")
    if not isinstance(backend, ChildBackend):
        return good(subject, "is installed")
    try:
        environment = backend.own_environment()
    except BackendRefused as error:
        return problem(subject, str(error), "check the file's permissions")
    return _ask(subject, name, outdir, environment)


def _ask(subject: str, name: str, outdir: Path, environment: dict[str, str]) -> Finding:
    command = [sys.executable, "-m", "tracker_daemon.doctor.service_probe", name, str(outdir)]
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter and module
            command, env=environment, capture_output=True, timeout=limits.CHILD_OPEN_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        text = f"its service did not answer within {limits.CHILD_OPEN_DEADLINE_S:.0f} s"
        return problem(subject, text, "check the network between")
    try:
        ok, text = msgspec.json.decode(done.stdout.splitlines()[-1], type=tuple[bool, str])
    except (IndexError, msgspec.DecodeError):
        said = masked(done.stderr.decode("utf-8", "replace"), environment).strip()
        return problem(subject, f"its process failed: {said[-500:]}", "see its installation")
    if ok:
        return good(subject, text)
    return problem(subject, text, "nothing is lost meanwhile: the journal keeps its records")
