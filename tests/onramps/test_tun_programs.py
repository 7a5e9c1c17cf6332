"""Real programs through the TUN on-ramp: what they see is what they would see of a router.

client 10.60.0.2 ---- 10.60.0.1 edge: everything from the client goes into oxy0, the proxy ---- 10.50.0.10 origin
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from scapy.layers.dns import DNS, DNSRR

from proxy.device.interface import set_sysctl
from tests.netns import Namespace, needs_root
from tests.running import ORIGIN, Stage, staged, until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]

CONFIGURATION = """
tenants: {home: {}}
onramps:
  - {kind: tun, device: oxy0, tenant: home, addresses: [192.0.0.9/31], mtu: 1500, offload: OFFLOAD}
"""
GATEWAY, PROXYS_HOP = {4: "10.60.0.1", 6: "fd00:60::1"}, {4: "192.0.0.8", 6: "fd6f:7879::1"}
STEERING = """
link add c0 type veth peer name lan0 netns /proc/{pid}/task/{tid}/ns/net
link set c0 up
addr add 10.60.0.1/24 dev c0
addr add fd00:60::1/64 dev c0 nodad
rule add iif c0 lookup 191
-6 rule add iif c0 lookup 191
route add default dev oxy0 table 191
-6 route add default dev oxy0 table 191
"""
CLIENT = """
link set lan0 up
addr add 10.60.0.2/24 dev lan0
addr add fd00:60::2/64 dev lan0 nodad
route add default via 10.60.0.1
-6 route add default via fd00:60::1
"""
NGINX = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{ listen 10.50.0.10:8080; listen [fd00:50::10]:8080; root {directory}/www; }}
}}
"""
SSHD = """
Port 2222
HostKey {directory}/host
AuthorizedKeysFile {directory}/client.pub
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
Subsystem sftp internal-sftp
"""


def needs(program):
    return pytest.mark.skipif(shutil.which(program, path="/usr/bin:/usr/sbin:/bin") is None,
                              reason=f"{program} is not installed")  # fmt: skip


class Routed(Stage):
    """A stage with a client behind the proxy's own device."""

    def __init__(self, directory: str, **options: str) -> None:
        super().__init__(directory, **options)
        self.client = Namespace()
        found = self.client.run(lambda: threading.get_native_id())
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.edge.run(set_sysctl, name, 1)
        for namespace in (self.edge, self.origin):  # the gateway's and the origin's own errors are not what is tested
            namespace.run(set_sysctl, "net/ipv4/icmp_ratelimit", 0)
            namespace.run(set_sysctl, "net/ipv6/icmp/ratelimit", 0)
        self.ip(self.edge, STEERING.format(pid=os.getpid(), tid=found))
        self.ip(self.client, CLIENT)
        self.servers: list[subprocess.Popen[bytes]] = []

    def ip(self, namespace: Namespace, batch: str) -> None:
        for line in batch.strip().splitlines():
            done = namespace.run(subprocess.run, ["ip", *line.split()], capture_output=True, check=False)
            assert done.returncode == 0, f"{line}: {done.stderr}"

    def program(self, *words: object, code: int = 0, timeout_s: float = 60) -> str:
        """What a program printed in the client's namespace."""
        done = self.client.run(
            subprocess.run, [*map(str, words)], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, port: int, *words: object) -> None:
        """Start a server at the origin; it listens on return."""
        with open(Path(self.directory, "server.log"), "ab") as log:
            server = self.origin.run(subprocess.Popen, [*map(str, words)], stdout=log, stderr=log)
        self.servers.append(server)
        until(lambda: self.origin.run(_is_open, port))

    def close(self) -> None:
        for server in self.servers:
            server.terminate()
            server.wait(15)
        self.client.close()
        super().close()


def _is_open(port: int) -> bool:
    """Whether somebody listens, without knocking: iperf3 would take that for a client."""
    tables = Path("/proc/thread-self/net/tcp").read_text() + Path("/proc/thread-self/net/tcp6").read_text()
    states = [line.split()[1:4] for line in tables.splitlines()]
    return any(local.endswith(f":{port:04X}") and state == "0A" for local, _, state in states)


@pytest.fixture(scope="module", params=["true", "false"], ids=["offload", "plain"])
def stage(request):
    with staged(Routed, configuration=CONFIGURATION.replace("OFFLOAD", request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def nginx(stage):
    directory = Path(stage.directory)
    directory.chmod(0o755)  # its workers have no rights
    (directory / "www").mkdir()
    (directory / "www" / "big").write_bytes(bytes(range(256)) * (64 << 12))
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory))
    stage.serve(8080, "/usr/sbin/nginx", "-c", directory / "nginx.conf", "-p", directory)


@pytest.fixture(scope="module")
def sshd(stage):
    directory = Path(stage.directory)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    (directory / "sshd.conf").write_text(SSHD.format(directory=directory))
    own_run = f"mount -t tmpfs run /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f {directory}/sshd.conf"
    stage.serve(2222, "unshare", "--mount", "--propagation", "private", "sh", "-c", own_run)


@pytest.fixture(scope="module")
def iperf3(stage):
    stage.serve(5201, "iperf3", "-s")


@needs("nginx")
@needs("curl")
def test_nginx_and_curl(stage, version, nginx):
    host = f"[{ORIGIN[6]}]" if version == 6 else ORIGIN[4]
    copy = Path(stage.directory, "copy")
    stage.program("curl", "-sS", "--fail", "-o", copy, f"http://{host}:8080/big")
    assert copy.read_bytes() == bytes(range(256)) * (64 << 12)
    stage.program("curl", "-sS", "--fail", f"http://{host}:8080/nothing", code=22)
    stage.program("curl", "-sS", "--max-time", "10", f"http://{host}:81/", code=7)  # refused, at once
    records = until(lambda: stage.ended(dst_port=8080, dst=ORIGIN[version]))
    assert max(record.total.origin_payload_bytes for record in records) > 64 << 20


@needs("sshd")
@needs("ssh")
def test_openssh(stage, version, sshd):
    options = ["-p", 2222, "-i", f"{stage.directory}/client", "-o", "StrictHostKeyChecking=no",
               "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]  # fmt: skip
    out = stage.program("ssh", *options, f"root@{ORIGIN[version]}", "head -c 3000000 /dev/zero | wc -c; exit 3", code=3)
    assert out.strip() == "3000000"


def measured(stage, words):
    """The report of iperf3, once its server is done with whoever came before, and has opened its listener anew.

    Whoever comes before it has closed the old one waits in that one's queue, and is reset with it.
    """

    def report():
        done = stage.client.run(subprocess.run, [*map(str, words)], capture_output=True, text=True, timeout=60)
        found = json.loads(done.stdout)
        error = found.get("error", "")
        assert re.search("^$|busy|refused|unable to connect to server: Connection reset", error), error
        return None if "error" in found else found

    return until(report, 60)


@needs("iperf3")
@pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])
def test_hundred_parallel_streams(stage, version, iperf3, direction):
    words = ["iperf3", "-c", ORIGIN[version], "-P", 100, "-t", 5, "--json", *direction]
    report = measured(stage, words)
    moved = [stream["receiver"]["bytes"] for stream in report["end"]["streams"]]
    assert len(moved) == 100
    assert min(moved) > 0


def overflowed(version):
    """How many datagrams found no room in a socket of this thread's network."""
    if version == 6:
        return int(re.search(r"^Udp6RcvbufErrors\s+(\d+)", Path("/proc/thread-self/net/snmp6").read_text(), re.M)[1])
    names, values = re.findall(r"^Udp: (.*)", Path("/proc/thread-self/net/snmp").read_text(), re.M)
    return int(dict(zip(names.split(), values.split(), strict=True))["RcvbufErrors"])


@needs("iperf3")
@pytest.mark.parametrize("direction", [[], ["-R"]], ids=["up", "down"])
def test_udp_loses_nothing(stage, version, iperf3, direction):
    """But what reached the receiver's own socket while nobody read it: its kernel counts that."""
    words = ["iperf3", "-c", ORIGIN[version], "-u", "-b", "8M", "-P", 4, "-t", 1, "-l", 1200, "-w", "4M", "--json"]
    receiver = stage.client if direction else stage.origin
    before = receiver.run(overflowed, version)
    total = measured(stage, [*words, *direction])["end"]["sum"]
    assert total["packets"] > 1000
    assert total["lost_packets"] <= receiver.run(overflowed, version) - before


@needs("dig")
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig(stage, version, transport):
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    kind = socket.SOCK_STREAM if transport == "+tcp" else socket.SOCK_DGRAM
    with stage.origin.run(socket.socket, family, kind) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((ORIGIN[version], 5353))
        answering = threading.Thread(target=_answer, args=(server, kind))
        if kind == socket.SOCK_STREAM:
            server.listen()
        answering.start()
        out = stage.program("dig", "-p", 5353, f"@{ORIGIN[version]}", "+short", "+tries=1", transport, "x.example", "A")
        answering.join()
    assert out.strip() == "192.0.2.80"


def _answer(server, kind):
    """One question's answer."""
    if kind == socket.SOCK_DGRAM:
        data, address = server.recvfrom(1000)
        server.sendto(_reply(data), address)
        return
    sock, _ = server.accept()
    with sock:
        reply = _reply(sock.recv(1000)[2:])
        sock.sendall(len(reply).to_bytes(2, "big") + reply)


def _reply(question):
    asked = DNS(question)
    return bytes(DNS(id=asked.id, qr=1, aa=1, qd=asked.qd, an=DNSRR(rrname="x.example.", ttl=5, rdata="192.0.2.80")))


@needs("ping")
@pytest.mark.parametrize("options", [[], ["-s", 0], ["-s", 4000], ["-M", "do", "-s", 1400], ["-t", 4]],
                         ids=["plain", "empty", "fragments", "DF", "TTL 4"])  # fmt: skip
def test_ping(stage, version, options):
    out = stage.program("ping", f"-{version}", "-n", "-c", 3, "-i", "0.05", "-W", 5, *options, ORIGIN[version])
    assert "3 received, 0% packet loss" in out


@needs("ping")
def test_ping_with_record_route(stage):
    """The option ends at the proxy, whose own request goes on without; the answer comes all the same."""
    out = stage.program("ping", "-n", "-R", "-c", 2, "-i", "0.05", "-W", 5, ORIGIN[4])
    assert "2 received, 0% packet loss" in out


@needs("ping")
def test_ping_that_may_not_be_cut_is_told_the_mtu(stage, version):
    done = stage.program("ping", f"-{version}", "-n", "-M", "do", "-s", 1600, "-c", 1, "-W", 5, ORIGIN[version], code=1)
    assert "0 received" in done


@needs("traceroute")
@pytest.mark.parametrize("probe", [[], ["-I"], ["-T", "-p", "8080"]], ids=["udp", "icmp", "tcp"])
def test_traceroute_shows_the_proxy_and_ends_at_the_origin(stage, version, probe, nginx):
    out = stage.program("traceroute", f"-{version}", "-n", "-q", 1, "-m", 6, "-w", 3, *probe, ORIGIN[version])
    hops = [line.split()[1] for line in out.splitlines()[1:]]
    assert hops == [GATEWAY[version], PROXYS_HOP[version], ORIGIN[version]]


@needs("tracepath")
def test_tracepath_shows_the_way_and_its_mtu(stage, version):
    out = stage.program("tracepath", f"-{version}", "-n", "-m", 6, ORIGIN[version])
    assert PROXYS_HOP[version] in out
    assert "reached" in out
    assert "pmtu 1500" in out


@needs("mtr")
def test_mtr_shows_the_way_without_loss(stage, version):
    out = stage.program("mtr", f"-{version}", "-n", "-r", "-c", 3, "-i", "0.2", ORIGIN[version])
    rows = [line.split() for line in out.splitlines() if "|--" in line]
    assert [row[1] for row in rows] == [GATEWAY[version], PROXYS_HOP[version], ORIGIN[version]]
    assert {row[2] for row in rows} == {"0.0%"}


def test_example_is_what_these_tests_run():
    """The file that users start from has the same on-ramp."""

    example = yaml.safe_load(Path("examples/tun.yaml").read_text())
    tested = yaml.safe_load(CONFIGURATION.replace("OFFLOAD", "true"))
    assert example["onramps"] == tested["onramps"]
    checked = [sys.executable, "-c", "from proxy.settings import load; load('examples/tun.yaml')"]
    assert subprocess.run(checked, check=False).returncode == 0
