"""What is logged beside metrics, as it is at the call; whatever cannot be taken is named, never raised."""

from __future__ import annotations

import json
import logging
import os
import threading
import zlib
from datetime import date
from io import BytesIO
from struct import unpack

import pytest

from tests.support.devices import KINDS, make_device
from tracker_client.media.artifacts import Directory
from tracker_client.media.images import image_content, image_contents
from tracker_client.media.png import encode_png
from tracker_client.media.tables import make_table
from tracker_client.staging.sources import FileSource, SourceUnusable, digest_of
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

np = pytest.importorskip("numpy")


def pixels(png):
    """Decode what ``encode_png`` makes: (width, height, colour type, the pixels' bytes)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, header = 8, b"", None
    while at < len(png):
        (length,) = unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        header = unpack(">IIBBBBB", body) if kind == b"IHDR" else header
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    width, height, depth, colour, *_ = header
    assert depth == 8
    raw = zlib.decompress(data)
    row = len(raw) // height
    assert all(raw[line * row] == 0 for line in range(height))
    return width, height, colour, b"".join(raw[line * row + 1 : (line + 1) * row] for line in range(height))


def encoded(image):
    source = image_content(image).source
    source.open()
    return b"".join(source.chunks(0))


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "colour"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_a_png_holds_the_pixels(channels, colour):
    data = bytes(range(2 * 3 * channels))
    assert pixels(encode_png(3, 2, channels, data)) == (3, 2, colour, data)


@pytest.mark.parametrize("wrong", [(3, 2, 5, 30), (3, 2, 3, 17), (0, 2, 3, 0)])
def test_a_png_of_sizes_that_do_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match="are no image"):
        encode_png(*wrong[:3], bytes(wrong[3]))


def test_arrays_of_every_layout_are_the_same_picture():
    hwc = np.arange(2 * 5 * 3, dtype="uint8").reshape(2, 5, 3)
    expected = (5, 2, 2, hwc.tobytes())
    assert pixels(encoded(hwc)) == expected
    assert pixels(encoded(hwc.transpose(2, 0, 1))) == expected
    assert pixels(encoded(hwc[:, :, 0])) == (5, 2, 0, hwc[:, :, 0].tobytes())
    assert pixels(encoded(np.asfortranarray(hwc))) == expected


def test_floats_become_the_nearest_byte_and_booleans_black_and_white():
    assert pixels(encoded(np.array([[0.0, 0.5, 1.0]])))[3] == bytes([0, 128, 255])
    assert pixels(encoded(np.array([[True, False]])))[3] == bytes([255, 0])
    assert pixels(encoded(np.array([[0.25]], "float16")))[3] == bytes([64])


def test_a_tensor_is_taken_as_it_was_at_the_call():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3, 4, 3)  # ambiguous: a tensor's channels come first
    content = image_content(tensor)
    tensor.fill_(1)
    content.source.open()
    width, height, _, data = pixels(b"".join(content.source.chunks(0)))
    assert (width, height, set(data)) == (3, 4, {0})
    assert pixels(encoded(torch.ones(2, 2, dtype=torch.bfloat16)))[3] == bytes([255] * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_on_a_device_is_taken_at_the_call_and_encoded_once_it_has_arrived(kind, monkeypatch):
    pytest.importorskip("torch")
    device = make_device(kind, monkeypatch)
    tensor = device.tensor([[0, 255]], dtype=device.torch.uint8)
    device.hold()
    source = image_content(tensor).source
    tensor.fill_(7)
    assert not source.ready()
    device.finish_work()
    assert source.ready()
    source.open()
    assert pixels(b"".join(source.chunks(0)))[3] == bytes([0, 255])
    assert device.threads == {threading.get_ident()}
    with device.capture(), pytest.raises(SourceUnusable, match="replay"):
        image_content(tensor)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (np.zeros((2, 2), "int64"), "has no known range of values"),
        (np.full((2, 2), 1.5), "not in"),
        (np.full((2, 2), np.nan), "not in"),
        (np.zeros((8, 5, 2, 3)), "no image"),
        (np.zeros((5, 5, 5)), "no channels"),
        (np.zeros((0, 5)), "no image"),
        (b"text", "no PNG"),
        (object(), "no image"),
        ("/nowhere/x.png", "cannot be read"),
    ],
    ids=[
        "integers",
        "beyond 1",
        "nan",
        "four dimensions",
        "five channels",
        "empty",
        "text",
        "object",
        "path",
    ],
)
def test_what_is_no_image_says_why(image, why):
    with pytest.raises(SourceUnusable, match=why):
        encoded(image)


def test_pictures_figures_bytes_and_paths_are_taken_at_the_call(tmp_path):
    pil = pytest.importorskip("PIL.Image")
    picture = pil.new("RGB", (3, 2), (9, 9, 9))
    content = image_content(picture)
    picture.putpixel((0, 0), (1, 1, 1))
    content.source.open()
    assert pil.open(BytesIO(content.source.data)).getpixel((0, 0)) == (9, 9, 9)

    class Figure:
        def savefig(self, file, **_):
            file.write(encode_png(1, 1, 1, b"x"))

    assert encoded(Figure()) == encode_png(1, 1, 1, b"x")
    path = tmp_path / "photo.JPEG"
    path.write_bytes(b"\xff\xd8\xff rest")
    content = image_content(path)
    path.unlink()
    assert content.source.path == "image.jpeg"
    assert b"".join(content.source.chunks(0)) == b"\xff\xd8\xff rest"


def colours(content):
    content.source.open()
    pil = pytest.importorskip("PIL.Image")
    return np.asarray(pil.open(BytesIO(b"".join(content.source.chunks(0))))).tolist()


@pytest.mark.parametrize(
    ("values", "expected", "scaled"),
    [
        (np.array([[0, 7], [255, 3]], np.int32), [[0, 7], [255, 3]], False),
        (np.array([[0, 1000], [2000, 4000]], np.int32), [[0, 64], [128, 255]], True),
        (np.array([[0.0, 0.5], [1.0, 0.25]], np.float32), [[0, 128], [255, 64]], False),
        (np.array([[-3.0, 2.0], [1.0, 0.0]], np.float32), [[0, 255], [204, 153]], True),
    ],
    ids=["integers of a byte", "integers", "floats to 1", "floats"],
)
def test_a_picture_of_wide_values_is_scaled_to_eight_bits_and_says_so(values, expected, scaled):
    pil = pytest.importorskip("PIL.Image")
    notes = []
    assert colours(image_content(pil.fromarray(values), notes.append)) == expected
    assert ["to 8 bits" in note for note in notes] == [True] * scaled


def test_a_list_of_images_and_a_stack_of_them_are_images_with_their_captions(tmp_path):
    black = np.zeros((2, 3, 3), np.uint8)
    notes = []
    taken = image_contents([black, black + 9], ["first"], notes.append)
    assert [caption for _, caption in taken] == ["first", None]
    assert [pixels(png_of(content))[:2] for content, _ in taken] == [(3, 2), (3, 2)]
    for stack in (
        np.zeros((4, 2, 5, 3)),
        np.zeros((4, 3, 2, 5)),
        np.zeros((7, 2, 5)),
        np.zeros((4, 2, 5, 1)),
    ):
        taken = image_contents(stack, "all", notes.append)
        assert len(taken) == len(stack)
        assert {pixels(png_of(content))[:2] for content, _ in taken} == {(5, 2)}
        assert {caption for _, caption in taken} == {"all"}
    torch = pytest.importorskip("torch")
    assert len(image_contents(torch.zeros(6, 3, 4, 4), None, notes.append)) == 6
    assert notes == []
    assert len(image_contents([black] * 200, None, notes.append)) == limits.IMAGES_PER_ITEM_MAX
    assert notes == ["of 200 images in one call the first 108 are recorded"]


def png_of(content):
    content.source.open()
    return b"".join(content.source.chunks(0))


# ---- tables --------------------------------------------------------------------------------------


def document(table):
    return json.loads(table.encode())


def test_a_table_of_rows_is_taken_at_the_call_and_its_cells_become_json():
    rows = [
        [1, np.float32(2.5), None, "é", True],
        [np.array([3]), np.array([1, 2]), float("nan"), b"b", {"a": 1}],
    ]
    table = make_table(list("abcde"), rows)
    rows[0][0] = "changed"
    found = document(table)
    assert found["columns"] == list("abcde")
    assert found["data"][0] == [1, 2.5, None, "é", True]
    assert found["data"][1][0] == 3
    assert found["data"][1][1] == "[1 2]"
    assert found["data"][1][2] != found["data"][1][2]
    assert found["data"][1][3:] == ["b'b'", "{'a': 1}"]


def test_rows_may_be_dicts_and_data_a_dict_of_columns():
    rows = [{"a": 1, "b": "x"}, {"b": "y", "c": None}, [3]]
    expected = {"columns": ["a", "b", "c"], "data": [[1, "x", None], [None, "y", None], [3, None, None]]}
    for table in (make_table(None, rows), make_table(rows, None), make_table(["a", "b", "c"], iter(rows))):
        assert document(table) == expected
    chosen = make_table(["b"], rows[:2])
    assert document(chosen) == {"columns": ["b"], "data": [["x"], ["y"]]}
    assert chosen.notes == ["cells of rows that have no column are left out: a, c"]
    by_column = make_table({"a": [1, 2], "b": ["x"]}, None)
    assert document(by_column) == {"columns": ["a", "b"], "data": [[1, "x"], [2, None]]}


def test_ragged_rows_are_recorded_and_said():
    table = make_table(["a", "b"], [[1], [1, 2], [1, 2, 3]])
    assert document(table) == {
        "columns": ["a", "b", "column 3"], "data": [[1, None, None], [1, 2, None], [1, 2, 3]],
    }  # fmt: skip
    assert table.notes == [
        "of 3 columns 2 have names; the others are numbered",
        "rows with fewer cells than the table has columns: 2; their missing cells are empty",
    ]


def test_times_are_iso_texts_and_missing_values_are_empty():
    pandas = pytest.importorskip("pandas")
    at = np.datetime64("2026-01-02T03:04:05", "ns")
    cells = [at, np.datetime64("NaT"), pandas.Timestamp(at), pandas.NaT, pandas.NA, np.ma.masked]
    cells += [date(2026, 1, 2), np.longdouble("0.5"), np.timedelta64(5, "ns")]
    assert document(make_table(list("abcdefghi"), [cells]))["data"] == [
        ["2026-01-02T03:04:05.000000000", None, "2026-01-02T03:04:05", None, None, None,
         "2026-01-02", 0.5, "5 nanoseconds"],
    ]  # fmt: skip
    frame = pandas.DataFrame({"t": pandas.to_datetime(["2026-01-02", None])})
    assert document(make_table(None, frame))["data"] == [["2026-01-02T00:00:00"], [None]]


def test_a_cell_that_is_an_image_is_a_content_of_its_own_and_a_broken_one_is_said():
    pil = pytest.importorskip("PIL.Image")
    wide = pil.fromarray(np.full((2, 2), np.nan, np.float32))
    picture = pil.new("RGB", (3, 2), (9, 9, 9))
    table = make_table(["name", "image"], [["a", wide], ["b", picture], ["c", "text"]])
    picture.putpixel((0, 0), (1, 1, 1))
    refused = []
    first, *images = table.sources(refused.append)
    first.open()
    data = json.loads(b"".join(first.chunks(0)))["data"]
    assert data == [["a", None], ["b", {"image": 1}], ["c", "text"]]
    (source,) = images
    assert pil.open(BytesIO(b"".join(source.chunks(0)))).getpixel((0, 0)) == (9, 9, 9)
    assert len(refused) == 1
    assert table.held_bytes > 2 * 3 * 64


def test_a_table_of_wandb_keeps_its_images():
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("PIL")
    images = [wandb.Image(np.zeros((2, 2, 3), np.uint8), caption="c"), None]
    table = make_table(None, wandb.Table(columns=["i"], data=[[image] for image in images]))
    first, image = table.sources(print)
    first.open()
    assert json.loads(b"".join(first.chunks(0))) == {
        "columns": ["i"], "data": [[{"image": 1, "caption": "c"}], [None]],
    }  # fmt: skip
    assert image.path == "1.png"


def test_frames_bring_their_columns():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": [1, 2], "y": ["a", "b"]})
    for table in (make_table(None, frame), make_table(frame, None), make_table(["x", "y"], frame)):
        assert document(table) == {"columns": ["x", "y"], "data": [[1, "a"], [2, "b"]]}
    arrow = pytest.importorskip("pyarrow").table({"x": [1], "y": [2.5]})
    assert document(make_table(None, arrow)) == {"columns": ["x", "y"], "data": [[1, 2.5]]}


def test_a_table_that_is_too_long_is_cut_and_says_so(monkeypatch):
    monkeypatch.setattr(limits, "TABLE_CELLS_MAX", 10)
    table = make_table(["a", "b"], [[1, 2]] * 8)
    assert (table.row_count, table.cut_from) == (5, 8)
    assert len(document(table)["data"]) == 5


@pytest.mark.parametrize(
    ("columns", "data", "why"),
    [
        (["a"], ["text"], "a row of a table"),
        (["a"], None, "not the rows"),
        ([], [], "columns"),
        (None, [[1]], "list of its columns"),
        ("ab", [[1, 2]], "list of its columns"),
    ],
)
def test_what_is_no_table_says_why(columns, data, why):
    with pytest.raises(SourceUnusable, match=why):
        make_table(columns, data)


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_that_is_replaced_or_deleted_is_what_it_was(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old" * 100)
    source = FileSource("f", str(path), keep_open=True)
    digest = digest_of(source)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(path)
    assert source.open() == 300
    assert digest_of(source) == digest
    path.unlink()
    source.check()
    source.close()
    source.close()


def test_a_file_that_is_written_into_is_refused_with_advice(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old" * 100)
    source = FileSource("f", str(path), keep_open=False)
    os.utime(path, (1, 1))
    with pytest.raises(SourceUnusable, match="renaming it into place"):
        source.open()
    path.write_bytes(b"old" * 100)
    source = FileSource("f", str(path), keep_open=True)
    os.truncate(path, 10)
    with pytest.raises(SourceUnusable, match="was written to"):
        digest_of(source)
    source.close()


def test_a_directory_is_its_files_and_odd_ones_are_left_out_by_name(tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with caplog.at_level(logging.WARNING, "tracker_client"):
        sources = list(Directory(str(tmp_path), "label", Refusals()).sources())
    assert [source.path for source in sources] == ["b", "link", "sub/a"]
    told = " ".join(record.getMessage() for record in caplog.records)
    assert all(name in told for name in ("dangling", "loop", "fifo"))


def test_a_directory_of_too_many_files_or_none_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SourceUnusable, match="no files"):
        list(Directory(str(tmp_path), "label", Refusals()).sources())
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(limits, "CONTENTS_PER_ITEM_MAX", 1)
    with pytest.raises(SourceUnusable, match="archive"):
        list(Directory(str(tmp_path), "label", Refusals()).sources())
