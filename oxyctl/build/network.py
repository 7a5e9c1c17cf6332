"""Creates namespaces, sysctls, bridges, veth pairs, addresses and routes of a plan, in batches of netlink requests."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from oxyctl.build.devices import make_devices
from oxyctl.build.files import show_files
from oxyctl.build.trust import make_trust, replacements
from oxyctl.errors import OxyctlError
from oxyctl.net import netlink, shaping
from oxyctl.net.namespaces import Namespaces
from oxyctl.plan.steps import Device, Link, Namespace, Plan, Route, Rule
from oxyctl.render.units import count_text


def write_files(plan: Plan) -> None:
    """Write the files of `plan`, in directories that only the lab's user can enter."""
    for file in plan.files:
        path = Path(file.path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(file.text)


def build(plan: Plan, namespaces: Namespaces) -> Iterator[str]:
    """Carry out `plan` in the calling thread's namespaces. Yield the name of each step. OxyctlError, OSError."""
    yield count_text(len(plan.namespaces), "namespace")
    # bridges only forward the nodes' packets and need no addresses of their own
    set_sysctls({"net/ipv6/conf/default/disable_ipv6": ["1"]})
    for namespace in plan.namespaces:
        namespaces.create(namespace.node)
    make_trust(plan)
    yield f"{count_text(len(plan.bridges), 'network')}, {count_text(len(plan.links), 'link')}"
    _make_links(plan, namespaces)
    for namespace in plan.namespaces:
        own = [link for link in plan.links if link.node == namespace.node]
        configure(namespace, own, namespaces, [route for route in plan.routes if route.node == namespace.node])
        devices = [device for device in plan.devices if device.node == namespace.node]
        add_devices(namespace.node, devices, [rule for rule in plan.rules if rule.node == namespace.node], namespaces)


def _make_links(plan: Plan, namespaces: Namespaces) -> None:
    requests = [netlink.set_link(netlink.LOOPBACK_INDEX)]
    requests += [netlink.new_bridge(bridge.name, bridge.index) for bridge in plan.bridges]
    with contextlib.ExitStack() as stack:
        for link in plan.links:
            fd = os.open(namespaces.path(link.node), os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            requests.append(netlink.new_veth(_veth(link), fd))
        requests += [shaping.set_mtu(link.port_index, link.mtu) for link in plan.links if link.mtu is not None]
        netlink.run(requests)


def _veth(link: Link) -> netlink.Veth:
    return netlink.Veth(
        port=link.port,
        port_index=link.port_index,
        bridge_index=link.bridge_index,
        peer=link.interface,
        peer_index=link.index,
        mac=bytes.fromhex(link.mac.replace(":", "")),
    )


def configure(namespace: Namespace, links: list[Link], namespaces: Namespaces, routes: Sequence[Route] = ()) -> None:
    """Set the sysctls of `namespace`, its ends of `links` with addresses, and its `routes`. OxyctlError: refused."""
    requests = [netlink.set_link(netlink.LOOPBACK_INDEX)]
    for link in links:
        requests.append(netlink.set_link(link.index, mtu=link.mtu))
        requests += [netlink.add_address(link.index, ipaddress.ip_interface(text)) for text in link.addresses]
    for route in routes:
        requests.append(netlink.add_route(ipaddress.ip_network(route.to), route.index, route.via, route.metric))
    if files := replacements(namespace.bundle) | namespace.files:
        show_files(namespace.node, files, namespaces)
    with namespaces.inside(namespace.node):
        try:
            set_sysctls(namespace.sysctls)
            netlink.run(requests)
        except OSError as error:
            raise OxyctlError(f"node '{namespace.node}': {error}") from None


def add_devices(node: str, devices: Sequence[Device], rules: Sequence[Rule], namespaces: Namespaces) -> None:
    """Create the devices and the policy rules of `node`. OxyctlError: refused."""
    if not devices and not rules:
        return
    with namespaces.inside(node):
        try:
            make_devices(devices, rules)
        except OSError as error:
            raise OxyctlError(f"node '{node}': {error}") from None


def set_sysctls(values: dict[str, list[str]]) -> None:
    """Set each sysctl to the first of its values that the kernel accepts. OSError: it accepts none of them."""
    for name, alternatives in values.items():
        refusal: OSError | None = None
        for value in alternatives:
            try:
                Path("/proc/sys", name).write_text(value)
            except OSError as error:
                refusal = error
            else:
                break
        else:
            assert refusal is not None
            raise refusal
