"""A network for one test, of those that its module makes once."""

from __future__ import annotations

import pytest


@pytest.fixture
def net(made):
    """`made`, the module's, without what the test has opened in it."""
    yield made
    made.tidy()
