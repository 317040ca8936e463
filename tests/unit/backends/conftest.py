"""Fixtures of the backends' tests."""

import pytest

from tests.support.blocks import block_of


@pytest.fixture(scope="session")
def make_block():
    return block_of
