"""For every test: hypothesis draws the same examples on every run, and is given time on shared machines."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick",
    deadline=None,
    derandomize=True,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

# A shell's background job ignores it, and so would every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with the modules that may take longest, so that no worker is left with one when all others have ended."""
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("timeout")), default=0))


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def version(request):
    """Of IP."""
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "offload"])
def offload(request):
    """Whether a tunnel takes super-packets."""
    return request.param
