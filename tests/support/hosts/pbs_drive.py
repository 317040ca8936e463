"""Runs jobs in a machine of its own as pbs_mom does, with the scripts that are installed there.

Prints one JSON object: what was seen.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

from tests.support.hosts.pbs_mom import HOME, MOM, await_recorded, begin, daemon_of, end, script, status_of

PYTHON = str(Path(sys.executable))
BOTH_RANKS = "x/mean"  # a column that takes more than one rank


def with_prologue(job: str, *, kill: bool) -> dict[str, object]:
    """A job between prologue and epilogue; it trains to its end, or is killed amid."""
    state = HOME / ".tracker" / "pbs" / job
    seen: dict[str, object] = {"prologue": script("prologue", job, "ada", "ada"), "daemon": daemon_of(state)}
    endless = {"STEPS": "1000000"} if kill else {}
    process = begin(
        job, ["bash", "-c", f"mpiexec -n 2 {PYTHON} {HOME}/train.py"],
        TRACKER_ENDPOINT_FILE=str(state / "endpoint.json"), OUTDIR=f"runs/{job}", **endless,
    )  # fmt: skip
    if kill:
        await_recorded(HOME / "runs" / job, BOTH_RANKS, process)
    seen["job"] = end(process) if kill else process.wait(120)
    code = str(process.returncode % 256)
    names = ("train", "77", "walltime=1", "walltime=1", "workq", "account")
    seen["epilogue"] = script("epilogue", job, "ada", "ada", *names, code)
    seen["daemon_after"], seen["runs"] = daemon_of(state), status_of(state)
    return seen


def with_job_script(job: str, *, kill: bool) -> dict[str, object]:
    """The job script that starts the daemon itself."""
    endless = {"STEPS": "1000000", "HANGS": "1"} if kill else {}
    process = begin(job, ["bash", f"{HOME}/job.pbs"], SCRIPT=f"{HOME}/train.py", **endless)
    if kill:
        await_recorded(HOME / "runs" / job, BOTH_RANKS, process)
    seen: dict[str, object] = {"job": end(process) if kill else process.wait(120)}
    seen["output"] = process.stdout.read() if process.stdout else ""
    state = HOME / ".tracker" / job
    seen["daemon_after"], seen["runs"] = daemon_of(state), status_of(state)
    return seen


def with_hook(job: str) -> dict[str, object]:
    """The hook's events on the first node, as pbs_mom raises them."""
    state = HOME / ".tracker" / "pbs" / job
    event = types.SimpleNamespace(env={}, type=0)
    event.job = types.SimpleNamespace(id=job, euser="ada", in_ms_mom=lambda: True, Exit_status=None)
    notes: list[str] = []
    pbs = types.ModuleType("pbs")
    pbs.EXECJOB_PROLOGUE, pbs.EXECJOB_LAUNCH, pbs.EXECJOB_EPILOGUE, pbs.LOG_WARNING = 1, 2, 3, 4
    pbs.event = lambda: event
    pbs.logjobmsg = lambda _, text: notes.append(text)
    pbs.logmsg = lambda _, text: notes.append(text)
    sys.modules["pbs"] = pbs

    def raise_event(kind: int) -> None:
        event.type = kind
        spec = importlib.util.spec_from_file_location("hook", MOM / "tracker_daemon_hook.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    raise_event(pbs.EXECJOB_PROLOGUE)
    seen: dict[str, object] = {"daemon": daemon_of(state)}
    raise_event(pbs.EXECJOB_LAUNCH)
    process = begin(
        job, ["mpiexec", "-n", "2", PYTHON, f"{HOME}/train.py"], OUTDIR=f"runs/{job}", **event.env
    )
    seen["job"] = process.wait(120)
    event.job.Exit_status = 0
    raise_event(pbs.EXECJOB_EPILOGUE)
    seen |= {"daemon_after": daemon_of(state), "runs": status_of(state), "notes": notes}
    return seen


def main() -> None:
    seen: dict[str, object] = {
        "prologue": with_prologue("1.pbs", kill=False),
        "prologue_killed": with_prologue("2.pbs", kill=True),
        "script": with_job_script("3.pbs", kill=False),
        "script_killed": with_job_script("4.pbs", kill=True),
        "hook": with_hook("5.pbs"),
    }
    (HOME / ".tracker" / "pbs" / "6.pbs").write_text("a file where the state directory should be")
    seen["broken"] = script("prologue", "6.pbs", "ada", "ada")
    print(json.dumps(seen))


main()
