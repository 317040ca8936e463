"""The directory of a run: chosen by the layout, claimed once, found again by the run's id."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.files import run_directory
from tracker_daemon.files.layout import Layout
from tracker_daemon.files.manifest import SCRIPT, Manifest, add_files
from tracker_daemon.files.own_files import OwnFiles
from tracker_daemon.files.run_directory import (
    CSV_LOCK,
    KnownDirectory,
    RunPlace,
    claim_directory,
    close_directory,
    find_directory,
)
from tracker_daemon.files.run_lock import DirectoryLock, RunLock
from tracker_daemon.files.run_names import run_directory_name, with_id

FIRST, SECOND, THIRD = (f"20260102-03040{second}-train" for second in (5, 6, 7))


def place(base, run_id="a", name=FIRST, **more):
    return RunPlace(base, run_id, name, **more)


def claimed(base, run_id="a", name=FIRST, **more):
    return claim_directory(place(base, run_id, name, **more)).path


def write(directory, run_id="a", **files):
    """Write files of the run, as its backends do."""
    own = OwnFiles(directory, run_id)
    for file, text in files.items():
        (path,) = own.claim([file.replace("__", "/").replace("_", ".")])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(directory):
    """Return the texts of all files below ``directory`` by path, without manifests."""
    paths = (path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".tracker"))
    return {path.relative_to(directory).as_posix(): path.read_text() for path in paths}


def test_a_named_base_is_the_runs_own_directory(tmp_path):
    assert claimed(tmp_path / "out") == tmp_path / "out"


def test_an_unnamed_base_has_a_directory_for_each_run_and_a_link_to_the_latest(tmp_path):
    assert claimed(tmp_path, layout=Layout.NAME) == tmp_path / FIRST
    assert claimed(tmp_path, "b", SECOND, layout=Layout.NAME) == tmp_path / SECOND
    assert (tmp_path / "latest").readlink() == Path(SECOND)
    assert (tmp_path / "latest").resolve() == tmp_path / SECOND


def test_a_service_has_a_directory_for_each_project_and_run(tmp_path):
    path = claimed(tmp_path, layout=Layout.PROJECT, project="../my project")
    assert path == tmp_path / "my_project" / FIRST
    assert (path.parent / "latest").readlink() == Path(FIRST)
    assert not (tmp_path / "latest").is_symlink()


def test_a_closed_runs_files_move_to_its_name_and_the_next_run_gets_the_base(tmp_path):
    claimed(tmp_path)
    write(tmp_path, metrics_csv="1", config_json="{}", images__x_png="i", artifacts__m__w_bin="w")
    close_directory(tmp_path, "a")
    second = claim_directory(place(tmp_path, "b", SECOND))
    assert second.path == tmp_path
    assert (second.moved.run_id, second.moved.path) == ("a", tmp_path / "runs" / FIRST)
    assert tree(tmp_path) == {
        f"runs/{FIRST}/{file}": text
        for file, text in {
            "metrics.csv": "1", "config.json": "{}", "images/x.png": "i", "artifacts/m/w.bin": "w",
        }.items()
    }  # fmt: skip
    assert not (tmp_path / "images").exists()
    assert Manifest.read(tmp_path).run_id == "b"


def test_a_base_always_holds_the_latest_run_and_each_earlier_one_keeps_its_files(tmp_path):
    for number, name in enumerate((FIRST, SECOND, THIRD)):
        assert claimed(tmp_path, str(number), name) == tmp_path
        write(tmp_path, str(number), metrics_csv=str(number))
        close_directory(tmp_path, str(number))
    assert tree(tmp_path) == {
        "metrics.csv": "2", f"runs/{FIRST}/metrics.csv": "0", f"runs/{SECOND}/metrics.csv": "1",
    }  # fmt: skip


def test_while_a_run_is_open_another_goes_to_runs_and_says_so(tmp_path):
    claimed(tmp_path)
    write(tmp_path, metrics_csv="1")
    second = claim_directory(place(tmp_path, "b", SECOND))
    assert second.path == tmp_path / "runs" / SECOND
    assert "run a in" in second.notice
    assert str(second.path) in second.notice
    assert (tmp_path / "runs" / "latest").readlink() == Path(SECOND)
    assert tree(tmp_path) == {"metrics.csv": "1"}


def test_a_daemon_knows_better_than_the_manifest_whether_a_run_is_closed(tmp_path):
    claimed(tmp_path / "ended")
    ended = claim_directory(place(tmp_path / "ended", "b", SECOND), is_closed=lambda _: True)
    assert ended.path == tmp_path / "ended"
    assert Manifest.read(ended.moved.path).closed
    claimed(tmp_path / "live")
    close_directory(tmp_path / "live", "a")
    live = claim_directory(place(tmp_path / "live", "b", SECOND), is_closed=lambda _: False)
    assert live.path == tmp_path / "live" / "runs" / SECOND


def test_a_script_that_was_killed_leaves_a_run_that_may_be_moved(tmp_path):
    claimed(tmp_path, writer=SCRIPT)
    lock = RunLock(tmp_path, CSV_LOCK, "a", 0.0)
    assert claimed(tmp_path, "b", SECOND) == tmp_path / "runs" / SECOND
    lock.release()  # as the kernel does at the end of a process
    assert claimed(tmp_path, "c", THIRD) == tmp_path


@pytest.mark.parametrize("foreign", ["file", "link", "directory"])
def test_a_metrics_file_that_is_no_runs_is_never_changed(tmp_path, foreign):
    metrics = tmp_path / "metrics.csv"
    if foreign == "link":
        metrics.symlink_to("nowhere")
    else:
        metrics.write_text("mine") if foreign == "file" else metrics.mkdir()
    before = metrics.lstat()
    found = claim_directory(place(tmp_path))
    assert found.path == tmp_path / "runs" / FIRST
    assert str(metrics) in found.notice
    assert (metrics.lstat().st_ino, metrics.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_files_that_the_manifest_does_not_name_stay_where_they_are(tmp_path):
    (tmp_path / "images").mkdir()
    foreign = {"model.pt": "m", "images/cat.png": "c", "results.csv": "r", "config.json": '{"mine": 1}'}
    for file, text in foreign.items():
        (tmp_path / file).write_text(text)
    claimed(tmp_path)
    write(tmp_path, metrics_csv="1", config_json="{}", images__x_png="i", results_csv="t", tables_csv="t")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "late").write_text("the script's")
    close_directory(tmp_path, "a")
    claimed(tmp_path, "b", SECOND)
    moved = {
        "metrics.csv": "1", "config-a.json": "{}", "images/x.png": "i", "results-a.csv": "t",
        "tables.csv": "t",
    }  # fmt: skip
    stayed = {**foreign, "artifacts/late": "the script's"}
    assert tree(tmp_path) == stayed | {f"runs/{FIRST}/{file}": text for file, text in moved.items()}


def test_a_file_that_a_script_has_replaced_by_its_own_stays(tmp_path):
    claimed(tmp_path)
    own = OwnFiles(tmp_path, "a")
    (config,) = own.claim(["config.json"])
    for data in (b"{}", b'{"lr": 1}'):
        own.announce(config, data)
        config.write_bytes(data)
    config.write_text('{"architectures": ["GPT2"]}')
    close_directory(tmp_path, "a")
    claimed(tmp_path, "b", SECOND)
    assert config.read_text() == '{"architectures": ["GPT2"]}'
    assert OwnFiles(tmp_path, "b").claim(["config.json"]) == [tmp_path / "config-b.json"]


@pytest.mark.parametrize("layout", list(Layout))
def test_a_resumed_run_goes_on_in_its_directory_wherever_it_is(tmp_path, layout):
    first = claimed(tmp_path, layout=layout, project="p")
    close_directory(first, "a")
    other = claim_directory(place(tmp_path, "b", SECOND, layout=layout, project="p"))
    expected = tmp_path / "runs" / FIRST if layout is Layout.BASE else first
    again = claim_directory(place(tmp_path, "a", THIRD, layout=layout, project="p", resumes=True))
    assert again.path == expected
    assert not Manifest.read(expected).closed
    assert find_directory(place(tmp_path, "a", THIRD, layout=layout, project="p", resumes=True)) == expected
    assert Manifest.read(other.path).run_id == "b"


def test_a_run_that_is_found_again_keeps_its_directorys_id_over_a_move(tmp_path):
    first = claim_directory(place(tmp_path))
    close_directory(tmp_path, "a")
    claimed(tmp_path, "b", SECOND)
    again = claim_directory(place(tmp_path), known=KnownDirectory(tmp_path, first.directory_id))
    assert (again.path, again.directory_id) == (tmp_path / "runs" / FIRST, first.directory_id)


def test_a_run_whose_manifest_was_removed_keeps_its_directory(tmp_path):
    first = claim_directory(place(tmp_path))
    (tmp_path / "metrics.csv").write_text("1")
    (tmp_path / ".tracker-run").unlink()
    again = claim_directory(place(tmp_path), known=KnownDirectory(tmp_path, first.directory_id))
    assert (again.path, again.directory_id) == (first.path, first.directory_id)
    assert Manifest.read(tmp_path).files == {"metrics.csv"}


def test_a_directory_that_has_the_runs_name_already_is_left_alone(tmp_path):
    (tmp_path / FIRST).mkdir()
    (tmp_path / FIRST / "mine").write_text("x")
    assert claimed(tmp_path, layout=Layout.NAME) == tmp_path / f"{FIRST}-a"
    assert claimed(tmp_path, "b", layout=Layout.NAME) == tmp_path / f"{FIRST}-b"
    (tmp_path / "out" / "runs" / FIRST).mkdir(parents=True)
    (tmp_path / "out" / "runs" / FIRST / "mine").write_text("x")
    claimed(tmp_path / "out")
    close_directory(tmp_path / "out", "a")
    moved = claim_directory(place(tmp_path / "out", "b", SECOND)).moved
    assert moved.path == tmp_path / "out" / "runs" / f"{FIRST}-a"


def test_something_else_named_latest_is_left_alone(tmp_path):
    for foreign in ("directory", "file", "link"):
        base = tmp_path / foreign
        base.mkdir()
        latest = base / "latest"
        if foreign == "directory":
            latest.mkdir()
        elif foreign == "file":
            latest.write_text("mine")
        else:
            latest.symlink_to(tmp_path)
        claimed(base, layout=Layout.NAME)
        assert latest.is_dir() or latest.read_text() == "mine"
        assert not latest.is_symlink() or latest.readlink() == tmp_path


def test_a_manifest_that_cannot_be_read_belongs_to_somebody_else(tmp_path):
    for number, text in enumerate(("", "a run\n", "[]\n", '{"run_id": 3}\n')):
        base = tmp_path / str(number)
        base.mkdir()
        (base / ".tracker-run").write_text(text)
        assert claimed(base) == base / "runs" / FIRST
        assert (base / ".tracker-run").read_text() == text


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path):
    claimed(tmp_path)
    with (tmp_path / ".tracker-run").open("a") as file:
        file.write('{"files": ["met')
    add_files(tmp_path, ["x.csv"])
    assert Manifest.read(tmp_path).files == {"metrics.csv", "x.csv"}


def test_launches_at_the_same_moment_never_share_a_directory(tmp_path):
    claimed(tmp_path, "before", FIRST)
    write(tmp_path, "before", metrics_csv="0")
    close_directory(tmp_path, "before")
    barrier, places = threading.Barrier(8), []

    def claim(number):
        barrier.wait()
        places.append(claimed(tmp_path, f"run-{number}", SECOND))

    threads = [threading.Thread(target=claim, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 8
    assert tmp_path in places
    assert tree(tmp_path) == {f"runs/{FIRST}/metrics.csv": "0"}


def test_where_file_locks_do_not_work_no_run_is_moved(tmp_path, monkeypatch):
    claimed(tmp_path)
    close_directory(tmp_path, "a")

    class HostLock(DirectoryLock):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.is_shared = False

    monkeypatch.setattr(run_directory, "DirectoryLock", HostLock)
    assert claimed(tmp_path, "b", SECOND) == tmp_path / "runs" / SECOND


def test_a_lock_that_is_not_released_ends_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr("tracker_protocol.limits.RUN_DIRECTORY_LOCK_WAIT_S", 0.1)
    DirectoryLock(tmp_path, "run", 0.0)
    with pytest.raises(BackendUnavailable, match="locked by another process"):
        claimed(tmp_path)


def test_files_that_cannot_be_moved_leave_the_base_to_their_run(tmp_path, monkeypatch):
    claimed(tmp_path)
    write(tmp_path, metrics_csv="1")
    close_directory(tmp_path, "a")

    def refuse(source, goal):
        raise OSError(18, "Invalid cross-device link", str(source))

    monkeypatch.setattr("tracker_daemon.files.run_move._rename", refuse)
    second = claim_directory(place(tmp_path, "b", SECOND))
    assert second.path == tmp_path / "runs" / SECOND
    assert "cannot be moved" in second.notice
    assert tree(tmp_path) == {"metrics.csv": "1"}


@pytest.mark.parametrize("label", ["../escape", "a/b", ".hidden", "..", "", "x" * 300, "naïve ☃", "a\nb\0c"])
def test_names_are_safe_and_bounded(label):
    name = run_directory_name(time.time_ns(), label)
    assert len(name) <= 100
    assert name.isascii()
    assert all(c.isalnum() or c in "._-" for c in name)
    assert name[8] == name[15] == "-"
    longer = with_id(name, "id/" * 100)
    assert len(longer) <= 100
    assert longer != with_id(name, "id/" * 101)


# ---- crashes ------------------------------------------------------------------------------------------

KILLED = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from tracker_daemon.files.run_directory import RunPlace, claim_directory

def counted(call, left=[0]):
    def count(*arguments, **named):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return count

def claim(base, kill_at):
    counted.__defaults__[0][0] = kill_at
    for name in ("rename", "mkdir", "write", "pwrite", "link", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    claim_directory(RunPlace(base, "b", "20260102-030406-train"))
    os._exit(0)

root = Path(sys.argv[1])
for kill_at in itertools.count(1):
    base = root / str(kill_at)
    shutil.copytree(root / "before", base)
    child = os.fork() or claim(base, kill_at)
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        break
"""


def earlier_run(base):
    claimed(base)
    write(
        base, metrics_csv="1", config_json="{}", images__x_png="i", images__y_png="j",
        artifacts__m__w_bin="w", table_csv="t",
    )  # fmt: skip
    (base / ".metrics.csv.generation-7").write_text("half")
    (base / ".table.csv.new").write_text("half")
    (base / "images" / "cat.png").write_text("the user's")
    close_directory(base, "a")


def test_a_move_that_is_killed_at_any_call_ends_the_same_way(tmp_path):
    earlier_run(tmp_path / "whole")
    claimed(tmp_path / "whole", "b", SECOND)
    expected = tree(tmp_path / "whole")
    assert expected["images/cat.png"] == "the user's"
    assert len(expected) == 9
    earlier_run(tmp_path / "before")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True)
    killed = sorted(tmp_path.glob("[0-9]*"), key=lambda path: int(path.name))
    assert tree(killed.pop()) == expected, "the last one was not killed"
    assert len(killed) > 15
    for base in killed:
        assert claimed(base, "b", SECOND) == base
        assert tree(base) == expected


def test_a_run_that_is_resumed_after_a_killed_move_has_all_its_files(tmp_path):
    earlier_run(tmp_path / "before")
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=True)
    files = {name: text for name, text in tree(tmp_path / "before").items() if name != "images/cat.png"}
    places = set()
    for base in tmp_path.glob("[0-9]*"):
        directory = claimed(base, "a", THIRD, resumes=True)
        places.add(directory.relative_to(base).as_posix())
        found = tree(directory)
        assert {name: found[name] for name in files} == files
    assert places == {".", f"runs/{FIRST}"}
