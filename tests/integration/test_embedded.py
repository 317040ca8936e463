"""Scripts that configure no endpoint: the launch's own daemon, with real launchers, kills and neighbours."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tracker_protocol.run_files import launch_file_name

PATIENCE_S = 90.0
PID = re.compile(r"\bpid=(\d+)")
SCRIPT = """
import os, sys, time
from tracker_client import setup_tracker
def settle(tracker):
    while (status := tracker.status()).buffered_points or status.unacknowledged_points or not status.run_id:
        time.sleep(0.01)
tracker = setup_tracker(project_name="embedded")
for step in range(20):
    tracker.log({"loss": float(step)}, step=step)
"""
RANKED = SCRIPT.replace("float(step", "float(step + int(os.environ.get('RANK') or os.environ['PMI_RANK'])")
TWO_RANKS = ("sh", "-c", 'for r in 0 1; do RANK=$r LOCAL_RANK=$r "$0" "$@" & done; wait')
"""A launcher that begins at once; torchrun imports torch."""
LAUNCH = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
HOLD = 'settle(tracker)\nprint("logged", flush=True)\nsys.stdin.readline()\n'


@dataclass
class Place:
    """A directory in which scripts run, and the daemons that they leave."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.home / "tracker-runs" / ".tracker"

    def start(self, script: str, *launcher: str, **environ: str) -> subprocess.Popen[str]:
        (self.home / "train.py").write_text(script)
        process = subprocess.Popen(
            [*launcher, sys.executable, "train.py"] if "torch.distributed.run" not in launcher
            else [*launcher, "train.py"],
            cwd=self.home, env=self.environ | environ, text=True, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, script: str, *launcher: str, **environ: str) -> tuple[str, str]:
        """What the script printed, to stdout and stderr, once it has ended well."""
        out, err = self.start(script, *launcher, **environ).communicate(timeout=PATIENCE_S)
        assert self.processes[-1].returncode == 0, err
        return out, err

    def launch_files(self) -> list[Path]:
        return sorted(self.state_dir.glob("launch-*.json"))

    def daemons(self) -> set[int]:
        """The processes of all daemons that have served here."""
        log = self.state_dir / "daemon.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return {int(found[1]) for line in lines if "] ready " in line and (found := PID.search(line))}

    def await_end(self) -> None:
        """All daemons have ended by themselves, and taken their endpoint files with them."""
        assert self.daemons()
        wait_until(lambda: not any(map(runs, self.daemons())), "the daemon to end by itself")
        assert not self.launch_files()
        assert not list(self.home.rglob("endpoint.json"))

    def rows(self) -> list[list[dict[str, str]]]:
        """The rows of each run."""
        files = sorted(self.home.rglob("metrics.csv"))
        return [list(csv.DictReader(path.read_text().splitlines())) for path in files]

    def status(self) -> dict[str, object]:
        command = [sys.executable, "-m", "tracker_daemon", "status", "--json"]
        command += ["--state-dir", str(self.state_dir)]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    def last_status(self) -> dict[str, object]:
        return json.loads((self.state_dir / "last-status.json").read_text())


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    place = Place(tmp_path, inherited | {"TRACKER_BACKENDS": "csv", "TRACKER_IDLE_TIMEOUT_S": "1"})
    yield place
    for process in place.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    for pid in filter(runs, place.daemons()):
        os.kill(pid, signal.SIGKILL)


def test_a_script_needs_no_set_up_and_leaves_its_data_and_nothing_else(place: Place) -> None:
    script = SCRIPT + HOLD
    process = place.start(script)
    assert process.stdout.readline() == "logged\n"
    (published,) = place.launch_files()
    assert published.stat().st_mode & 0o777 == 0o600
    assert json.loads(published.read_text())["endpoint"].startswith("127.0.0.1:"), (
        "one process: this host only"
    )
    out, err = process.communicate("\n", timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, "", "")
    place.await_end()
    assert [[row["loss"] for row in rows] for rows in place.rows()] == [[f"{n}.0" for n in range(20)]]
    assert place.last_status()["runs"][0]["status"] == "FINISHED"


@pytest.mark.parametrize("launcher", ["torchrun", "mpiexec"])
def test_all_ranks_of_a_launch_find_the_daemon_of_rank_0(place: Place, launcher: str) -> None:
    if launcher == "torchrun":
        words = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3")
    elif shutil.which("mpiexec"):
        words = ("mpiexec", "-n", "3")
    else:
        pytest.skip("mpiexec is not installed")
    place.run(RANKED + "tracker.finish()\n", *words)
    assert len(place.daemons()) == 1
    place.await_end()
    (rows,) = place.rows()
    assert [(row["loss"], row["loss/mean"]) for row in rows] == [(f"{n}.0", f"{n + 1}.0") for n in range(20)]


def test_scripts_at_once_and_in_a_row_share_a_daemon_and_do_not_mix(place: Place) -> None:
    held = place.start(SCRIPT + HOLD)
    assert held.stdout.readline() == "logged\n"
    place.run(SCRIPT)
    held.communicate("\n", timeout=PATIENCE_S)
    place.run(SCRIPT)  # while the daemon is there, or ending, or has ended
    place.await_end()
    assert [len(rows) for rows in place.rows()] == [20, 20, 20]
    assert {run["status"] for run in place.last_status()["runs"]} == {"FINISHED"}


def test_a_notebook_sets_up_again_and_again(place: Place) -> None:
    again = SCRIPT + "tracker.finish()\n"
    body = again.split("tracker = ")[1]
    place.run(again + "tracker = " + body)
    assert len(place.daemons()) == 1
    place.await_end()
    assert [len(rows) for rows in place.rows()] == [20, 20]


def test_the_others_are_recorded_although_rank_0_is_killed_with_all_its_process_group(place: Place) -> None:
    place.environ |= {"TRACKER_LAUNCH_ID": "one", "WORLD_SIZE": "2", "TRACKER_LOST_TIMEOUT_S": "1"}
    first = place.start(RANKED + HOLD, RANK="0", LOCAL_RANK="0")
    second = place.start(RANKED + HOLD + 'tracker.log({"after": 1.0}, step=99)\n', RANK="1", LOCAL_RANK="1")
    assert (first.stdout.readline(), second.stdout.readline()) == ("logged\n", "logged\n")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    _, err = second.communicate("\n", timeout=PATIENCE_S)
    assert second.returncode == 0, err
    place.await_end()
    (rows,) = place.rows()
    assert [row["after"] for row in rows if row["after"]] == ["1.0"]
    (run,) = place.last_status()["runs"]
    assert run["status"] == "FAILED"
    assert "rank 0" in run["reason"]


def test_no_daemon_is_left_when_all_ranks_are_killed(place: Place) -> None:
    place.environ |= {"TRACKER_LOST_TIMEOUT_S": "600", "TRACKER_ORPHAN_TIMEOUT_S": "1"}
    process = place.start(SCRIPT + HOLD)
    assert process.stdout.readline() == "logged\n"
    process.kill()
    place.await_end()
    (run,) = place.last_status()["runs"]
    assert (run["status"], run["backends"][0]["pending"]) == ("FAILED", 0)


def test_a_killed_daemon_is_replaced_and_its_stale_file_misleads_nobody(place: Place) -> None:
    more = 'for step in range(20, 30): tracker.log({"loss": float(step)}, step=step)\n'
    process = place.start(SCRIPT + HOLD + more)
    assert process.stdout.readline() == "logged\n"
    (pid,) = place.daemons()
    os.kill(pid, signal.SIGKILL)
    _, err = process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert "started again" in err
    place.await_end()
    (rows,) = place.rows()
    assert [row["step"] for row in rows] == [str(step) for step in range(30)]


def test_workers_of_a_script_leave_its_run_alone_and_share_its_daemon(place: Place) -> None:
    script = SCRIPT + (
        "def work():\n"
        "    tracker.log({'worker': 1.0})\n"
        "    with setup_tracker('work') as own: own.log({'x': 1.0})\n"
        "if __name__ == '__main__':\n"
        "    import multiprocessing\n"
        "    for method in ('spawn', 'fork'):\n"
        "        worker = multiprocessing.get_context(method).Process(target=work)\n"
        "        worker.start(); worker.join(); assert worker.exitcode == 0\n"
    )
    place.run(script)
    assert len(place.daemons()) == 1
    place.await_end()
    assert sorted(map(len, place.rows())) == [1, 1, 20]
    assert len(place.last_status()["runs"]) == 3


def test_settings_of_environment_and_file_reach_the_daemon(place: Place) -> None:
    (place.home / "t.toml").write_text('outdir = "elsewhere"\n')
    place.run(SCRIPT, TRACKER_CONFIG="t.toml", TRACKER_PRIMARY_RANK="7")
    place.await_end()
    (run,) = place.last_status()["runs"]
    assert (run["primary_rank"], run["outdir"]) == (7, str(place.home / "elsewhere"))


def test_a_script_does_not_wait_for_a_backend_that_is_away(place: Place) -> None:
    place.environ |= {"TRACKER_BACKENDS": "mlflow,csv", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    place.run(SCRIPT)
    backends = {backend["name"]: backend for backend in place.status()["runs"][0]["backends"]}
    assert backends["mlflow"]["delivered"] == 0
    assert backends["mlflow"]["pending"] > 0


def test_a_daemon_that_cannot_start_is_told_with_its_reason(place: Place) -> None:
    script = SCRIPT + "print(tracker.status().problem); tracker.finish(timeout=5)"
    process = place.start(script, TRACKER_LISTEN="nowhere")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "listen" in err
    assert "nowhere" in err
    assert str(place.state_dir / "daemon.log") in err


def test_a_directory_whose_daemon_is_on_another_host_and_out_of_reach_is_not_waited_for(place: Place) -> None:
    place.state_dir.mkdir(parents=True)
    elsewhere = {"host": "node7", "boot_id": "another", "pid": 1, "nonce": "n"}
    (place.state_dir / "owner.json").write_text(json.dumps(elsewhere))
    place.run(SCRIPT)
    place.await_end()
    assert [len(rows) for rows in place.rows()] == [20]
    assert json.loads((place.state_dir / "owner.json").read_text()) == elsewhere


def test_ranks_that_are_given_no_environment_find_the_daemon_of_run_in_its_directory(place: Place) -> None:
    run = [sys.executable, "-m", "tracker_daemon", "run", "--"]
    dropped = ["env", "-u", "TRACKER_ENDPOINT_FILE", "-u", "TRACKER_LAUNCH_ID"]
    _, shown = place.run(RANKED + "tracker.finish()\n", *run, *dropped, *TWO_RANKS, **LAUNCH)
    assert "FINISHED, 20 records" in shown
    assert len(place.daemons()) == 1
    assert [row["loss/mean"] for row in place.rows()[0]] == [f"{n}.5" for n in range(20)]


def test_ranks_whose_directories_differ_find_the_daemon_of_rank_0_on_their_host(place: Place) -> None:
    apart = "import os\nos.makedirs(f'run-{os.getpid()}')\nos.chdir(f'run-{os.getpid()}')\n"
    temporary = place.home / "tmp"
    temporary.mkdir()
    script = apart + RANKED + "tracker.finish()\n"
    place.run(script, *TWO_RANKS, **LAUNCH, TMPDIR=str(temporary), XDG_RUNTIME_DIR="")
    (rows,) = place.rows()
    assert [row["loss/mean"] for row in rows] == [f"{n}.5" for n in range(20)]
    (log,) = place.home.rglob("daemon.log")
    Place(log.parents[2]).await_end()
    assert not list(temporary.rglob("launch-*.json"))


def test_a_file_that_names_the_daemon_of_another_launch_is_refused_by_that_daemon(place: Place) -> None:
    held = place.start(SCRIPT + HOLD, TRACKER_LAUNCH_ID="one")
    assert held.stdout.readline() == "logged\n"
    (file,) = place.launch_files()
    elsewhere = place.home / "copied" / ".tracker"
    elsewhere.mkdir(parents=True)
    forged = json.loads(file.read_text()) | {"launch_key": "two"}
    (elsewhere / launch_file_name("two")).write_text(json.dumps(forged))
    lost = place.start(
        SCRIPT.replace('"embedded"', '"embedded", outdir="copied"') + "tracker.finish(timeout=3)\n",
        TRACKER_LAUNCH_ID="two", RANK="1", LOCAL_RANK="1", WORLD_SIZE="2",
    )  # fmt: skip
    _, err = lost.communicate(timeout=PATIENCE_S)
    assert (lost.returncode, "this daemon serves other launches" in err) == (0, True), err
    held.communicate("\n", timeout=PATIENCE_S)
    place.await_end()
    (run,) = place.last_status()["runs"]
    assert (run["status"], [rank["rank"] for rank in run["ranks"]]) == ("FINISHED", [0])


def listed(directory: Path) -> dict[str, tuple[int, int]]:
    """The files and directories below ``directory``, with their sizes and times."""
    found = {}
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


def test_nothing_is_written_below_the_directory_once_finish_has_returned(place: Place) -> None:
    place.environ["TRACKER_IDLE_TIMEOUT_S"] = "600"
    script = SCRIPT + (
        "tracker.log_table('t', ['a'], [[1]]); tracker.finish(); print('finished', flush=True)\n"
        "sys.stdin.readline()"
    )
    process = place.start(script)
    assert process.stdout.readline() == "finished\n"
    before, until = listed(place.home), time.monotonic() + 3.0
    while time.monotonic() < until:
        assert listed(place.home) == before
        time.sleep(0.05)
    process.communicate("\n", timeout=PATIENCE_S)
    place.await_end()


def test_a_temporary_directory_is_left_alone_once_finish_has_returned(place: Place) -> None:
    """And its daemon ends, without a word, although its directory has gone."""
    script = """
import json, os, pathlib, tempfile
from tracker_client import setup_tracker
for _ in range(2):
    with tempfile.TemporaryDirectory(dir=".") as directory:
        tracker = setup_tracker("temporary", outdir=directory)
        tracker.log({"loss": 1.0})
        tracker.log_table("t", ["a"], [[1]])
        tracker.finish()
        (path,) = pathlib.Path(directory).rglob("metrics.csv")
        assert len(path.read_text().splitlines()) == 2
        owner = json.loads((pathlib.Path(directory) / ".tracker/owner.json").read_text())
        open("daemons", "a").write(f"{owner['pid']}\\n")
    assert not os.path.exists(directory)
print("done", flush=True)
input()
"""
    place.environ["TRACKER_IDLE_TIMEOUT_S"] = "600"
    process = place.start(script)
    assert process.stdout.readline() == "done\n"
    daemons = [int(line) for line in (place.home / "daemons").read_text().split()]
    wait_until(lambda: not any(map(runs, daemons)), "the daemons to end although their script lives")
    _, err = process.communicate("\n", timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert sorted(path.name for path in place.home.iterdir()) == ["daemons", "train.py"]


def test_fifty_trackers_one_after_another_share_a_daemon(place: Place) -> None:
    script = """
from tracker_client import setup_tracker
for number in range(50):
    tracker = setup_tracker("fifty")
    tracker.log({"loss": float(number)})
    tracker.finish()
"""
    begun = time.monotonic()
    place.run(script)
    assert time.monotonic() - begun <= 25.0
    assert len(place.daemons()) == 1
    place.await_end()
    assert sorted(float(rows[0]["loss"]) for rows in place.rows()) == [float(number) for number in range(50)]


def test_ranks_without_a_tracker_delay_and_fail_nothing_and_their_daemon_ends_soon_after_the_launcher(
    place: Place,
) -> None:
    script = """
import json, os, pathlib, time
from tracker_client import setup_tracker
if os.environ["RANK"] == "0":
    tracker = setup_tracker("primary alone")
    rows, waits = pathlib.Path(tracker.directory) / "metrics.csv", []  # which waits for the daemon
    for step in range(10):
        logged = time.monotonic()
        tracker.log({"loss": float(step)}, step=step)
        while not rows.exists() or f"{step},{step}.0" not in rows.read_text().split():
            time.sleep(0.01)
        waits.append(time.monotonic() - logged)
    print(json.dumps(waits))
"""
    place.environ["TRACKER_IDLE_TIMEOUT_S"] = "600"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    out, _ = place.run(script, *torchrun)
    ended = time.monotonic()
    place.await_end()
    assert time.monotonic() - ended <= 5.0
    assert [row["loss"] for row in place.rows()[0]] == [f"{step}.0" for step in range(10)]
    first, *others = json.loads(out)
    # Rank 1 is awaited for 5 s. Both bounds leave a second for a slow machine.
    assert first <= 7.0
    assert max(others) <= 2.0
    (run,) = place.last_status()["runs"]
    assert (run["status"], run["reason"]) == ("FINISHED", "rank 1 never connected")
