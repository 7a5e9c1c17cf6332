"""labs/magic-wan.yaml, whole, with every tunnel the kernel's: what it says must hold, holds there too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oxyctl.topology.file import load
from tests.kernel.labs import running

pytestmark = [
    pytest.mark.kernel("GRE", "GRE over IPv6", "FOU", "GUE", "root", "/dev/net/tun"),
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

ROOT = Path(__file__).parents[2]


def test_every_check_of_the_lab_holds(tmp_path):
    text = (ROOT / "labs" / "magic-wan.yaml").read_text()
    kernel_tenants = text.replace("-site: {tenant: acme}", "-site: {tenant: acme, tunnel: kernel}")
    assert kernel_tenants.count("tunnel: kernel") == 2
    (tmp_path / "magic-wan.yaml").write_text(kernel_tenants)
    with running(load(tmp_path / "magic-wan.yaml"), tmp_path / "run") as lab:
        assert {tunnel["by"] for tunnel in lab.status()["tunnels"]} == {"kernel"}
        command = [sys.executable, "-X", "faulthandler", "-m", "oxyctl", "lab", "check", "magic-wan", "-j", "2"]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
