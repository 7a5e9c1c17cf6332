"""What a user's own programs see through the quickstart's proxy is what they would see without one."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.labs.conftest import eventually

pytestmark = [pytest.mark.netns, pytest.mark.user("rootless"), pytest.mark.slow]

LAB = """
networks: {net: {subnets: [10.50.0.0/24, "fd00:50::/64"]}}
nodes:
  edge:   {kind: proxy, networks: {net: [10.50.0.1, "fd00:50::1"]}, tenants: {acme: {}, other: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme, addresses: [100.96.0.2, "fd00:96::2"], mtu: 1280, offload: OFFLOAD}
  web:
    kind: upstream
    networks: {net: [10.50.0.10, "fd00:50::10"]}
    services: {http: 80, https: 443, ssh: 22, echo: 7, iperf3: 5201, halfclose: 8081, reset: 8082}
"""

HALF_CLOSE = """
import socket, sys
with socket.create_connection(("web", 8081), timeout=10) as s:
    greeting = b""
    while part := s.recv(100): greeting += part          # the server has closed its half
    for _ in range(100): s.sendall(bytes(100_000))         # and still reads ours
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b""
print(greeting.decode())
"""

RESET = """
import socket
with socket.create_connection(("web", 8082), timeout=10) as s:
    s.sendall(b"go\\n")
    try:
        while s.recv(100): pass
        print("closed")
    except ConnectionResetError:
        print("reset")
"""

PARALLEL = """
import asyncio
async def one():
    reader, writer = await asyncio.open_connection("web", 80)
    writer.write(b"GET /bytes/20000 HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n")
    size = len(await reader.read(-1))
    writer.close()
    return size
async def main():
    sizes = await asyncio.wait_for(asyncio.gather(*(one() for _ in range(500))), 60)
    assert len(sizes) == 500 and min(sizes) > 20_000
asyncio.run(main())
print("all")
"""

UDP_ECHO = """
import socket, sys
for family, address in ((socket.AF_INET, "10.50.0.10"), (socket.AF_INET6, "fd00:50::10")):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect((address, 7))
        for size in (0, 1, 1200, 4000, 65_507):
            s.send(bytes([size % 251]) * size)
            assert s.recv(70_000) == bytes([size % 251]) * size, (address, size)
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        s.connect((address, 9))
        s.send(b"nobody")
        try: s.recv(1); sys.exit("answered")
        except ConnectionRefusedError: pass
print("echoed")
"""


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module", params=["offload", "plain"])
def lab(shared_machine, request):
    """The quickstart's shape with more services, up, with offload and without."""
    text = LAB.replace("OFFLOAD", "true" if request.param == "offload" else "false")
    shared_machine.oxyctl("lab", "up", shared_machine.file("clients.yaml", text))
    yield shared_machine
    shared_machine.oxyctl("lab", "down", "clients")


def flows(machine, **wanted):
    items = json.loads(machine.oxyctl("flows", "--tenant", "acme", "--format", "json").stdout)["items"]
    return [flow for flow in items if all(flow[name] == value for name, value in wanted.items())]


def run_python(lab, script):
    return lab.exec("laptop", lab.python, "-c", script).strip()


@needs("curl")
def test_https_and_a_large_file_that_arrives_whole(lab):
    assert "https" in lab.exec("laptop", "curl", "-skS", "https://web/")
    size = 1 << 28
    digest = lab.exec("laptop", "curl", "-sS", f"http://web/bytes/{size}.sha256").split()[0]
    got = lab.exec("laptop", "sh", "-c", f"curl -sS http://web/bytes/{size} | sha256sum").split()[0]
    assert got == digest
    [flow] = eventually(
        lambda: [f for f in flows(lab, state="closed") if f["total"]["origin_payload_bytes"] > size],
        "the download's record",
    )
    assert (flow["level"], flow["offramp"], flow["total"]["spliced_bytes"]) == ("packet", "kernel", 0)


def test_half_close_reset_and_echo(lab):
    assert run_python(lab, HALF_CLOSE)
    [flow] = eventually(lambda: flows(lab, dst_port=8081, state="closed"), "the half-closed flow's record")
    assert (flow["closed_by"], flow["close_reason"]) == ("origin", "origin_closed")
    assert flow["total"]["client_payload_bytes"] == 10_000_000
    assert run_python(lab, RESET) == "reset"
    [flow] = eventually(lambda: flows(lab, dst_port=8082, state="closed"), "the reset flow's record")
    assert (flow["closed_by"], flow["close_reason"]) == ("origin", "origin_reset")
    assert run_python(lab, UDP_ECHO) == "echoed"


def test_five_hundred_at_once(lab):
    assert run_python(lab, PARALLEL) == "all"


@needs("ssh")
def test_ssh_passes_output_and_exit_code(lab):
    # No options: the lab's host keys are known in it, and without a terminal ssh would refuse any other.
    out = lab.exec("laptop", "ssh", "root@web", "head -c 3000000 /dev/zero | wc -c; exit 3", code=3)
    assert out.strip() == "3000000"


@needs("curl")
def test_an_address_where_nothing_answers_is_never_connected(lab):
    out = lab.exec("laptop", "sh", "-c", "curl -sS -v --max-time 8 http://10.50.0.77/ 2>&1; echo code $?")
    assert "Connected to" not in out
    assert "code 7" in out or "code 28" in out
    flow = eventually(lambda: flows(lab, dst="10.50.0.77", state="closed"), "the flow's record")[0]
    assert flow["close_reason"] in ("origin_unreachable", "origin_timeout")


@needs("iperf3")
def test_udp_at_a_moderate_rate_loses_nothing(lab):
    for direction in ([], ["-R"]):

        def is_whole(direction=direction):  # iperf3's own sockets hold a tenth of a second
            command = ["iperf3", "-c", "web", "-u", "-b", "10M", "-t", "1", "--json", *direction]
            total = json.loads(lab.exec("laptop", *command))["end"]["sum"]
            assert total["packets"] > 500
            return total["lost_percent"] < 1

        eventually(is_whole, "a second without loss")


def test_other_tenants_see_nothing(lab):
    run_python(lab, UDP_ECHO)
    assert flows(lab, protocol="udp")
    theirs = json.loads(lab.oxyctl("flows", "--tenant", "other", "--format", "json").stdout)
    assert theirs["items"] == []
    lab.oxyctl("flows", code=2)
