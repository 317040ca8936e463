"""Own rows: numbers that mean something for their rank alone. Nobody waits, nothing is computed."""

from tests.support.aggregation.scenario import Scenario
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.wire.batches import decode_batch
from tracker_protocol.v1 import tracker_pb2 as pb

NORM = "gradients/fc.weight/norm"
MEAN = "gradients/fc.weight/mean"


def test_own_values_join_the_record_of_their_step_and_nobody_is_waited_for():
    run = Scenario(world_size=4)
    run.log(0, step=3, loss=1.0)
    run.log_own(0, 3, {NORM: 2.0, MEAN: 0.5})
    run.tick()
    for rank in (1, 2, 3):
        run.log(rank, step=3, loss=1.0)
    run.tick()
    (record,) = run.records
    assert record[NORM] == 2.0
    assert record[MEAN] == 0.5
    assert record["loss/mean"] == 1.0
    assert not any(name.startswith((f"{NORM}/", f"{MEAN}/")) for name in record.cells)


def test_own_values_come_from_the_primary_and_from_ranks_whose_items_are_recorded():
    run = Scenario(world_size=4, primary=1, items="2", record="3")
    for rank in range(4):
        run.log_own(rank, 0, {NORM: float(rank)})
    run.tick()
    cells = {name: value for record in run.records for name, value in record.cells.items()}
    assert cells == {NORM: 1.0, f"{NORM}/rank2": 2.0}


def test_own_values_that_are_logged_again_at_a_step_are_a_further_occurrence():
    run = Scenario(world_size=1)
    run.log_own(0, 5, {NORM: 1.0})
    run.log_own(0, 5, {NORM: 2.0})
    run.log_own(0, 6, {NORM: 3.0})
    run.tick()
    assert [(record.step, record.occurrence, record[NORM]) for record in run.records] == [
        (5, 0, 1.0), (5, 1, 2.0), (6, 0, 3.0),
    ]  # fmt: skip


def test_where_the_daemon_computes_a_name_itself_its_value_wins():
    run = Scenario(world_size=2)
    for rank in (0, 1):
        run.log(rank, step=0, x=float(rank))
    run.tick()
    for rank in (0, 1):
        run.log(rank, step=1, x=float(rank))
    run.log_own(0, 1, {"x/mean": 99.0})
    run.tick()
    assert run.row(1)["x/mean"] == 0.5


def test_a_block_says_whether_it_is_own():
    plain, own = pb.Block(keys=[0]), pb.Block(keys=[0], own=True)
    for block in (plain, own):
        block.steps = block.times = block.rows = block.values = bytes(8)
    body = pb.BatchBody(names=["a"], blocks=[plain, own]).SerializeToString()
    assert [rows.own for rows in decode_batch(body, 0).rows] == [False, True]


def test_own_values_that_wait_for_their_record_survive_a_snapshot_and_so_does_their_occurrence():
    run = Scenario(world_size=2)
    run.log(0, step=5, loss=1.0)
    run.log_own(0, 5, {NORM: 1.0})
    run.tick()
    assert run.records == []
    run.fold = snapshot.load(snapshot.dump(run.fold), run.rules)
    run.log_own(0, 5, {NORM: 2.0})
    run.log(1, step=5, loss=1.0)
    run.tick()
    assert [(record.occurrence, record[NORM]) for record in run.records] == [(0, 1.0), (1, 2.0)]
