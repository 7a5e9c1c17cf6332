"""Tests that need tunnels and queues of a real kernel: `make test-kernel` gives them one that has all of it.

Where the running kernel has not, they are skipped; in that run a test that cannot be run has failed.
"""

from __future__ import annotations

import os

import pytest

from tests.kernel.world import KernelWorld
from tools.kernelvm.features import missing

IS_REQUIRED = bool(os.environ.get("OXYCTL_TEST_KERNEL"))


def pytest_runtest_setup(item):
    for marker in item.iter_markers("kernel"):
        if lacking := missing() & set(marker.args):
            pytest.skip(f"this kernel has no {', '.join(sorted(lacking))}: make test-kernel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if IS_REQUIRED and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped where nothing may be: {reason}"
    return report


@pytest.fixture
def world(tmp_path):
    """A site and the edge; the kernel carries one end of the tunnel between them."""
    made = KernelWorld(tmp_path)
    yield made
    made.close()
