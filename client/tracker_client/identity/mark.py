"""The mark of a process that has set up a tracker, by which its child processes know what they inherit.

The mark is in the environment (TRACKER_SET_UP_BY). It is also in a file without a name that the process keeps
open, where a child finds it in /proc: the child's environment may be a new one, or a copy from before the
set-up.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tracker_client.identity.rank import RANK_VARIABLES, WORLD_SIZE_VARIABLES
from tracker_protocol.host_processes import ancestors

SET_UP_BY_VARIABLE = "TRACKER_SET_UP_BY"
GROUP_VARIABLES = (
    "TRACKER_LAUNCH_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID",
    "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "PALS_APID", "PMIX_NAMESPACE", "PMI_PORT", "PBS_JOBID",
    "LSB_JOBID", "FLUX_JOB_ID", "COBALT_JOBID", *WORLD_SIZE_VARIABLES,
)  # fmt: skip
"""Variables with the same value in all ranks of a launch, and mostly another one in another launch."""
LAUNCH_VARIABLES = (*GROUP_VARIABLES, *RANK_VARIABLES, "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
RUN_VARIABLES = ("TRACKER_RUN_ID", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID")
"""Variables that select one run: the parent's, if a child has inherited them."""


@dataclass(frozen=True)
class Mark:
    """The mark of a process that has set up a tracker.

    Attributes:
        pid: the process.
        id: a random text, since pids are used again.
        rank: its rank.
        launch: a digest of its launch key.
        is_child: True if it is a child itself, and so a launch of its own.
        variables: the variables of LAUNCH_VARIABLES and RUN_VARIABLES that it has.
        calls: the address of the count of its tracker's calls elsewhere.
    """

    pid: int
    id: str
    rank: int
    launch: str
    is_child: bool
    variables: Mapping[str, str]
    calls: str = ""

    @classmethod
    def of(cls, text: str) -> Mark | None:
        """Return the mark that ``text`` describes; None if it describes none."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    @classmethod
    def new(
        cls,
        environ: Mapping[str, str],
        pid: int,
        *,
        rank: int,
        launch_key: str,
        is_child: bool,
        calls: str = "",
    ) -> Mark:
        """Return a new mark of the process ``pid``, which has ``environ``."""
        names = (*LAUNCH_VARIABLES, *RUN_VARIABLES)
        variables = {name: environ[name] for name in names if name in environ}
        return cls(pid, secrets.token_hex(8), rank, digest(launch_key), is_child, variables, calls)

    @property
    def text(self) -> str:
        """The text that describes the mark."""
        return json.dumps(asdict(self))

    def has_launch(self, key: str) -> bool:
        """Return True if ``key`` is the launch key of the marked process."""
        return digest(key) == self.launch

    def changes(
        self, environ: Mapping[str, str], names: tuple[str, ...] = LAUNCH_VARIABLES
    ) -> dict[str, str]:
        """Return the variables among ``names`` that ``environ`` has with another value than the mark."""
        return {
            name: environ[name]
            for name in names
            if name in environ and environ[name] != self.variables.get(name)
        }

    def without_inherited_run(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return ``environ`` without the variables that select the marked process's run."""
        changed = self.changes(environ, RUN_VARIABLES)
        return {name: text for name, text in environ.items() if name not in RUN_VARIABLES or name in changed}


_FILE_NAME = "tracker-set-up"
_file: int | None = None


def find_mark(environ: Mapping[str, str], pid: int) -> Mark | None:
    """Return the mark of this process (``pid``), else of its nearest ancestor that has one, else None."""
    inherited = Mark.of(environ.get(SET_UP_BY_VARIABLE, ""))
    if inherited is not None and inherited.pid == pid:
        return inherited
    return next(filter(None, (_mark_of_process(one.pid) for one in ancestors())), inherited)


def mark_process(environ: MutableMapping[str, str], mark: Mark) -> None:
    """Give this process the mark, in ``environ`` and where /proc shows it."""
    environ[SET_UP_BY_VARIABLE] = mark.text
    _publish(mark.text)


def digest(text: str) -> str:
    """Return a short text that stands for ``text``."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _publish(text: str) -> None:
    global _file  # noqa: PLW0603 - a process has one mark
    if not hasattr(os, "memfd_create"):  # Python was built on a system without it
        return
    with suppress(OSError):  # no descriptor is left; the mark in the environment remains
        if _file is None:
            _file = os.memfd_create(_FILE_NAME)
        os.ftruncate(_file, 0)
        os.pwrite(_file, text.encode(), 0)


def _mark_of_process(pid: int) -> Mark | None:
    """Return the mark that a process has; None if it has none, or belongs to another user."""
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed by now
                if f":{_FILE_NAME} " in str(descriptor.readlink()):
                    return Mark.of(descriptor.read_text())
    return None


def _forget() -> None:
    """Close, in a forked child, the parent's mark."""
    global _file  # noqa: PLW0603 - a process has one mark
    if _file is not None:
        os.close(_file)
    _file = None


os.register_at_fork(after_in_child=_forget)
