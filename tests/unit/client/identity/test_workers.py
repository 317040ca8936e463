"""Whether a process is a rank, or a child of a rank that has inherited the rank's environment."""

import json
import subprocess
import sys
import textwrap

import pytest

from tracker_client.identity.mark import SET_UP_BY_VARIABLE, Mark, find_mark
from tracker_client.identity.process import identify
from tracker_client.identity.rank import ALONE, RankOverrides
from tracker_client.identity.workers import Standing, standing_of

PARENT, SELF = 12, 34
TORCHRUN = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "r", "MASTER_PORT": "1",
}  # fmt: skip


class Process:
    """``multiprocessing.process`` in a worker; ``inheriting`` while the worker imports the main module."""

    def __init__(self, *, inheriting: bool) -> None:
        self._inheriting = inheriting

    def current_process(self):
        return self


class Distributed:
    """``torch.distributed`` with a process group."""

    class group:  # noqa: N801 - torch's name
        WORLD = object()

    def is_available(self):
        return True

    is_initialized = is_available

    def get_rank(self):
        return 0

    def get_world_size(self):
        return 4


def of(environ, modules=None, rank=None, launch_id=None, pid=SELF):
    return identify(environ, modules or {}, pid, RankOverrides(rank), launch_id, find_mark(environ, pid))


def standing(environ, modules, rank=None):
    return standing_of(find_mark(environ, SELF), environ, modules, SELF, rank)


def marked(environ, pid=PARENT, **changes):
    """The environment of a process that one with ``environ`` and a tracker has started."""
    found = of(environ, pid=pid)
    mark = Mark.new(environ, pid, rank=found.rank.rank, launch_key=found.launch_key, is_child=found.is_child)
    return {**environ, SET_UP_BY_VARIABLE: mark.text, **changes}


@pytest.mark.parametrize(
    "environ",
    [{}, TORCHRUN, {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}],
)
def test_a_child_that_inherits_its_parents_rank_is_a_launch_of_its_own(environ):
    started = marked(environ)
    first, second = of(started), of(started, pid=SELF + 1)
    for child in (first, second):
        assert child.is_child
        assert (child.rank.rank, child.rank.world_size, child.rank.source) == (0, 1, ALONE)
    assert len({first.launch_key, second.launch_key, of(environ).launch_key}) == 3


def test_a_child_stays_one_at_its_further_set_ups_after_an_exec_and_for_its_own_children():
    child = marked(marked(TORCHRUN), pid=SELF)
    assert of(child, pid=SELF).is_child
    assert of(child, pid=SELF + 1).is_child
    assert not of(marked(TORCHRUN, pid=SELF), pid=SELF).is_child, "a rank sets up a second tracker"


def test_a_child_that_lost_some_of_the_launchers_variables_is_still_a_child():
    started = marked(TORCHRUN)
    del started["RANK"], started["MASTER_PORT"]
    assert of(started).is_child


def test_a_rank_that_the_child_of_a_rank_launches_is_a_rank():
    started = marked({}, **TORCHRUN)
    rank = of(started)
    assert (rank.rank.rank, rank.rank.world_size, rank.is_child) == (1, 2, False)
    assert rank.launch_key == of(TORCHRUN).launch_key


def test_a_process_of_another_rank_belongs_to_the_launch_of_the_rank_that_started_it():
    other = of(marked(TORCHRUN, RANK="0", LOCAL_RANK="0"))
    assert (other.rank.rank, other.launch_key) == (0, of(TORCHRUN).launch_key)


def test_ranks_of_another_group_with_the_same_torchrun_meet_in_a_launch_of_theirs():
    keys = {
        of(marked(TORCHRUN, MASTER_PORT="2", RANK=str(rank), WORLD_SIZE="4")).launch_key for rank in range(4)
    }
    assert len(keys) == 1
    assert of(TORCHRUN).launch_key not in keys


def test_a_single_process_in_a_group_of_its_own_under_torchrun_is_a_child():
    alone = of(marked(TORCHRUN, MASTER_PORT="2", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0"))
    assert alone.is_child
    assert alone.launch_key != of(TORCHRUN).launch_key


def test_a_worker_that_has_joined_a_process_group_is_a_rank_of_it():
    modules = {"torch.distributed": Distributed()}
    keys = {of(marked({}), modules).launch_key, of(marked(TORCHRUN), modules).launch_key}
    assert of(TORCHRUN).launch_key not in keys
    worker = of(marked(TORCHRUN), modules)
    assert (worker.rank.rank, worker.rank.world_size, worker.is_child) == (0, 4, False)


def test_a_process_group_that_a_fork_has_copied_makes_no_rank(monkeypatch):
    monkeypatch.setattr("tracker_client.identity.workers._inherited_group", Distributed.group.WORLD)
    assert of(marked(TORCHRUN), {"torch.distributed": Distributed()}).is_child


def test_a_given_rank_is_the_rank():
    given = of(marked(TORCHRUN), rank=1)
    assert (given.rank.rank, given.is_child) == (1, False)


def test_a_worker_with_another_given_rank_is_a_rank_of_its_parents_launch():
    parent = {"TRACKER_LAUNCH_ID": "l", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    assert of(marked(parent), rank=1).launch_key == of(parent).launch_key == "l"
    assert of(marked(parent), rank=0).launch_key != "l", "the parent has that rank"


def test_the_launch_id_is_a_part_of_a_childs_key_and_not_all_of_it():
    environ = marked({**TORCHRUN, "TRACKER_LAUNCH_ID": "job"})
    keys = {of(environ, launch_id=given, pid=pid).launch_key for pid in (34, 35) for given in (None, "job")}
    assert len(keys) == 2  # each child is a launch, in which its trackers are told apart by their order
    assert all(key.startswith("job/") for key in keys)


def test_a_child_takes_no_run_from_the_environment_that_is_its_parents():
    parent = {**TORCHRUN, "TRACKER_RUN_ID": "train", "WANDB_RUN_ID": "w", "WANDB_RESUME": "must"}
    assert not {"TRACKER_RUN_ID", "WANDB_RUN_ID", "WANDB_RESUME"} & set(of(marked(parent)).environ)
    assert of(marked(parent, TRACKER_RUN_ID="eval")).environ["TRACKER_RUN_ID"] == "eval"
    assert of(marked(TORCHRUN, TRACKER_RUN_ID="given")).environ["TRACKER_RUN_ID"] == "given"


@pytest.mark.parametrize("text", ["", "12", "{}", "[1]", '{"pid": 12}', "null"])
def test_a_text_that_is_no_mark_marks_nothing(text):
    assert Mark.of(text) is None
    assert standing({SET_UP_BY_VARIABLE: text}, {}) is Standing.RANK


def test_a_mark_has_only_variables_that_matter_here():
    environ = marked({**TORCHRUN, "AWS_SECRET_ACCESS_KEY": "no", "WANDB_API_KEY": "no"})
    assert "no" not in json.loads(environ[SET_UP_BY_VARIABLE])["variables"].values()


def test_a_call_in_a_main_module_that_is_imported_again_is_a_copy_of_the_parents():
    importing = {"multiprocessing.process": Process(inheriting=True)}
    for environ in ({}, TORCHRUN, marked(TORCHRUN)):
        assert standing(environ, importing) is Standing.COPY
    assert standing(marked(TORCHRUN), importing, rank=1) is Standing.COPY
    assert standing(marked(TORCHRUN), importing, rank=0) is Standing.RANK
    called = {"multiprocessing.process": Process(inheriting=False)}
    assert standing(marked(TORCHRUN), called) is Standing.CHILD


def test_a_child_finds_its_parents_mark_without_the_parents_environment():
    script = """
        import os, subprocess, sys
        from tracker_client.identity.mark import Mark, find_mark, mark_process
        code = "import os; from tracker_client.identity.mark import find_mark as f; print(f({}, os.getpid()))"
        def child():
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        mark = Mark.new({}, os.getpid(), rank=3, launch_key="k", is_child=False)
        for rank in (100, 3):
            mark = Mark.new({}, os.getpid(), rank=rank, launch_key="k", is_child=False)
            mark_process({}, mark)
            assert child() == f"{mark}\\n", child()
        if os.fork() == 0:
            assert child() == f"{mark}\\n", child()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
