"""Services of nodes that have network namespaces of their own, as root or in a user namespace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.origin import Origin, measured, needs, node, run, wait_until

pytestmark = pytest.mark.netns

ADDRESSES = ["10.77.0.10", "10.77.0.11", "fd00:77::10"]


class Sandbox:
    """A user namespace (root in it), a network namespace that stands for the lab, and one more for the node `web`."""

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[bytes]] = []
        self.lab = self._hold("unshare", "--user", "--map-root-user", "--net", "--uts")
        self.enter = [
            *("nsenter", "--preserve-credentials", f"--user=/proc/{self.lab}/ns/user"),
            *(f"--net=/proc/{self.lab}/ns/net", f"--uts=/proc/{self.lab}/ns/uts"),
        ]
        self.web = self._hold(*self.enter, "unshare", "--net", "--uts")
        # a client's namespace is the lab's: one cable to the node
        self.shell(f"ip link add lab0 type veth peer name eth0 netns {self.web}")
        self.shell("ip address add 10.77.0.1/24 dev lab0; ip address add fd00:77::1/64 dev lab0 nodad")
        self.shell("ip link set lo up; ip link set lab0 up")
        self.in_web("ip link set lo up; ip link set eth0 up; hostname web")
        for address in ADDRESSES:
            self.in_web(f"ip address add {address}/{'64 dev eth0 nodad' if ':' in address else '24 dev eth0'}")

    def _hold(self, *command: str) -> int:
        holder = subprocess.Popen([*command, "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        self._holders.append(holder)
        if not holder.stdout.readline():
            self.close()
            pytest.skip(f"no user or network namespaces here: {' '.join(command)}")
        return holder.pid

    def shell(self, script: str) -> str:
        done = run(*self.enter, "sh", "-ec", script)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    def in_web(self, script: str) -> str:
        return self.shell(f"nsenter --net=/proc/{self.web}/ns/net --uts=/proc/{self.web}/ns/uts sh -ec '{script}'")

    def close(self) -> None:
        for holder in self._holders:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            if holder.stdout is not None:
                holder.stdout.close()


@pytest.fixture(scope="module")
def sandbox():
    needs("unshare", "nsenter", "ip", "ss", "curl", "ssh", "iperf3")
    made = Sandbox()
    yield made
    made.close()


@pytest.fixture(scope="module")
def origin(sandbox, tmp_path_factory):
    places = {"netns": f"/proc/{sandbox.web}/ns/net", "utsns": f"/proc/{sandbox.web}/ns/uts"}
    web = node("http", "https", "ssh", "echo", "iperf3", addresses=ADDRESSES, **places)
    running = Origin(tmp_path_factory.mktemp("origin"), web, prefix=sandbox.enter)
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


@pytest.fixture(params=ADDRESSES)
def address(request):
    return request.param


def test_sockets_are_in_the_nodes_namespace_and_the_process_is_not(origin, sandbox):
    ports = {str(port) for port in origin.port.values()}
    listening = {line.split()[3].rpartition(":")[2] for line in sandbox.in_web("ss -Hltn").splitlines()}
    assert ports <= listening
    assert sandbox.shell("ss -Hltn") == ""
    assert os.readlink(f"/proc/{origin.process.pid}/ns/net") == os.readlink(f"/proc/{sandbox.lab}/ns/net")


def test_http_answers_on_every_address(origin, sandbox, address):
    page = sandbox.shell(f"curl -sSg -H Accept:application/json '{origin.url('/', address)}'")
    assert json.loads(page)["server"] == address
    secure = origin.url("/bytes/100000", address, "https")
    got = sandbox.shell(f"curl -sSg --cacert {origin.state}/ca.pem '{secure}' | wc -c")
    assert got.strip() == "100000"


def test_a_node_reaches_itself_on_loopback(origin, sandbox):
    assert "node         web" in sandbox.in_web(f"curl -sS {origin.url('/')}")


UDP_CLIENT = """
import socket, sys
address, port = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.connect((address, port))  # from now on it receives from that address only
for size in (0, 1, 1473, 65507):
    sock.send(bytes(size))
    assert sock.recv(70000) == bytes(size)
print("all")
"""


def test_udp_answers_come_from_the_address_that_was_asked(origin, sandbox, address):
    done = run(*sandbox.enter, sys.executable, "-c", UDP_CLIENT, address, origin.port["echo"])
    assert done.stdout == "all\n", done.stderr


def test_ssh_runs_its_commands_inside_the_node(origin, sandbox, address):
    known = origin.state / "known_hosts"
    options = f"-F none -o BatchMode=yes -o UserKnownHostsFile={known} -p {origin.port['ssh']}"
    script = "hostname; readlink /proc/self/ns/net"
    name, network = sandbox.shell(f"ssh {options} {address} '{script}'").split()
    assert name == "web"
    assert network == os.readlink(f"/proc/{sandbox.web}/ns/net")
    terminal = sandbox.shell(f"ssh -tt {options} {address} '{script}; tty' < /dev/null")
    assert terminal.split()[:2] == [name, network]
    assert "/dev/pts/" in terminal


def test_iperf3_listens_inside_the_node(origin, sandbox, address):
    done = measured(*sandbox.enter, "iperf3", "-c", address, "-p", origin.port["iperf3"], "-n", "1M", "--json")
    assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] > 0


def test_programs_left_in_the_node_end_with_the_services(sandbox, tmp_path):
    web = node("ssh", addresses=ADDRESSES, netns=f"/proc/{sandbox.web}/ns/net")
    origin = Origin(tmp_path, web, prefix=sandbox.enter)
    options = f"-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile={tmp_path}/known"
    command = f"ssh {options} -p {origin.port['ssh']} {ADDRESSES[0]} sleep 1000"
    client = subprocess.Popen([*sandbox.enter, "sh", "-c", f"exec {command}"], stderr=subprocess.DEVNULL)
    try:
        wait_until(origin.programs, "the command runs")
        assert Path(f"/proc/{origin.programs()[0]}/ns/net").readlink() == Path(f"/proc/{sandbox.web}/ns/net").readlink()
        assert origin.stop() == 0
        assert client.wait(10) == 255
    finally:
        client.kill()
        client.wait()
