"""pyroute2 is where links are built, and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.meta.imports import imports_in, is_within

LOADED = "import sys; {}; print('pyroute2' in sys.modules)"


def loads(code):
    done = subprocess.run([sys.executable, "-c", LOADED.format(code)], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True"


@pytest.mark.parametrize(
    "module",
    [
        "oxyctl.cli.lab",
        "oxyctl.operate.up",
        "oxyctl.supervise.supervisor",
        "oxyctl.agents.fleet",
        "oxyctl.agents.sites.runs",
    ],
)
def test_importing_a_module_loads_nothing_of_pyroute2(module):
    assert not loads(f"import {module}")


def test_the_requests_of_agents_load_nothing_of_pyroute2():
    requests = "from oxyctl.net import netlink as n; import ipaddress as i; n.set_link(1, mtu=1280, queue=5)"
    assert not loads(
        f"{requests}; n.add_address(1, i.ip_interface('10.0.0.1/24')); n.add_route(i.ip_network('::/0'), 1)"
    )
    assert loads("from oxyctl.net import netlink; netlink.new_bridge('br0', 7)")


def test_one_module_knows_pyroute2():
    found = {each.importer for each in imports_in("oxyctl", "proxy") if is_within(each.imported, "pyroute2")}
    assert found == {"oxyctl.net.messages"}
