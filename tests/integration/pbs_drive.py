"""Stands in for pbs_mom in a machine of its own, and runs jobs with the scripts that are installed there.

What pbs_mom does: a script in a new session with that argv and an empty environment, at most 30 s, then
SIGKILL to its process group; a job as its user, at its end SIGTERM to its session, 10 s, SIGKILL.
Prints one JSON object: what was seen.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import signal
import subprocess
import sys
import time
import types
from contextlib import suppress
from pathlib import Path

MOM = Path("/var/spool/pbs/mom_priv")
SCRIPT_LIMIT_S = 30.0
GRACE_S = 10.0
HOME = Path("/home/ada")
PYTHON = str(Path(sys.executable))


def script(name: str, *argv: str) -> tuple[int, str]:
    """A prologue or an epilogue, as pbs_mom runs it."""
    process = subprocess.Popen(
        [str(MOM / name), *argv], env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd="/",
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=SCRIPT_LIMIT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def begin(job: str, command: list[str], **environ: str) -> subprocess.Popen[str]:
    """The job's script, as its user, in a session of its own."""
    variables = {
        "HOME": str(HOME), "USER": "ada", "LOGNAME": "ada", "PBS_JOBID": job, "PBS_O_WORKDIR": str(HOME),
        "PATH": f"/opt/tracker-daemon/bin:{HOME}/bin:/usr/bin:/bin",
        "PYTHONPATH": os.environ["PYTHONPATH"], "LD_LIBRARY_PATH": os.environ["LD_LIBRARY_PATH"], **environ,
    }  # fmt: skip
    return subprocess.Popen(
        command, env=variables, user="ada", group="ada", extra_groups=[], cwd=HOME, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def session(leader: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(path.name)) == leader:
                found.append(int(path.name))
    return found


def end(job: subprocess.Popen[str]) -> int:
    """What pbs_mom does at walltime."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        for pid in session(job.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with suppress(subprocess.TimeoutExpired):
            job.wait(patience_s)
    return job.returncode


def await_both_ranks(path: Path, patience_s: float = 120.0) -> None:
    """Until the file has a column that takes more than one rank."""
    deadline = time.monotonic() + patience_s
    while not (path.exists() and "x/mean" in path.read_text()):
        if time.monotonic() > deadline:
            logs = [log.read_text() for log in HOME.rglob("daemon*.log")]
            sys.exit(f"waited in vain for {path}; the daemons said:\n{logs}")
        time.sleep(0.05)


def daemon_of(state: Path) -> dict[str, object] | None:
    """Whose process the daemon is; None where none runs."""
    try:
        pid = json.loads((state / "endpoint.json").read_text())["pid"]
        return {"user": pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name, "session": os.getsid(pid)}
    except OSError:
        return None


def status_of(state: Path) -> list[dict[str, object]]:
    return json.loads((state / "last-status.json").read_text())["runs"]


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
        await_both_ranks(HOME / "runs" / job / "metrics.csv")
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
        await_both_ranks(HOME / "runs" / job / "metrics.csv")
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
