"""Fixtures of the client's tests: a daemon in this process, and trackers that connect to it."""

from __future__ import annotations

import os

import pytest

from tests.support.client_daemon import TOKEN, FakeDaemon
from tracker_client import setup_tracker


@pytest.fixture
def make_daemon():
    """Starts daemons, which end with the test having seen no violation of the protocol."""
    daemons = []

    def make(**attributes):
        daemon = FakeDaemon()
        for name, value in attributes.items():
            setattr(daemon, name, value)
        daemons.append(daemon)
        return daemon.start()

    yield make
    for daemon in daemons:
        daemon.acknowledging.set()
        daemon.delivered.set()
        daemon.stop()
        assert daemon.violations == []


@pytest.fixture
def daemon(make_daemon):
    return make_daemon()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    prefixes = (
        "TRACKER_",
        "EZPZ_",
        "WB_",
        "WANDB_",
        "SLURM_",
        "PMI",
        "OMPI_",
        "PALS_",
        "TORCHELASTIC_",
        "MASTER_",
    )
    for name in list(os.environ):
        if name.startswith(prefixes) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PBS_JOBID"):
            monkeypatch.delenv(name)


@pytest.fixture
def connect():
    """Sets up trackers, and finishes those that the test did not."""
    trackers = []

    def connect_to(daemon, **arguments):
        arguments = {"endpoint": daemon.endpoint, "token": TOKEN, "exit_timeout": 0.1, **arguments}
        tracker = setup_tracker(arguments.pop("project_name", "project"), **arguments)
        trackers.append(tracker)
        return tracker

    yield connect_to
    for tracker in trackers:
        tracker.finish(timeout=2)
