"""All tests of watching need torch, as a script that watches a model has imported it."""

import pytest


@pytest.fixture(autouse=True)
def _torch():
    pytest.importorskip("torch").manual_seed(7)
