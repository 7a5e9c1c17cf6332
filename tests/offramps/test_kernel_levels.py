"""How high a flow is lifted that could leave by the kernel; and what of its settings is a mistake."""

from __future__ import annotations

import socket

import pytest

from proxy.settings import DocumentError, load
from tests.applications import STREAM_PORT
from tests.netns import needs_root
from tests.offramps.kernel_scene import KINDS, ORIGIN, Proxy, ask, echo, scene, transfer

SIZE = 1_000_000


def levels(stage, version, ports):
    """Level and off-ramp of a connection to each port, and of a datagram."""
    found = []
    for port in ports:
        listener = stage.listen(version, port)
        client = stage.connect(version, port)
        origin = stage.accept(listener)
        transfer(client, origin, SIZE)
        transfer(origin, client, SIZE)
        (flow,) = stage.proxy.live(dst_port=port, protocol="tcp", dst=ORIGIN[version])
        found.append((flow.level, flow.offramp))
    return found


NETNS = [pytest.mark.netns, pytest.mark.slow, needs_root]
KERNEL, SOCKET = ("packet", "kernel"), ("stream", "socket")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=NETNS) for kind in KINDS])
def test_levels_by_tenant_route_and_hook(kind):
    hooks = "hooks: tests.applications:ChoosesLevels\n"
    ports = [STREAM_PORT + 9, STREAM_PORT, STREAM_PORT + 1]
    routes = "networks: {{default: {{routes: [{{prefix: '{0}/32', via: {2}}}, {{prefix: '{1}/128', via: {2}}}]}}}}"
    expected = {
        ("", hooks): [KERNEL, SOCKET, KERNEL],
        ("level: stream", hooks): [SOCKET, SOCKET, KERNEL],
        (routes.format(*ORIGIN.values(), "stream"), ""): [SOCKET] * 3,
        (routes.format(*ORIGIN.values(), "kernel"), ""): [KERNEL] * 3,
    }
    for (tenant, more), result in expected.items():
        with scene(kind, tenant=tenant, more=more) as stage:
            for version, address in ORIGIN.items():
                assert levels(stage, version, ports) == result, (tenant, more, version)
                sock = stage.sock(stage.client, version, socket.SOCK_DGRAM)
                ask(sock, echo(stage, version))
                (flow,) = stage.proxy.live(protocol="udp", dst=address, src_port=sock.getsockname()[1])
                assert (flow.level, flow.offramp) == result[0]


GOOD = """tenants:
  acme: {}
onramps:
  - {kind: interface, interfaces: [eth0], tenant: acme}
offramp: kernel
"""
MISTAKES = {
    "interface on-ramp, sockets": (GOOD.replace("offramp: kernel", "offramp: sockets"), 4, "needs 'offramp: kernel'"),
    "tenant by sockets": (GOOD.replace("{}", "{offramp: sockets}"), 4, "needs 'offramp: kernel'"),
    "no range": (GOOD.replace("{}", "{ports: '4095'}"), 2, "range of ports"),
    "range upside down": (GOOD.replace("{}", "{ports: 4095-2048}"), 2, "expected a range of ports such as 2048-4095"),
    "range from 0": (GOOD.replace("{}", "{ports: 0-2048}"), 2, "expected a range of ports"),
    "range too far": (GOOD.replace("{}", "{ports: 1-65536}"), 2, "expected a range of ports"),
    "two IPv4 addresses": (GOOD.replace("{}", "{snat: [192.0.2.1, 192.0.2.2]}"), 2, "a second IPv4 address"),
    "two gateways": (GOOD.replace("{}", "{gateway: ['fd00::1', 'fd00::2']}"), 2, "a second IPv6 address"),
    "two IPv6 addresses": (GOOD.replace("{}", "{snat: ['fd00::1', 'fd00::2']}"), 2, "a second IPv6 address"),
    "no address": (GOOD.replace("{}", "{snat: [192.0.2.300]}"), 2, "192.0.2.300"),
    "mark not multiple": (GOOD + "kernel: {mark: 0x6F780001}\n", 6, "65536"),
    "unknown filtering": (GOOD.replace("{}", "{udp_filtering: port}"), 2, "udp_filtering"),
    "unknown orphans": (GOOD + "kernel: {orphans: kill}\n", 6, "orphans"),
    "unknown tenant": (GOOD.replace("tenant: acme", "tenant: acne"), 4, "did you mean 'acme'"),
    "same interface twice": (GOOD.replace("[eth0]", "[eth0, eth0]"), 4, "'eth0' is listed twice"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(what, tmp_path):
    text, line, words = MISTAKES[what]
    file = tmp_path / "proxy.yaml"
    file.write_text(text)
    with pytest.raises(DocumentError) as caught:
        load(file)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert words in said
    head = said[len(str(file)) + 1 :].split(":")
    assert said.startswith(f"{file}:{line}:"), said
    assert head[1].strip().isdecimal()


def test_the_good_one_is_good(tmp_path):
    file = tmp_path / "proxy.yaml"
    file.write_text(GOOD)
    assert load(file).offramp == "kernel"


@pytest.mark.netns
@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("name", ["in3", "eth9"])
def test_an_interface_that_is_not_there_is_one_line(name, tmp_path):
    with scene("interface") as stage:
        assert stage.proxy.stop() == 0
        words = stage.proxy.configuration.replace("in1", name)
        code, lines = Proxy(str(tmp_path), stage.edge, words).refusal()
        assert code != 0
        assert len(lines) == 1, lines
        assert f"no interface '{name}'" in lines[0]
