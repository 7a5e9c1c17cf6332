"""TUN devices of the real kernel, each scenario in a new user and network namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.device.tun_scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "--user", "--map-root-user", "--net"]


@pytest.fixture(scope="module")
def namespaces():
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun here")
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user or network namespaces here")


@pytest.mark.netns
@pytest.mark.parametrize("name", [scenario.__name__ for scenario in SCENARIOS])
def test_tun(namespaces, name):
    command = [*UNSHARE, sys.executable, "-W", "error", "-m", "tests.device.tun_scenarios", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
