"""Ranks: real processes that run a script against a daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field

from tests.support.daemon import Daemon
from tests.support.waiting import PATIENCE_S


@dataclass
class Ranks:
    """Rank processes that run a script against a daemon."""

    daemon: Daemon
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def environ(self) -> dict[str, str]:
        """The environment of a process that is a launch of its own."""
        own = {
            name: text
            for name, text in os.environ.items()
            if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TRACKER_LAUNCH_ID", "TRACKER_SET_UP_BY")
        }
        return own | {"TRACKER_ENDPOINT_FILE": str(self.daemon.endpoint_file)}

    def start(
        self,
        script: str,
        ranks: range | list[int],
        world_size: int,
        arguments: tuple[str, ...] = (),
        **environ: str,
    ) -> list[subprocess.Popen[str]]:
        """Start ``script`` as these ranks of ``world_size``, all of one launch."""
        started = []
        for rank in ranks:
            variables = {
                **os.environ,
                "TRACKER_ENDPOINT_FILE": str(self.daemon.endpoint_file),
                "TRACKER_LAUNCH_ID": "the-launch",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                **environ,
            }
            process = subprocess.Popen(
                [sys.executable, "-c", script, *arguments], env=variables, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            started.append(process)
        self.processes.extend(started)
        return started

    def run(self, script: str, world_size: int, **environ: str) -> list[str]:
        """Run all ranks of ``script`` to their end; what each printed."""
        return [finish(process) for process in self.start(script, range(world_size), world_size, **environ)]


def finish(process: subprocess.Popen[str]) -> str:
    """What a rank printed, once it has ended well."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out
