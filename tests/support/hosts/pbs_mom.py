"""Stands in for pbs_mom: runs scripts and jobs as it does, and ends them as it does.

A script in a new session with that argv and an empty environment, at most 30 s, then SIGKILL to its process
group; a job as its user, at its end SIGTERM to its session, 10 s, SIGKILL. Also what to look at afterwards.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

MOM = Path("/var/spool/pbs/mom_priv")
SCRIPT_LIMIT_S = 30.0
GRACE_S = 10.0
PATIENCE_S = 120.0
HOME = Path("/home/ada")


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


def begin(job: str, command: list[str], user: str = "ada", **environ: str) -> subprocess.Popen[str]:
    """The job's script, as its user, in a session of its own."""
    variables = {
        "HOME": str(HOME), "USER": "ada", "LOGNAME": "ada", "PBS_JOBID": job, "PBS_O_WORKDIR": str(HOME),
        "PATH": f"/opt/tracker-daemon/bin:{HOME}/bin:/usr/bin:/bin",
        "PYTHONPATH": os.environ["PYTHONPATH"], "LD_LIBRARY_PATH": os.environ["LD_LIBRARY_PATH"], **environ,
    }  # fmt: skip
    return subprocess.Popen(
        command, env=variables, user=user, group=user, extra_groups=[], cwd=HOME, start_new_session=True,
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


def await_recorded(outdir: Path, text: str, job: subprocess.Popen[str]) -> None:
    """Until a run's ``metrics.csv`` below ``outdir`` has ``text``, which the job is to record."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(text in path.read_text() for path in outdir.rglob("metrics.csv")):
        if time.monotonic() > deadline or job.poll() is not None:
            end(job)
            logs = [f"{log}:\n{log.read_text()}" for log in HOME.rglob("*.log")]
            said = job.stdout.read() if job.stdout else ""
            sys.exit("\n".join([f"waited in vain for {text!r} below {outdir}; the job said:\n{said}", *logs]))
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
