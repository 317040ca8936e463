"""The CSV backend's lane for files: tables, images and artifacts, each once after a redelivery."""

from __future__ import annotations

import hashlib
import json

import pytest

from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.errors import BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


@pytest.fixture
def run(tmp_path):
    return RunDescription("run", "p", "n", tmp_path / "out", contents=tmp_path / "contents")


def content(run, data, path):
    digest = hashlib.sha256(data).hexdigest()
    place = run.contents / digest[:2] / digest
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return Content(digest, len(data), path)


def entry(number, item):
    return OutboxEntry(number, EntryKind.FILES, item.to_bytes())


def table(run, columns, rows):
    return content(run, json.dumps({"columns": columns, "data": rows}).encode(), "table.json")


def opened(run):
    metrics = CsvBackend()
    metrics.open(run, None)
    metrics.close()
    files = metrics.files_backend()
    files.open(run, None)
    return files


def deliver(backend, *entries):
    backend.deliver(entries, lambda _: None)


def files(directory):
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_a_table_logged_again_takes_the_place_of_the_other(run):
    backend = opened(run)
    deliver(backend, entry(1, Item("table", "results", 0, 0, "{}", (table(run, ["a"], [[1], [2]]),))))
    deliver(
        backend, entry(2, Item("table", "results", 1, 0, "{}", (table(run, ["a", "b"], [["x,y", None]]),)))
    )
    assert (run.outdir / "results.csv").read_text() == 'a,b\n"x,y",\n'


def test_images_of_one_key_and_step_stand_side_by_side_with_their_captions(run):
    backend = opened(run)
    image = content(run, b"png bytes", "image.png")
    for number in (1, 2, 2):
        document = json.dumps({"caption": f"number {number}"})
        deliver(backend, entry(number, Item("image", "x", 7, 0, document, (image,))))
    assert files(run.outdir / "images") == ["x.7.1.png", "x.7.1.txt", "x.7.2.png", "x.7.2.txt"]
    assert (run.outdir / "images" / "x.7.2.txt").read_text() == "number 2"


def test_names_that_differ_by_case_alone_are_two_files_and_the_first_keeps_its_name(run):
    backend = opened(run)
    for number, key in enumerate(("Report", "report", "my table", "Report", "report"), 1):
        deliver(backend, entry(number, Item("table", key, 0, 0, "{}", (table(run, ["n"], [[number]]),))))
        artifact = Item("artifact", key, 0, 0, "{}", (content(run, b"a", "a.txt"),))
        deliver(backend, entry(number + 10, artifact))
    assert (run.outdir / "Report.csv").read_text() == "n\n4\n"
    assert (run.outdir / "my table.csv").read_text() == "n\n3\n"
    (other,) = run.outdir.glob("report-*.csv")
    assert other.read_text() == "n\n5\n"
    labels = sorted(path.name for path in (run.outdir / "artifacts").iterdir())
    assert labels == ["Report", "my table", other.stem]


def test_the_images_of_one_entry_lie_side_by_side_each_with_its_caption(run):
    images = tuple(content(run, data, "image.png") for data in (b"first", b"second"))
    deliver(opened(run), entry(3, Item("image", "x", 7, 0, '{"captions": ["one", null]}', images)))
    assert files(run.outdir / "images") == ["x.7.3.1.png", "x.7.3.1.txt", "x.7.3.2.png"]
    assert (run.outdir / "images" / "x.7.3.2.png").read_bytes() == b"second"


def test_an_image_in_a_table_is_a_file_and_the_cell_its_path(run):
    rows = [["a", {"image": 1, "caption": "c"}], ["b", {"image": 2}], ["c", None]]
    contents = (table(run, ["name", "image"], rows), *(content(run, b, "i.png") for b in (b"1", b"2")))
    deliver(opened(run), entry(4, Item("table", "shown", 7, 0, "{}", contents)))
    assert (run.outdir / "shown.csv").read_text().splitlines() == [
        "name,image", "a,images/shown.7.4.1.png", "b,images/shown.7.4.2.png", "c,",
    ]  # fmt: skip
    assert (run.outdir / "images" / "shown.7.4.2.png").read_bytes() == b"2"


def test_an_artifact_keeps_its_tree_and_stays_within_its_directory(run):
    backend = opened(run)
    contents = (content(run, b"a", "a.txt"), content(run, b"b", "sub/b.txt"))
    for number in (1, 1):
        deliver(backend, entry(number, Item("artifact", "../../evil", 0, 0, "{}", contents)))
    (directory,) = (run.outdir / "artifacts").iterdir()
    assert files(directory) == ["a.txt", "sub/b.txt"]
    made = [".tracker-run", f"artifacts/{directory.name}/a.txt", f"artifacts/{directory.name}/sub/b.txt"]
    assert files(run.outdir) == sorted(made)
    assert sorted(path.name for path in run.outdir.parent.iterdir()) == ["contents", "out"]


def test_what_somebody_edits_is_not_what_others_are_given(run):
    backend = opened(run)
    image = content(run, b"png bytes", "image.png")
    deliver(backend, entry(1, Item("image", "x", 7, 0, "{}", (image,))))
    (run.outdir / "images" / "x.7.1.png").write_bytes(b"edited")
    assert (run.contents / image.sha256[:2] / image.sha256).read_bytes() == b"png bytes"


def test_a_content_that_is_gone_is_set_aside_and_other_kinds_are_skipped(run):
    backend = opened(run)
    with pytest.raises(PoisonEntry, match="log it again"):
        deliver(backend, entry(1, Item("image", "x", 7, 0, "{}", (Content("ab" * 32, 3, "image.png"),))))
    with pytest.raises(PoisonEntry, match="holds no table"):
        deliver(backend, entry(1, Item("table", "x", 7, 0, "{}", (content(run, b"[]", "table.json"),))))
    with pytest.raises(PoisonEntry):
        deliver(backend, OutboxEntry(1, EntryKind.FILES, b"no item"))
    deliver(backend, entry(1, Item("hologram", "x", 7, 0, "{}", (content(run, b"?", "h"),))))
    deliver(backend, OutboxEntry(2, EntryKind.END, b"{}"))


def test_it_waits_for_the_lane_that_chooses_the_directory(run):
    with pytest.raises(BackendUnavailable, match="no directory"):
        CsvBackend().files_backend().open(run, None)
