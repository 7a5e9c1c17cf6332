"""One stage for each file; every script starts with nothing of the one before."""

from __future__ import annotations

import pytest

from tests.packet.conformance.wires import ScriptedStage
from tests.running import staged


@pytest.fixture(scope="module")
def running():
    with staged(ScriptedStage) as stage:
        yield stage


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


@pytest.fixture
def client(stage, offload):
    """A tunnel with an MTU of 1280."""
    return stage.scripted(offload=offload)
