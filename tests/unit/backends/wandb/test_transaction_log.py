"""Reading a .wandb file: complete records are read once, and an incomplete one later."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker_daemon.backends.wandb.transaction_log import BLOCK_BYTES, LoggedConfig, LoggedRow, TransactionLog
from tracker_daemon.errors import BackendRefused

HEADER = b":W&B\xe1\xbe\x00"


def empty_record():
    """A record of W&B's own class. To import it takes a second, so only tests that need it do."""
    return pytest.importorskip("wandb.proto.wandb_internal_pb2").Record()


def history(step, size=0):
    record = empty_record()
    record.history.step.num = step
    for name, value in (("loss", "NaN"), ("_step", str(step)), ("note", f'"{"x" * size}"')):
        item = record.history.item.add()
        item.nested_key.append(name)
        item.value_json = value
    return record.SerializeToString()


def framed(payloads):
    """The file that holds these records."""
    data = bytearray(HEADER)
    for payload in payloads:
        begun, rest = False, payload
        while True:
            left = BLOCK_BYTES - len(data) % BLOCK_BYTES
            if left < 7:
                data += bytes(left)
                continue
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = {(False, False): 1, (False, True): 2, (True, True): 3, (True, False): 4}[begun, bool(rest)]
            body = bytes([kind]) + part
            data += struct.pack("<IH", zlib.crc32(body), len(part)) + body
            begun = True
            if not rest:
                break
    return bytes(data)


def steps(log):
    return [found.step for found in log.read() if isinstance(found, LoggedRow)]


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 3 * BLOCK_BYTES), max_size=6),
    cuts=st.lists(st.floats(0, 1), max_size=5),
)
def test_a_file_that_grows_is_read_once_wherever_it_is_looked_at(tmp_path_factory, sizes, cuts):
    path = tmp_path_factory.mktemp("log") / "run-a.wandb"
    whole = framed([history(step, size) for step, size in enumerate(sizes)])
    log, found = TransactionLog(path), []
    for cut in [*sorted(cuts), 1.0]:
        path.write_bytes(whole[: round(cut * len(whole))])
        found += steps(log)
    assert found == list(range(len(sizes)))
    assert log.rows == len(sizes)


@pytest.mark.parametrize("left", range(9))
def test_the_end_of_a_block_is_no_record(tmp_path, left):
    path = tmp_path / "run-a.wandb"
    filler = BLOCK_BYTES - len(HEADER) - 7 - left
    base = len(history(0, filler))
    payloads = [history(0, filler - (base - filler)), history(1)]
    path.write_bytes(framed(payloads))
    assert steps(TransactionLog(path)) == [0, 1]


def test_a_damaged_record_ends_what_is_read(tmp_path):
    path = tmp_path / "run-a.wandb"
    whole = bytearray(framed([history(0), history(1)]))
    whole[-3] ^= 1
    path.write_bytes(whole)
    assert steps(TransactionLog(path)) == [0]


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "run-a.wandb"
    path.write_bytes(b"something else")
    with pytest.raises(BackendRefused, match="run-a"):
        steps(TransactionLog(path))


def test_a_file_that_is_not_there_is_empty(tmp_path):
    assert steps(TransactionLog(tmp_path / "run-a.wandb")) == []


def test_rows_and_configurations_come_as_they_were_logged(tmp_path):
    run, change = empty_record(), empty_record()
    for record in (run.run, change):
        for key, value in (("lr", "0.5"), ("_wandb", "{}"), ("model", '{"layers":2}')):
            item = record.config.update.add()
            item.key, item.value_json = key, value
    path = tmp_path / "run-a.wandb"
    path.write_bytes(framed([run.SerializeToString(), change.SerializeToString(), history(4)]))
    log = TransactionLog(path)
    first, second, row = log.read()
    assert first == LoggedConfig({"lr": 0.5, "model": {"layers": 2}}, initial=True)
    assert second.values == first.values
    assert set(row.values) == {"loss", "note"}
    assert (log.rows, log.config_changes) == (1, 1)
