"""The tests. Their folders are no packages; the package :mod:`tests.support` holds what they share."""

import pytest

pytest.register_assert_rewrite("tests.support")  # so that a failing assertion there shows its values too
