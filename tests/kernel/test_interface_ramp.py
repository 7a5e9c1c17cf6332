"""An on-ramp on a tunnel device of the kernel's: what the site sends is decided by the proxy and carried by the kernel.

site 10.9.0.2 == GRE == 10.9.0.1 edge (the proxy, on-ramp gre1) 10.2.0.1 ---- 10.2.0.2 origin
     10.7.0.2 --------- 10.7.0.1
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

from proxy.control.client import ControlClient
from tests.bridge.routed import until
from tests.netns import Namespace, connect
from tests.running import ROOT

pytestmark = [pytest.mark.kernel("GRE", "root", "/dev/net/tun"), pytest.mark.netns]

START_S = 120
SETTINGS = {
    "offramp": "kernel",
    "tenants": {"acme": {}},
    "onramps": [{"kind": "interface", "interfaces": ["gre1"], "tenant": "acme", "sources": ["10.9.0.0/24"]}],
}
ECHO = """
import socket, sys
server = socket.create_server(("10.2.0.2", 9000))
while True:
    client, (host, _) = server.accept()
    with client:
        while data := client.recv(65536):
            client.sendall(host.encode() + b" " + data)
"""


@pytest.fixture
def net():
    site, edge, origin = (Namespace() for _ in range(3))
    with contextlib.ExitStack() as stack:
        for each in (site, edge, origin):
            stack.callback(each.close)
        connect(site, edge, ["10.7.0.2/24"], ["10.7.0.1/24"])
        connect(edge, origin, ["10.2.0.1/24"], ["10.2.0.2/24"])
        for namespace, local, remote, inside in ((site, 2, 1, "10.9.0.2/24"), (edge, 1, 2, "10.9.0.1/24")):
            words = f"ip link add gre1 type gre local 10.7.0.{local} remote 10.7.0.{remote} key 7"
            for line in (words, f"ip addr add {inside} dev gre1", "ip link set gre1 up"):
                namespace.run(subprocess.run, line.split(), check=True)
        site.run(subprocess.run, ["ip", "route", "add", "10.2.0.0/24", "dev", "gre1"], check=True)
        yield site, edge, origin


def started(namespace, stack, *command, **options):
    process = namespace.run(subprocess.Popen, [sys.executable, *command], **options)

    def end():
        process.send_signal(signal.SIGTERM)
        process.wait(20)

    stack.callback(end)
    return process


@pytest.mark.parametrize(
    "has_flowtable", [False, pytest.param(True, marks=pytest.mark.kernel("flowtable"))], ids=["rules", "flowtable"]
)
def test_a_site_behind_the_kernels_gre_is_carried_by_the_kernel(net, tmp_path, has_flowtable):
    site, edge, origin = net
    control = tmp_path / "control.sock"
    settings = SETTINGS | {"control": str(control), "kernel": {"flowtable": has_flowtable}}
    (tmp_path / "proxy.yaml").write_text(json.dumps(settings))
    edge.run(subprocess.run, ["ip", "route", "add", "default", "via", "10.2.0.2"], check=True)  # this is the uplink
    with contextlib.ExitStack() as stack:
        started(origin, stack, "-c", ECHO)
        log = stack.enter_context(open(tmp_path / "log", "w+"))
        proxy = started(edge, stack, "-m", "proxy", str(tmp_path / "proxy.yaml"), cwd=ROOT, stderr=log)
        await_socket(control, proxy, tmp_path / "log")
        sock = stack.enter_context(until(lambda: dialled(site)))
        for number in range(1000):
            sock.sendall(b"%d" % number)
            assert sock.recv(100) == b"10.2.0.1 %d" % number
        tracked = edge.run(subprocess.run, ["conntrack", "-L", "-p", "tcp"], capture_output=True, text=True).stdout
        assert [("[OFFLOAD]" in line) for line in tracked.splitlines() if "dport=9000" in line] == [has_flowtable]
        status = ControlClient(str(control)).status()
        [flow] = [flow for flow in flows(control) if flow["dst_port"] == 9000]
        assert (flow["onramp"], flow["offramp"], flow["level"]) == ("interface", "kernel", "packet")
        assert flow["total"]["client_packets"] >= 1000
        assert status.tenants["acme"].client_packets < 100  # the rest went by without us
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
        ended = until(lambda: next((each for each in flows(control) if each["state"] == "closed"), None))
        assert (ended["close_reason"], ended["closed_by"]) == ("client_closed", "client")
        assert ended["total"]["client_payload_bytes"] == sum(len(b"%d" % number) for number in range(1000))


def await_socket(control, proxy, log):
    """A machine that is emulated takes its time."""
    deadline = time.monotonic() + START_S
    while not control.exists():
        assert proxy.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        select.select([], [], [], 0.05)


def dialled(site):
    sock = site.run(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(20)
    try:
        sock.connect(("10.2.0.2", 9000))
    except OSError:
        sock.close()
        return None
    return sock


def flows(control):
    command = [
        sys.executable,
        "-m",
        "oxyctl",
        "flows",
        "--tenant",
        "acme",
        "--control",
        str(control),
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)["items"]
