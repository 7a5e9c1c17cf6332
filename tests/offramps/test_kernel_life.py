"""Beginnings and ends of the kernel off-ramp: what survives a killed proxy, what a stopped one leaves, who may not."""

from __future__ import annotations

import contextlib
import errno
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from proxy.control.client import ControlError
from tests.netns import needs_root
from tests.offramps.kernel_scene import (
    EDGE,
    FAMILIES,
    KINDS,
    ORIGIN,
    Proxy,
    ask,
    connect_tunnel,
    echo,
    entries,
    needs,
    nft,
    read_all,
    reset,
    scene,
    state_of,
    transfer,
    unsent,
)
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
DENYING = "hooks: tests.applications:Denies\n"
DENIED_PORT = 4444
REPAIR_S = 1.0


def exchange(client, origin, size=20_000):
    """So many bytes each way; they arrive."""
    transfer(client, origin, size)
    transfer(origin, client, size)


def refusal(stage, version, listener):
    """Why the client gets no connection; None where it does."""
    try:
        stage.connect(version, listener.getsockname()[1])
    except OSError as error:
        return error.errno
    return None


@VERSIONS
def test_connections_live_through_a_killed_proxy_and_keep_their_identity(version):
    with scene("interface") as stage:
        client, origin = stage.pair(version)
        datagrams, server = stage.sock(stage.client, version, socket.SOCK_DGRAM), echo(stage, version)
        exchange(client, origin)
        ask(datagrams, server)
        (flow,) = stage.proxy.live(protocol="tcp")
        until(lambda: time.time_ns() - flow.start > 2_000_000_000)  # young flows are not remembered
        stage.proxy.kill()
        exchange(client, origin)
        assert ask(datagrams, server) == b"canary"
        stage.proxy.start()
        exchange(client, origin)
        (again,) = stage.proxy.live(protocol="tcp")
        assert (again.flow_id, again.start, again.src_port) == (flow.flow_id, flow.start, flow.src_port)
        assert again.total.client_bytes > flow.total.client_bytes + 20_000
        client.close()
        assert read_all(origin) == (0, "end")
        origin.close()
        (record,) = until(lambda: stage.proxy.ended(protocol="tcp"))
        assert (record.flow_id, record.close_reason) == (flow.flow_id, "client_closed")
        # of a connection that was taken back nobody knows the numbers: what was sent again is counted again
        assert 60_000 <= record.total.client_payload_bytes <= record.total.client_bytes


@VERSIONS
def test_what_ends_while_the_proxy_is_away_is_recorded_once_with_its_bytes(version):
    """Nobody knows how it ended; conntrack has counted, and forgets it."""
    with scene("interface") as stage:
        pairs = [stage.pair(version) for _ in range(3)]
        for pair in pairs:
            exchange(*pair)
        ids = {flow.src_port: flow.flow_id for flow in stage.proxy.live(protocol="tcp")}
        until(lambda: time.time_ns() - max(f.start for f in stage.proxy.live(protocol="tcp")) > 2_000_000_000)
        stage.proxy.kill()
        for pair in pairs[:2]:
            exchange(*pair, size=50_000)
        ports = [client.getsockname()[1] for client, _ in pairs]
        pairs[0][0].close()
        assert read_all(pairs[0][1]) == (0, "end")
        pairs[0][1].close()
        reset(pairs[1][1])
        assert read_all(pairs[1][0]) == (0, "ConnectionResetError")
        stage.proxy.start()
        records = until(lambda: len(found := stage.proxy.ended(protocol="tcp")) == 2 and found)
        assert {record.src_port: record.flow_id for record in records} == {port: ids[port] for port in ports[:2]}
        for record in records:
            assert record.close_reason == "unknown"
            assert min(record.total.client_payload_bytes, record.total.origin_payload_bytes) >= 70_000
        exchange(*pairs[2])
        assert [flow.src_port for flow in stage.proxy.live(protocol="tcp")] == ports[2:]
        until(lambda: len([entry for entry in entries(stage.edge) if entry.protocol == 6]) == 1)


@VERSIONS
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stuck"])
def test_orphans_continue_after_their_decision_has_expired_but_nothing_else_does(version, signal_):
    """Notes last for a minute at most; then a packet would have to come up, to nobody."""
    with scene("interface") as stage:
        client, origin = stage.pair(version)
        datagrams, fresh = (stage.sock(stage.client, version, socket.SOCK_DGRAM) for _ in range(2))
        server, listener = echo(stage, version), stage.listen(version)
        exchange(client, origin)
        ask(datagrams, server)
        stage.proxy.process.send_signal(signal_)
        for place in ("decided4_1", "decided6_1"):
            nft(stage.edge, f"flush set inet oxy_proxy {place}")  # as if it were later
        exchange(client, origin)
        assert ask(datagrams, server) == b"canary"
        sniffer = stage.sniffer(stage.origin, "o1")
        fresh.sendto(b"undecided", server)
        if signal_ == signal.SIGKILL:
            assert refusal(stage, version, listener) in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED)
        assert ask(datagrams, server) == b"canary"
        assert {packet.sport for packet in sniffer.arrived(17)} == {datagrams.getsockname()[1]}
        if signal_ == signal.SIGKILL:
            stage.proxy.process.wait()
            stage.proxy.start()
        else:
            stage.proxy.process.send_signal(signal.SIGCONT)
        assert ask(fresh, server) == b"canary"
        assert {packet.src for packet in sniffer.arrived(17)} == {EDGE[version]}
        exchange(client, origin)


@needs("iperf3")
def test_a_transfer_goes_on_while_the_proxy_is_killed_and_started_again():
    with scene("interface") as stage:
        stage.serve(5201, "iperf3", "-s")
        output = []
        words = ("iperf3", "-c", ORIGIN[4], "-t", 9, "-b", "200M", "-J")
        running = threading.Thread(target=lambda: output.append(stage.program(stage.client, *words)))
        running.start()
        until(lambda: any(flow.total.client_bytes > 1_000_000 for flow in stage.proxy.live(dst_port=5201)))
        before = {flow.flow_id for flow in stage.proxy.live(dst_port=5201)}
        until(lambda: time.time_ns() - min(f.start for f in stage.proxy.live(dst_port=5201)) > 2_000_000_000)
        stage.proxy.kill()
        stage.proxy.start()
        assert {flow.flow_id for flow in stage.proxy.live(dst_port=5201)} == before
        running.join()
        assert '"error"' not in output[0]


def test_orphans_that_are_to_stop_do_so_within_seconds():
    with scene("interface", more="kernel: {orphans: stop}\n") as stage:
        client, origin = stage.pair(4)
        exchange(client, origin)
        stage.proxy.kill()
        client.settimeout(0.3)

        def is_cut():
            try:
                client.send(b"x")
            except OSError:
                return True
            return not select.select([origin], [], [], 0.5)[0] or not origin.recv(1 << 16)

        until(is_cut, 6)


@VERSIONS
def test_nothing_undecided_passes_while_the_proxy_is_away(version):
    with scene("interface") as stage:
        client, origin = stage.pair(version)
        exchange(client, origin)
        listener, unheard = stage.listen(version), stage.listen(version, kind=socket.SOCK_DGRAM)
        stage.proxy.kill()
        sniffer = stage.sniffer(stage.origin, "o1")
        exchange(client, origin)  # a canary, that the kernel carries
        assert refusal(stage, version, listener) in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED)
        datagrams = stage.sock(stage.client, version, socket.SOCK_DGRAM)
        datagrams.connect(unheard.getsockname()[:2])
        for _ in range(3):
            with contextlib.suppress(OSError):
                datagrams.send(b"undecided")
        exchange(client, origin)
        ports = {packet.dport for packet in sniffer.arrived(6, 17)}
        assert ports == {origin.getsockname()[1]}
        unheard.setblocking(False)
        with pytest.raises(BlockingIOError):
            unheard.recv(100)
        stage.proxy.start()
        fresh = stage.connect(version, listener.getsockname()[1])
        exchange(fresh, stage.accept(listener))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed, started, stopped"])
def test_nothing_is_left_behind(kind, is_killed):
    with scene(kind) as stage:
        pairs = [stage.pair(version) for version in (4, 6)]
        for pair in pairs:
            exchange(*pair)
        assert entries(stage.edge)
        assert state_of(stage.edge) != stage.before
        if is_killed:
            stage.proxy.kill()
            stage.proxy.start()
        assert stage.proxy.stop() == 0
        after = state_of(stage.edge)
        assert {name: value for name, value in after.items() if stage.before.get(name) != value} == {}
        assert after.keys() == stage.before.keys()


def has_table(stage):
    done = stage.edge.run(subprocess.run, ["nft", "list", "table", "inet", "oxy_proxy"], capture_output=True)
    return done.returncode == 0 and b"chain passing" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
@VERSIONS
def test_a_flushed_table_is_made_again_and_traffic_goes_on(kind, version):
    with scene(kind) as stage:
        client, origin = stage.pair(version)
        exchange(client, origin)
        until(lambda: not unsent(client) and not unsent(origin))  # what arrives meanwhile, the host would answer itself
        nft(stage.edge, "flush ruleset")
        until(lambda: has_table(stage), REPAIR_S)
        assert "rebuilding it" in stage.proxy.log
        exchange(client, origin)
        client, origin = stage.pair(version)
        exchange(client, origin)


@pytest.mark.parametrize("words", ["delete table inet oxy_proxy", "flush chain inet oxy_proxy leaving",
                                   "delete chain inet oxy_proxy translated"])  # fmt: skip
def test_what_is_taken_from_the_table_is_put_back(words):
    with scene("interface") as stage:
        whole = stage.program(stage.edge, "nft", "-t", "list", "table", "inet", "oxy_proxy")
        nft(stage.edge, words)

        def is_whole():
            words = ["nft", "-t", "list", "table", "inet", "oxy_proxy"]
            done = stage.edge.run(subprocess.run, words, capture_output=True, text=True)
            return _without_counts(done.stdout) == _without_counts(whole)

        until(is_whole, REPAIR_S)
        exchange(*stage.pair(4))


def _without_counts(text):
    return [line for line in text.splitlines() if "packets" not in line]


@pytest.mark.parametrize("kind", KINDS)
@VERSIONS
def test_a_kill_resets_both_ends_and_leaves_no_entry(kind, version):
    with scene(kind) as stage:
        client, origin = stage.pair(version)
        exchange(client, origin)
        (flow,) = stage.proxy.live(protocol="tcp")
        assert [entry for entry in entries(stage.edge) if entry.protocol == 6]
        stage.proxy.control.kill(flow.flow_id, [("all_tenants", "true")])
        assert read_all(client) == (0, "ConnectionResetError")
        assert read_all(origin) == (0, "ConnectionResetError")
        until(lambda: not [entry for entry in entries(stage.edge) if entry.protocol == 6])
        (record,) = until(lambda: stage.proxy.ended(protocol="tcp"))
        assert record.close_reason == "admin_killed"
        exchange(*stage.pair(version))


HALF_OPEN = "table inet t { chain c { type filter hook output priority 0; tcp flags & (syn | ack) != syn drop; }; }\n"


@pytest.mark.parametrize("kind", KINDS)
@VERSIONS
def test_a_connection_that_its_client_never_completes_ends_as_soon_as_one_that_nobody_answers(kind, version):
    with scene(kind, more="timeouts: {connect_s: 1}\n") as stage:
        kept, far = stage.pair(version)
        nft(stage.client, HALF_OPEN)
        with stage.sock(stage.client, version, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            client.connect_ex((ORIGIN[version], far.getsockname()[1]))
            (record,) = until(lambda: stage.proxy.ended(protocol="tcp"))
        assert (record.close_reason, record.history) == ("client_idle_timeout", "Sh")
        nft(stage.client, "delete table inet t\n")
        exchange(kept, far)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_ends_datagrams(kind):
    with scene(kind) as stage:
        datagrams, server = stage.sock(stage.client, 4, socket.SOCK_DGRAM), echo(stage, 4)
        ask(datagrams, server)
        (flow,) = stage.proxy.live(protocol="udp")
        stage.proxy.control.kill(flow.flow_id, [("all_tenants", "true")])
        (record,) = until(lambda: stage.proxy.ended(protocol="udp"))
        assert record.close_reason == "admin_killed"
        until(lambda: not [entry for entry in entries(stage.edge) if entry.protocol == 17])
        ask(datagrams, server)  # begins anew, and is asked about anew
        assert [each.flow_id for each in stage.proxy.live(protocol="udp")] != [flow.flow_id]
        with pytest.raises(ControlError):
            stage.proxy.control.kill(flow.flow_id, [("all_tenants", "true")])


@pytest.mark.parametrize("kind", KINDS)
@VERSIONS
def test_a_denied_flow_is_told_so(kind, version):
    with scene(kind, more=DENYING) as stage:
        listener, server = stage.listen(version, DENIED_PORT), echo(stage, version)
        sniffer, at_origin = stage.sniffer(stage.client, stage.device), stage.sniffer(stage.origin, "o1")
        assert refusal(stage, version, listener) == {4: errno.EHOSTUNREACH, 6: errno.EACCES}[version]
        errors = [data[20:22] if version == 4 else data[40:42] for is_in, data in sniffer.read()
                  if is_in and data[9 if version == 4 else 6] == (1 if version == 4 else 58)]  # fmt: skip
        assert {4: bytes((3, 13)), 6: bytes((1, 1))}[version] in errors  # administratively prohibited
        ask(stage.sock(stage.client, version, socket.SOCK_DGRAM), server)
        assert not [packet for packet in at_origin.arrived(6) if packet.dport == DENIED_PORT]
        (record,) = until(lambda: stage.proxy.ended(dst_port=DENIED_PORT))
        assert (record.verdict, record.close_reason) == ("denied", "denied")


def lasting(namespace):
    """What does not change by itself."""
    return {name: value for name, value in state_of(namespace).items() if name not in ("conntrack", "nft list ruleset")}


def test_a_second_proxy_of_the_same_name_says_so_and_disturbs_nobody(tmp_path):
    with scene("interface") as stage:
        client, origin = stage.pair(4)
        exchange(client, origin)
        link = stage.client_at("in2", gateway=["10.9.0.1/24"], own=["10.9.0.2/24"])
        words = stage.proxy.configuration.replace("in1", "in2")
        other = Proxy(str(tmp_path), stage.edge, words)
        before = lasting(stage.edge)
        code, lines = other.refusal()
        assert code != 0
        assert len(lines) == 1, lines
        assert "another proxy in this network namespace uses the same resources" in lines[0]
        assert "instance" in lines[0]
        assert lasting(stage.edge) == before
        exchange(client, origin)
        own = "{instance: other, mark: 0x11110000, first_zone: 4369, priority: 80, first_table: 0x11110000}"
        named = Proxy(str(tmp_path), stage.edge, f"{words}kernel: {own}\n")
        named.start()
        listener = stage.listen(4)
        with link.run(socket.create_connection, (ORIGIN[4], listener.getsockname()[1]), 15) as sock:
            exchange(sock, stage.accept(listener))
        exchange(client, origin)
        named.close()
        exchange(client, origin)


HIDING_NFT = 'mount --bind /dev/null /usr/sbin/nft; exec "$@"'
WITHOUT = {
    "no right over the network": ("unshare", "--user", "--map-user", "1000", "--map-group", "1000"),
    "no nft": ("unshare", "--mount", "--propagation", "private", "sh", "-c", HIDING_NFT, "sh"),
}


@pytest.mark.parametrize("why", WITHOUT)
def test_connected_tunnels_leave_by_sockets_where_the_kernel_may_not_be_used(why):
    with scene("connected", wrapper=WITHOUT[why]) as stage:
        exchange(*stage.pair(4))
        (flow,) = stage.proxy.live(protocol="tcp")
        assert flow.offramp == "socket"
        said = [line for line in stage.proxy.log.splitlines() if "flows leave by sockets" in line]
        assert len(said) == 1
        assert state_of(stage.edge) == stage.before


@pytest.mark.parametrize("why", WITHOUT)
def test_an_interface_on_ramp_refuses_to_start_without_the_kernel(why, tmp_path):
    with scene("interface") as stage:
        assert stage.proxy.stop() == 0
        before = state_of(stage.edge)
        code, lines = Proxy(str(tmp_path), stage.edge, stage.proxy.configuration, WITHOUT[why]).refusal()
        assert code != 0
        assert len(lines) == 1, lines
        assert "interface on-ramps need the kernel off-ramp" in lines[0]
        assert state_of(stage.edge) == before


def test_a_stopped_proxy_ends_flows_of_tunnels_and_a_new_one_serves(tmp_path):
    with scene("connected") as stage:
        client, origin = stage.pair(4)
        exchange(client, origin)
        assert stage.proxy.stop() == 0
        assert not entries(stage.edge)
        stage.proxy.start()
        (record,) = stage.proxy.ended(protocol="tcp")
        assert record.close_reason == "drain"
        again = connect_tunnel(stage.proxy.file("ramp.sock"), offload=False)
        try:
            server = echo(stage, 4)
            with again.run(socket.socket, FAMILIES[4], socket.SOCK_DGRAM) as sock:
                assert ask(sock, server) == b"canary"
        finally:
            again.close()
