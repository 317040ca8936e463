"""What a tick brings forth becomes entries: what was logged at once is one of them."""

from tracker_daemon.aggregation.shared.fold import TickOutput
from tracker_daemon.aggregation.shared.histograms import HistogramRow, histogram_rows
from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.outbox.entries import EntryKind
from tracker_daemon.recording.outbox_entries import write_outbox


class Outbox:
    def __init__(self):
        self.entries = []

    def put_outbox(self, run, kind, payload, records):
        self.entries.append((kind, payload))
        return len(self.entries)


def histogram(key, step=0, time_ns=0, **fields):
    return Item("histogram", key, step, time_ns, "{}", **fields)


def test_histograms_of_one_call_share_an_entry_and_other_items_do_not():
    items = (
        histogram("a"),
        histogram("b"),
        Item("table", "t", 0, 0, "{}"),
        histogram("c"),
        histogram("a", 1),
    )
    outbox = Outbox()
    write_outbox(outbox, 1, TickOutput((), (), (), items))
    kinds = [kind for kind, _ in outbox.entries]
    assert kinds == [EntryKind.HISTOGRAMS, EntryKind.HISTOGRAMS, EntryKind.ITEM]
    rows = [HistogramRow.from_bytes(payload) for kind, payload in outbox.entries[:2]]
    assert [(row.step, list(row.documents)) for row in rows] == [(0, ["a", "b", "c"]), (1, ["a"])]
    assert [item.key for row in rows for item in row.items()] == ["a", "b", "c", "a"]


def test_histograms_of_different_calls_ranks_and_attempts_are_kept_apart():
    items = [histogram("a"), histogram("a", time_ns=1), histogram("a", rank=1), histogram("a", attempt=2)]
    assert len(list(histogram_rows(items))) == 4


def test_an_item_with_contents_is_no_histogram_whatever_its_kind():
    assert list(histogram_rows([histogram("a", contents=(Content("0" * 64, 1, ""),))])) == []
