"""Requests for tunnel devices: what pyroute2 reads in them, and what a kernel that has them makes of them."""

from __future__ import annotations

import ipaddress

import pytest

from oxyctl.net import generic, netlink
from oxyctl.net.tunnels import TunnelLink, new_tunnel, try_tunnel
from tests.net.test_netlink import in_new_namespace, ip, needs_ip, needs_root

GRE = TunnelLink("gre1", 1002, "gre", "10.0.0.1", "10.0.0.2", key=42, checksum=True)
GRE6 = TunnelLink("gre2", 1003, "ip6gre", "fd00::1", "fd00::2")
GUE = TunnelLink("wan0", 100, "gue", "10.0.0.1", "10.0.0.2", port=6080)
GUE6 = TunnelLink("wan1", 101, "gue6", "fd00::1", "fd00::2", port=6081)


def decoded(link):
    """What pyroute2 finds in the request: kind, attributes of the device, and of its kind."""
    messages = pytest.importorskip("pyroute2.netlink.rtnl.ifinfmsg")
    request = new_tunnel(link)
    message = messages.ifinfmsg(netlink._header.pack(16 + len(request.body), request.kind, 0, 0, 0) + request.body)
    message.decode()
    info = message.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA")
    return message, info.get_attr("IFLA_INFO_KIND"), dict(data["attrs"])


def test_gre_is_what_pyroute2_would_send():
    message, kind, data = decoded(GRE)
    assert (message["index"], message.get_attr("IFLA_IFNAME"), kind) == (1002, "gre1", "gre")
    assert (data["IFLA_GRE_LOCAL"], data["IFLA_GRE_REMOTE"]) == ("10.0.0.1", "10.0.0.2")
    assert (data["IFLA_GRE_IKEY"], data["IFLA_GRE_OKEY"]) == (42, 42)
    assert data["IFLA_GRE_IFLAGS"] == data["IFLA_GRE_OFLAGS"] == 0xA000  # checksum and key
    assert (data["IFLA_GRE_TTL"], data["IFLA_GRE_PMTUDISC"]) == (64, 1)


def test_gre_over_ipv6_is_what_pyroute2_would_send():
    _, kind, data = decoded(GRE6)
    assert (kind, data["IFLA_IP6GRE_LOCAL"], data["IFLA_IP6GRE_REMOTE"]) == ("ip6gre", "fd00::1", "fd00::2")
    assert data["IFLA_IP6GRE_FLAGS"] == 3  # neither a limit to encapsulation nor a traffic class of its own
    assert "IFLA_IP6GRE_IKEY" not in data


def test_gue_is_what_pyroute2_would_send():
    _, kind, data = decoded(GUE)
    assert (kind, data["IFLA_SIT_LOCAL"], data["IFLA_SIT_REMOTE"]) == ("sit", "10.0.0.1", "10.0.0.2")
    assert (data["IFLA_SIT_PROTO"], data["IFLA_SIT_ENCAP_TYPE"]) == (0, 2)
    assert data["IFLA_SIT_ENCAP_DPORT"] == 6080


@pytest.mark.netns
@needs_root
@pytest.mark.parametrize("kind", ["gre", "ip6gre", "gue", "gue6"])
def test_a_trial_makes_a_device_or_says_why_not(kind):
    """Whatever the kernel has, the answer is the kernel's: where it has none, that is one of two errors."""

    def scenario():
        try:
            try_tunnel(kind)
        except netlink.NetlinkError as error:
            return error
        return None

    refused = in_new_namespace(scenario)
    assert refused is None or refused.errno in (2, 95), refused


def offered(kind):
    """Whether this kernel has tunnels of `kind`."""
    try:
        in_new_namespace(lambda: try_tunnel(kind))
    except OSError:
        return False
    return True


@pytest.mark.netns
@needs_root
@needs_ip
@pytest.mark.parametrize("link", [GRE, GRE6, GUE, GUE6], ids=lambda link: link.kind)
def test_the_kernel_makes_the_device_as_asked(link):
    if not offered(link.kind):
        pytest.skip(f"this kernel has no {link.kind}")

    def scenario():
        netlink.run([new_tunnel(link), netlink.set_link(link.number, mtu=1400)])
        return ip("-d", "link", "show", link.name)

    [found] = in_new_namespace(scenario)
    data = found["linkinfo"]["info_data"]
    assert (found["ifindex"], found["mtu"]) == (link.number, 1400)
    assert ipaddress.ip_address(data["remote"]) == ipaddress.ip_address(link.remote)
    assert data["local"] == link.local
    if link.key is not None:
        assert (data["ikey"], data["okey"]) == ("0.0.0.42", "0.0.0.42")
    if link.port:
        assert (data["encap"]["type"], data["encap"]["dport"]) == ("gue", link.port)


@pytest.mark.netns
@needs_root
def test_a_family_that_the_kernel_does_not_have():
    with pytest.raises(netlink.NetlinkError, match="family no-such-thing: "):
        generic.request("no-such-thing", 1, b"", "something")


@pytest.mark.netns
@needs_root
def test_a_command_that_a_family_refuses():
    with pytest.raises(netlink.NetlinkError, match="the question: "):
        generic.request("nlctrl", 200, b"", "the question")
