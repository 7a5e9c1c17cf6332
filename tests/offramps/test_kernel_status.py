"""The kernel off-ramp as it is shown: before it starts (dry run), while it runs, and where it cannot be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from ipaddress import ip_interface
from pathlib import Path

import pytest
from scapy.layers.inet import TCP

from oxyctl.net.netlink import Veth, add_address, new_veth, run, set_link
from proxy.control.client import ControlClient, ControlError
from proxy.control.schema import Status
from proxy.device import routing
from proxy.device.interface import set_sysctl
from proxy.device.namespaces import current_network
from tests.netns import Namespace, needs_root
from tests.running import CONFIGURATION, ROOT, Stage, staged, until

pytestmark = [pytest.mark.netns, needs_root]

KERNEL = CONFIGURATION + "offramp: kernel\n"
RAMP = """
tenants: {acme: {}}
onramps: [{kind: interface, interfaces: [IN], tenant: acme}]
offramp: kernel
kernel: {priority: 90}
"""


def changes(stage: Stage) -> tuple[bytes, list[routing.Rule], list[str]]:
    """What the off-ramp may touch of the edge's namespace."""

    def look() -> tuple[bytes, list[routing.Rule], list[str]]:
        sysctls = [Path("/proc/sys/net/ipv4", name).read_text() for name in ("conf/lan/forwarding", "fwmark_reflect")]
        names = [name for name in os.listdir("/proc/sys/net/ipv4/conf") if name.startswith("ox")]
        return subprocess.check_output(["nft", "list", "tables"]), list(routing.rules()), [*sysctls, *names]

    found: tuple[bytes, list[routing.Rule], list[str]] = stage.edge.run(look)
    return found


def proxy(namespace: Namespace, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proxy", *options, str(file)]
    done: subprocess.CompletedProcess[str] = namespace.run(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True
    )
    return done


def test_status_says_how_flows_leave_and_how_often_the_table_was_mended():
    with staged(configuration=KERNEL) as stage:
        shown = stage.status.kernel_offramp
        assert (shown.state, shown.table, shown.repairs, shown.lost) == ("kernel", "oxy_proxy", 0, 0)
        assert len(shown.devices) == 4  # two tenants with a network each, with offload and without
        assert shown.conntrack_max > 0
        with stage.listen() as listener:
            sock = stage.laptop().tcp(*listener.getsockname())
            stage.accept(listener)
            assert stage.status.kernel_offramp.conntrack_entries >= 1
            sock.close()
        stage.edge.run(subprocess.run, ["nft", "flush", "ruleset"], check=True)
        until(lambda: stage.status.kernel_offramp.repairs == 1)
        lines = stage.control.metrics().splitlines()
        assert "oxy_kernel_table_repairs_total 1" in lines
        assert f"oxy_conntrack_max {shown.conntrack_max}" in lines


def test_where_it_cannot_be_the_status_says_why():
    with staged(configuration=KERNEL) as stage, tempfile.TemporaryDirectory() as other:
        file = Path(other, "proxy.yaml")
        file.write_text(KERNEL + "kernel: {instance: b}\n")
        rules = changes(stage)
        with open(Path(other, "proxy.log"), "wb") as log:
            command = [sys.executable, "-m", "proxy", str(file)]
            second = stage.edge.run(subprocess.Popen, command, cwd=ROOT, stdout=log, stderr=log)
        try:
            control = Path(other, "control.sock")
            until(lambda: control.exists() or second.poll() is not None)
            shown = until(lambda: answer(control)).kernel_offramp
        finally:
            second.terminate()
            second.wait()
        assert (shown.state, shown.table, shown.devices) == ("unavailable", None, [])
        assert (shown.reason or "").endswith(
            "give this one its own 'kernel: {mark: ..., first_table: ..., first_zone: ...}'"
        )
        assert changes(stage) == rules


def answer(control: Path) -> Status | None:
    """The status of a proxy, once it answers."""
    try:
        return ControlClient(str(control)).status()
    except ControlError:
        return None


def test_a_dry_run_says_what_would_change_and_changes_nothing():
    with staged() as stage:  # whose proxy leaves flows by sockets
        file = Path(stage.directory, "kernel.yaml")
        file.write_text(KERNEL)
        before = changes(stage)
        done = proxy(stage.edge, file, "--dry-run")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert any("TUN devices: oxkN, two for each network: 4; oxu0" in line for line in lines)
        assert any("the table inet oxy_proxy" in line for line in lines)
        assert any("rules of priority 60 to 64, for marks 0x6f780000/0xffff0000" in line for line in lines)
        assert any("sysctl net.ipv4.fwmark_reflect: 0 -> 1" in line for line in lines)
        assert [line for line in lines if not line.startswith("would change  ")] == [
            "note          forwarding is off on lan, port: the proxy switches it on there while it runs"
        ]
        assert changes(stage) == before
        assert proxy(stage.edge, Path(stage.directory, "proxy.yaml"), "--dry-run").stdout == (
            "nothing would change in this network namespace (offramp: sockets)\n"
        )


def test_what_the_dry_run_announces_is_what_the_start_changes():
    with staged() as stage:
        file = Path(stage.directory, "kernel.yaml")
        file.write_text(KERNEL)
        announced = proxy(stage.edge, file, "--dry-run").stdout
        before = changes(stage)
        stage.stop()
        stage.configuration = KERNEL
        stage.start()
        table, rules, sysctls = changes(stage)
        added = [rule for rule in rules if rule not in before[1]]
        assert b"oxy_proxy" in table
        assert {rule.priority for rule in added} <= {60, 61, 62, 63}
        for name, old, new in zip(("conf.lan.forwarding", "fwmark_reflect"), before[2], sysctls, strict=False):
            said = f"sysctl net.ipv4.{name}: {old.strip()} -> {new.strip()}"
            assert (said in announced) == (old != new)
        assert proxy(stage.edge, file, "--dry-run").returncode == 0
        stage.stop()
        assert changes(stage) == before


def test_a_dry_run_says_what_is_in_the_way_and_so_does_the_log():
    with staged() as stage:
        closed = "table inet fw { chain forward { type filter hook forward priority 0; policy drop;\n}\n}\n"
        stage.edge.run(subprocess.run, ["nft", "-f", "-"], input=closed, text=True, check=True)
        file = Path(stage.directory, "kernel.yaml")
        file.write_text(RAMP.replace("IN", "lan"))
        (line,) = [each for each in proxy(stage.edge, file, "--dry-run").stdout.splitlines() if "in the way" in each]
        assert "the chain inet fw forward of nftables drops packets" in line
        assert "nft insert rule inet fw forward 'meta mark & 0xffff0000 == 0x6f780000 accept'" in line
        stage.stop()
        stage.configuration = KERNEL
        stage.start()
        assert "obstacle to the kernel off-ramp: the chain inet fw forward" in stage.log
        fix = next(each for each in stage.log.splitlines() if "to mend: " in each).split("to mend: ")[1]
        with stage.listen() as listener:
            laptop = stage.laptop()
            with pytest.raises(TimeoutError):
                laptop.tcp(*listener.getsockname(), timeout_s=1)
            stage.edge.run(subprocess.run, fix, shell=True, check=True)
            laptop.tcp(*listener.getsockname())


def test_an_on_ramp_that_is_not_there_is_one_message():
    with staged() as stage:
        file = Path(stage.directory, "kernel.yaml")
        file.write_text(RAMP.replace("IN", "lam"))
        done = proxy(stage.edge, file, "--dry-run")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "proxy: on-ramp: no interface 'lam'; did you mean 'lan'?\n"


class TwoNetworks(Stage):
    """`eth1` leads to a second network with the addresses of the first: globex is bound to it."""

    strict = 0

    def start(self) -> None:
        self.second = Namespace()
        fd = self.second.run(current_network)
        pair = Veth("eth1", 40, 0, "eth9", 41, bytes.fromhex("020000000009"))
        self.edge.run(run, [new_veth(pair, fd), set_link(40), add_address(40, ip_interface("10.50.0.1/24"))])
        os.close(fd)
        self.second.run(run, [set_link(41), add_address(41, ip_interface("10.50.0.10/24"))])
        self.edge.run(set_sysctl, "net/ipv4/conf/eth1/rp_filter", self.strict)
        super().start()

    def close(self) -> None:
        super().close()
        self.second.close()


class Strict(TwoNetworks):
    strict = 1


@pytest.mark.parametrize("kind", [TwoNetworks, Strict])
def test_where_strict_rp_filter_is_found_the_kernel_drops_answers(kind):
    tenants = "tenants: {acme: {egress: lan}, globex: {egress: eth1}}\n"
    ramp = "onramps: [{kind: connected, path: ramp.sock}]\nofframp: kernel\n"
    with staged(kind, configuration=tenants + ramp) as stage, stage.second.run(socket.socket) as listener:
        listener.bind(("10.50.0.10", 80))
        listener.listen()
        client = stage.client("globex")
        client.send(client.segment(4, 4000, 80, "S", seq=1))
        if kind is Strict:
            line = next(each for each in stage.log.splitlines() if "obstacle to the kernel off-ramp" in each)
            assert "rp_filter is strict on eth1" in line
            until(lambda: stage.edge.run(filtered) >= 1)
            stage.edge.run(subprocess.run, line.split("to mend: ")[1], shell=True, check=True)  # SYN-ACKs are repeated
        else:
            assert "obstacle to the kernel off-ramp" not in stage.log
        assert client.packet()[TCP].flags == "SA"


def filtered() -> int:
    """Packets that rp_filter has dropped in the calling thread's namespace."""
    names, values = Path("/proc/thread-self/net/netstat").read_text().splitlines()[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))["IPReversePathFilter"])
