"""Fixtures of the CSV backend's tests."""

import pytest

from tests.support.csv_ledger import Ledger


@pytest.fixture(scope="session")
def make_ledger():
    return Ledger


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "out")
