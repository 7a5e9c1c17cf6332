"""Phase `tunnel` and what the settings open: a site or device that a policy refuses is cut off, and let in again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxy.errors import DropReason
from tests.netns import needs_root
from tests.onramps.test_sites import datagram, hop
from tests.onramps.wan import CONFIGURATION, Wan
from tests.running import Stage, staged, until

pytestmark = [pytest.mark.netns, needs_root]

DEVICE = "  - {kind: tun, device: oxytp0, tenant: acme, addresses: [192.0.0.8/31], sources: [192.0.0.8/31]}\n"
OPEN = "rules: []\n"
BLOCKED = "rules:\n- {{name: closed, phase: tunnel, {}, action: block, reason: closed today}}\n"


class Ruled(Wan):
    """Sites and a device, under a policy."""

    def __init__(self, directory, **options):
        written = CONFIGURATION.replace("onramps:\n", f"policies: [all.yaml]\nonramps:\n{DEVICE}")
        written = written.replace("{name: paris,", "{name: paris, groups: [branch],")
        Stage.__init__(self, directory, configuration=written, **options)

    def start(self):
        Path(self.directory, "all.yaml").write_text(BLOCKED.format("site: rome"))
        super().start()

    def reload(self, text):
        Path(self.directory, "all.yaml").write_text(text)
        self.control.reload()

    def refused(self):
        return {each.id: each.refused for each in self.control.tunnels() if each.refused}


@pytest.fixture(scope="module")
def running():
    with staged(Ruled) as stage:
        yield stage


@pytest.fixture
def wan(running):
    yield running
    running.reload(OPEN)
    running.after_test()


def test_what_a_policy_refuses_when_the_proxy_starts_is_never_open(wan):
    assert wan.refused() == {"site:rome": "the policy refuses it: closed today"}
    rome = wan.site("rome")
    wan.counted(DropReason.DENIED, lambda: rome.send(datagram("10.1.0.5", "10.50.0.10")), tenant="globex")


def test_a_site_that_is_refused_is_cut_off_until_it_is_let_in_again(wan):
    client, berlin, paris = wan.client(), wan.site("berlin"), wan.site("paris")
    out = datagram(berlin.address(4), paris.address(4))
    berlin.send(out)
    assert paris.receive() == hop(out)
    wan.reload(BLOCKED.format("site: berlin"))
    (record,) = until(lambda: wan.ended(src=berlin.address(4), dst=paris.address(4)))
    assert (record.close_reason, record.verdict) == ("policy_revoked", "denied")
    assert (record.decisions[-1].stage, record.decisions[-1].rule) == ("tunnel", "closed")
    wan.counted(DropReason.DENIED, lambda: berlin.send(out), tenant="acme")
    other = datagram(client.addresses[4], "10.9.0.5")  # by berlin, or else by paris
    client.send(other)
    assert paris.receive() == hop(other)
    wan.reload(OPEN)
    assert wan.refused() == {}
    berlin.send(out)
    assert paris.receive() == hop(out)
    client.send(other)
    assert berlin.receive() == hop(other)


def test_rules_see_the_groups_that_the_settings_give_a_site(wan):
    berlin, paris = wan.site("berlin"), wan.site("paris")
    wan.reload("rules:\n- {name: no-branches, group: branch, port: 4009, action: block, refusal: drop}\n")
    paris.send(datagram(paris.address(4), berlin.address(4), dport=4009))
    (record,) = until(lambda: wan.ended(src=paris.address(4), dst_port=4009))
    assert (record.verdict, record.decisions[-1].rule) == ("denied", "no-branches")
    out = datagram(berlin.address(4), paris.address(4), dport=4009)
    berlin.send(out)
    assert paris.receive() == hop(out)


def test_a_device_of_the_proxys_own_is_ruled_like_a_client(wan):
    wan.reload(BLOCKED.format("onramp: tun"))
    assert [*wan.refused()] == ["oxytp0"]
    with wan.edge.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"oxytp0")
        wan.counted(DropReason.DENIED, lambda: sock.sendto(b"x", ("10.2.0.5", 9)), tenant="acme")
