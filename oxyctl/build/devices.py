"""Creates devices and rules of a plan in the calling thread's network namespace."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from oxyctl.net import netlink, rules
from oxyctl.net.offload import disable_checksum_offload
from oxyctl.net.persistent import new_tun
from oxyctl.net.tunnels import TunnelLink, listen_gue, new_tunnel
from oxyctl.plan.steps import Device, Rule
from oxyctl.topology.routes import EVERYTHING

LAST_METRIC = 4096  # higher than that of any other default route
MIN_IPV6_MTU = 1280  # RFC 8200 section 5
QUEUE_PACKETS = 2000  # queue in the kernel while an agent is busy


def make_devices(devices: Sequence[Device], policy_rules: Sequence[Rule]) -> None:
    """Create the devices, up, with their addresses and routes. OSError: refused; it names the device."""
    if any(rule.is_first for rule in policy_rules):
        rules.move_local_rule()
    for device in devices:
        if device.kind == "tun":
            new_tun(device.name, device.index)
        elif device.port:
            listen_gue(device.port, 6 if device.kind == "gue6" else 4)
    for interface in sorted({device.carrier for device in devices if device.carrier}):
        disable_checksum_offload(interface)  # the far end may be a program that reads raw packets
    requests = [new_tunnel(_link(device)) for device in devices if device.kind != "tun"]
    for device in devices:
        requests += _requests(device)
    for rule in policy_rules:
        requests += rules.from_interface(rule.interface, rule.table, is_first=rule.is_first)
    netlink.run(requests)


def _link(device: Device) -> TunnelLink:
    return TunnelLink(
        name=device.name,
        number=device.index,
        kind=device.kind,
        local=device.local,
        remote=device.remote,
        key=device.key,
        checksum=device.checksum,
        port=device.port,
    )


def _requests(device: Device) -> Iterator[netlink.Request]:
    yield netlink.set_link(device.index, mtu=device.mtu, queue=QUEUE_PACKETS if device.kind == "tun" else None)
    for text in device.addresses:
        yield netlink.add_address(device.index, ipaddress.ip_interface(text))
    for table in device.tables:
        for everything in EVERYTHING:
            if everything.version == 4 or device.mtu >= MIN_IPV6_MTU:  # with a smaller MTU the kernel disables IPv6
                yield netlink.add_route(everything, device.index, metric=LAST_METRIC, table=table)
            if table != netlink.RT_TABLE_MAIN:  # once the device is gone, no other table may decide
                yield netlink.add_unreachable_route(everything, LAST_METRIC + 1, table)
