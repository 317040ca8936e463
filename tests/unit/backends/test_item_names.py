"""Names of files: nothing escapes, clobbers or collides, and the same name gives the same file."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.backends.item_names import NAME_MAX_CHARACTERS, hashed_name, plain_name, safe_name

SAFE = re.compile(r"[A-Za-z0-9_(][A-Za-z0-9_.,+=@() -]*")
HOSTILE = [
    "train/x", "../x", "metrics", "config", "CON", "con.txt", "nul", "LPT1", "a" * 300, "🙂", "trailing.",
    "trailing..", " space", "a b", "", ".", "..", "a/../b", "a\\b", "a:b", "A", "a-0123456789ab", "\0",
    "\ud800", "images", "é", "-rf", "Metrics", "a (1)", "con .x", "a,b", "a-202401011230",
]  # fmt: skip
names = st.one_of(
    st.text(max_size=120),
    st.text(alphabet="aAbB./-_ 0", max_size=8),
    st.sampled_from(HOSTILE),
    st.from_regex(r"\A[a-z]{0,3}-[0-9a-f]{12}\Z"),
)


@given(names)
def test_every_name_is_one_file_of_its_directory_on_any_system(name):
    safe = safe_name(name)
    assert SAFE.fullmatch(safe)
    assert len(safe) <= NAME_MAX_CHARACTERS
    assert not safe.endswith((".", " ", "-"))
    assert safe.partition(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1", "metrics.csv"}
    assert safe_name(name) == safe


@given(names, names)
def test_two_names_are_two_files(one, other):
    if one != other:
        assert safe_name(one) != safe_name(other)
        assert plain_name(one) != plain_name(other)
        assert hashed_name(one).lower() != safe_name(other).lower()


@given(names)
def test_a_name_for_wandb_has_only_what_wandb_takes(name):
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", plain_name(name))
    assert plain_name(name) in {safe_name(name), hashed_name(name)}


@given(names)
def test_a_made_name_is_not_the_name_of_another_key(name):
    safe = safe_name(name)
    assert safe == name or safe_name(safe).lower() != safe.lower()


@pytest.mark.parametrize(
    "name",
    [
        "results", "confusion_matrix", "val.top-5", "epoch_3", "Report", "my table", "Results", "A (2)",
        "run-202401011230", "a,b=c", "x@1", "README.md",
    ],
)  # fmt: skip
def test_a_name_that_is_safe_is_kept(name):
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ["metrics", "Config", "CON", "train/x", "tail ", "a-0123456789ab"])
def test_a_name_that_is_taken_or_clashes_gets_a_name_of_its_own_and_can_still_be_read(name):
    assert safe_name(name) != name
    assert safe_name(name).lstrip("_").startswith(re.sub("/", "_", name).strip())
