"""A client of the stage that a module of tests sets up."""

from __future__ import annotations

import pytest


@pytest.fixture
def laptop(stage):
    """A client of one test, whose sessions are over when the next test begins."""
    yield stage.laptop()
    stage.after_test()
