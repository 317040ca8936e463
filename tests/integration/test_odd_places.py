"""Directories that scripts name or work in, and that are odd: an error at once, or the data is there."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

AT_ONCE_S = 45.0
"""A script that waited for a daemon would take longer: finish() waits for 60 s."""
SCRIPT = """
import os, sys
from tracker_client import setup_tracker
with setup_tracker("odd", outdir="".join(sys.argv[1:]) or None) as tracker:
    tracker.log({"loss": 1.0 + int(os.environ.get("RANK", 0)), "Größe": 2})
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
RUN = (sys.executable, "-m", "tracker_daemon", "run")


@dataclass
class Place:
    """A home directory, and a working directory in it."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def script(self) -> str:
        """The path of the script."""
        return str(self.home / "train.py")

    def start(self, *command: str | bytes, cwd: Path | None = None, **environ: str) -> tuple[int, str]:
        """Run ``command`` to its end; return its status and output."""
        done = subprocess.run(
            command, cwd=cwd or self.home, env=self.environ | environ, timeout=AT_ONCE_S, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def record(self, outdir: str | bytes, *launcher: str, ranks: int = 1, **environ: str) -> None:
        """Run the script to a good end, as so many ranks with a daemon of their own or of ``launcher``."""
        command = (*launcher, sys.executable, self.script, outdir)
        if ranks > 1:
            environ |= {"WORLD_SIZE": str(ranks), "TRACKER_LAUNCH_ID": f"launch of {self.home}"}
        with ThreadPoolExecutor(ranks) as threads:
            numbers = [
                {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {} for rank in range(ranks)
            ]
            started = [threads.submit(self.start, *command, **environ, **number) for number in numbers]
        assert [each.result()[0] for each in started] == [0] * ranks, [each.result()[1] for each in started]

    def row(self, outdir: str) -> dict[str, str]:
        """Return the only row that is recorded there."""
        text = (self.home / outdir / "metrics.csv").read_text(encoding="utf-8")
        (row,) = csv.DictReader(text.splitlines())
        return row


@pytest.fixture
def place(tmp_path: Path) -> Place:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    own = {"TRACKER_BACKENDS": "csv", "TRACKER_IDLE_TIMEOUT_S": "1", "HOME": str(tmp_path)}
    return Place(tmp_path, inherited | own)


def test_a_script_of_an_ascii_locale_has_its_data_where_and_as_it_named_it(place: Place) -> None:
    place.record("Lauf ä", ranks=2, **ASCII)
    assert {name: place.row("Lauf ä")[name] for name in ("loss", "loss/mean", "Größe")} == {
        "loss": "1.0", "loss/mean": "1.5", "Größe": "2",
    }  # fmt: skip
    for script, run in (("Lauf ö", "anderswo"), ("", "Lauf ü")):
        place.record(script, *RUN, "--outdir", run, "--", **ASCII)
        assert place.row(script or run) == {"step": "0", "loss": "1.0", "Größe": "2"}
    status, shown = place.start(
        sys.executable, "-m", "tracker_daemon", "status", "--state-dir", "Lauf ü", **ASCII
    )
    assert (status, "Lauf ü/endpoint.json" in shown, "Traceback" in shown) == (1, True, False), shown


def test_a_script_without_a_daemon_has_its_data_there_too(place: Place) -> None:
    (place.home / "train.py").write_text(
        "import sys\nfrom tracker_client import CSVBackend, Tracker\n"
        "tracker = Tracker([CSVBackend(sys.argv[1])])\ntracker.log({'loss': 1.0}, step=0)\ntracker.finish()\n"
    )
    place.record("Lauf ä", **ASCII)
    place.record("~/a")
    assert place.row("Lauf ä") == place.row("a") == {"step": "0", "loss": "1.0"}
    status, shown = place.start(sys.executable, place.script, NOT_UTF_8)
    assert (status, "not UTF-8" in shown) == (1, True), shown


def test_a_tilde_in_outdir_is_the_home_directory(place: Place) -> None:
    place.record("~/a")
    assert place.row("a")["loss"] == "1.0"
    status, shown = place.start(*RUN, "--outdir", "~/c", "--", sys.executable, place.script)
    assert (status, place.row("c")["loss"]) == (0, "1.0"), shown


NOT_UTF_8 = b"not UTF-8: \xff"
UNUSABLE: dict[str, tuple[str | bytes, str]] = {
    "an outdir that is not UTF-8": (NOT_UTF_8, "not UTF-8"),
    "an outdir that cannot be made": ("/proc/of the kernel", "No such file or directory"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_outdir_that_cannot_be_used_is_an_error_at_once(place: Place, case: str) -> None:
    outdir, reason = UNUSABLE[case]
    status, shown = place.start(sys.executable, place.script, outdir)
    assert (status, reason in shown) == (1, True), shown
    status, shown = place.start(*RUN, "--outdir", outdir, "--", sys.executable, place.script)
    assert (status in (1, 2), reason in shown, "Traceback" in shown) == (True, True, False), shown


@pytest.mark.parametrize("name", [b"deleted", NOT_UTF_8], ids=["deleted", "not UTF-8"])
def test_a_working_directory_that_cannot_be_used_is_an_error_at_once_unless_an_outdir_is_named(
    place: Place, name: bytes
) -> None:
    work = place.home / os.fsdecode(name)
    leave = 'mkdir -p "$0" && cd "$0" && if [ "${0##*/}" = deleted ]; then rmdir "$0"; fi && exec "$@"'
    begin: tuple[str, ...] = ("bash", "-c", leave, str(work))
    reason = "has been deleted" if name == b"deleted" else "not UTF-8"
    status, shown = place.start(*begin, sys.executable, place.script)
    assert (status, reason in shown) == (1, True), shown
    status, shown = place.start(*begin, *RUN, "--", sys.executable, place.script)
    assert (status, reason in shown, "Traceback" in shown) == (2, True, False), shown
    place.record(str(place.home / "own"), *begin)
    assert place.row("own")["loss"] == "1.0"
    place.record(str(place.home / "run"), *begin, *RUN, "--outdir", str(place.home / "base"), "--")
    assert place.row("run")["loss"] == "1.0"
