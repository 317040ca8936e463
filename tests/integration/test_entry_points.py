"""Backends that an installed package registers, for the whole way from ranks to their classes."""

from __future__ import annotations

import json

import pytest

PACKAGE = """
import json, pathlib
from tracker_client import TrackerBackend

class Lines(TrackerBackend):
    def __init__(self, project_name, config, outdir, rank, suffix=".txt", **kwargs):
        pathlib.Path(outdir).mkdir(parents=True, exist_ok=True)
        self.file = open(pathlib.Path(outdir, project_name + suffix), "a", buffering=1)
    def say(self, *what):
        self.file.write(json.dumps(what) + "\\n")
    def log(self, metrics, step=None, commit=True):
        self.say("log", step, metrics)
    def log_config(self, config):
        self.say("config", config)
    def finish(self):
        self.say("finish")

class Picky(Lines):
    outages = 2
    def log(self, metrics, step=None, commit=True):
        if step == 2 and self.outages:
            self.outages -= 1
            raise ConnectionError("not now")
        super().log(metrics, step)
"""
ENTRY_POINTS = """
[tracker_daemon.backends]
lines = third_party_backends:Lines
picky = third_party_backends:Picky
broken = third_party_backends_broken:Missing
"""
TRAINING = """
import os
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
with setup_tracker("p", backends="csv,lines,picky,broken", config={"lr": 0.1},
                   lines={"suffix": ".lines"}, picky={"suffix": ".picky"}) as tracker:
    for step in range(10):
        tracker.log({"loss": step + rank}, step=step)
    tracker.finish(wait="delivered")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed distribution, as pip leaves one."""
    site = tmp_path / "site"
    information = site / "third_party-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "third_party_backends.py").write_text(PACKAGE)
    (site / "third_party_backends_broken.py").write_text("import a_package_that_is_not_there\n")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.setenv("PYTHONPATH", str(site))


def test_a_package_s_class_is_given_all_records_though_it_fails_at_first(package, daemon, ranks):
    processes = ranks.start(TRAINING, range(2), 2)
    errors = []
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        errors.append(err)
    for suffix in (".lines", ".picky"):
        lines = [json.loads(line) for line in (daemon.outdir / f"p{suffix}").read_text().splitlines()]
        values = {
            (step, name): value
            for what, step, metrics in (line for line in lines if line[0] == "log")
            for name, value in metrics.items()
        }
        assert {values[step, "loss"] for step in range(10)} == set(map(float, range(10)))
        assert all(values[step, "loss/mean"] == step + 0.5 for step in range(10))
        assert len(values) == sum(len(line[2]) for line in lines if line[0] == "log")
        assert ["config", {"lr": 0.1}] in lines
        assert lines[-1] == ["finish"]
    assert "backend 'broken'" in errors[0]
    assert "a_package_that_is_not_there" in errors[0]
    assert "install what it needs" in errors[0]
    assert "broken" not in errors[1]
    (run,) = daemon.status()["runs"]
    states = {backend["name"]: (backend["state"], backend["pending"]) for backend in run["backends"]}
    assert states["lines"] == states["picky"] == ("healthy", 0)
    assert states["broken"][0] == "paused"
