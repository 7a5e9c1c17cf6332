"""The tunnels of sites as steps: devices, rules and agents' configuration, depending on what carries each end.

                site's namespace                             proxy's namespace
    kernel      LAN -> table -> wan0 (gre, gue) ==========>  gre1 -> table -> tun1 - agent - GUE to the proxy
    user space  LAN -> table -> wan0 (TUN) - agent =======>  agent (raw socket) ------------ GUE to the proxy

A tunnel over GUE ends at the proxy itself. At the edge, rules precede the namespace's own addresses: a packet out of a
tunnel belongs to its tenant, so this machine's kernel must never answer it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

from oxyctl.plan.draft import FORWARDING, Draft
from oxyctl.plan.steps import By, Device, Rule, Services, SiteOpen, SiteTunnel
from oxyctl.topology.links import impairment_of
from oxyctl.topology.model import Lab, Node
from oxyctl.topology.nodes import GreSiteNode, GueSiteNode, SiteNode
from oxyctl.topology.sites import (
    automatic_mtu,
    context_of,
    inner_addresses,
    number_of,
    outer_addresses,
    outer_family,
)
from proxy.wire.gue import PORT

INTERFACE, INDEX = "wan0", 100  # the tunnel device of a site
FIRST_EDGE_INDEX = 1000  # of the devices at the edge, two for each site
MAIN, LAN_TABLE, FIRST_UP_TABLE, FIRST_DOWN_TABLE = 254, 100, 1000, 2000  # routing tables
FIRST_EDGE_PORT = 20_000  # ports of the edge's agent on loopback, one for each site
LOOPBACK = "127.0.0.1"

# without link-local addresses the kernel sends nothing of its own into a tunnel's device
NO_LINK_LOCAL = {"net/ipv6/conf/default/addr_gen_mode": ["1"]}
NO_REVERSE_PATH_FILTER = {f"net/ipv4/conf/{each}/rp_filter": ["0"] for each in ("all", "default")}
EDGE_SYSCTLS = FORWARDING | NO_LINK_LOCAL | NO_REVERSE_PATH_FILTER
SITE_SYSCTLS = FORWARDING | NO_LINK_LOCAL


def kernel_kind(lab: Lab, name: str) -> str:
    """The kind of device with which the kernel would carry the tunnel of this site."""
    site = lab.nodes[name]
    assert isinstance(site, SiteNode)
    over_ipv6 = outer_family(site, lab) == 6
    if isinstance(site, GreSiteNode):
        return "ip6gre" if over_ipv6 else "gre"
    return "gue6" if over_ipv6 else "gue"


def carriers(lab: Lab, name: str, kernel_kinds: Collection[str]) -> tuple[By, By | None]:
    """What carries each end of a site's tunnel, the site's and the edge's. `kernel_kinds`: what the kernel supports."""
    site, kind = lab.nodes[name], kernel_kind(lab, name)
    assert isinstance(site, SiteNode)
    if isinstance(site, GreSiteNode):
        return _carrier(site.tunnel, kind in kernel_kinds), _carrier(site.edge or site.tunnel, kind in kernel_kinds)
    assert isinstance(site, GueSiteNode)
    return _carrier(site.tunnel, kind in kernel_kinds and not site.needs_user_space), None


def _carrier(setting: str, is_supported: bool) -> By:
    return "kernel" if setting == "kernel" or (setting == "auto" and is_supported) else "user space"


def edge_token(draft: Draft, name: str) -> str:
    """The token of the edge's agent, so that other programs on the proxy's loopback cannot pass for a site."""
    return hashlib.blake2s(f"{draft.run} {name}".encode(), digest_size=8).hexdigest()


def plan_tunnel(name: str, site: SiteNode, draft: Draft) -> None:
    """Add a site's tunnel to the plan: its namespace, devices, rules and entries of agents."""
    tunnel = tunnel_of(name, site, draft)
    draft.tunnels.append(tunnel)
    draft.add_namespace(name, SITE_SYSCTLS)
    draft.devices.append(_site_device(tunnel, site))
    draft.rules.append(Rule(node=name, interface=_interface(site, tunnel.lan), table=LAN_TABLE))
    if tunnel.edge == "kernel":
        _plan_edge(tunnel, site, draft)
    entries = _entries(tunnel, site, draft)
    draft.sites += entries
    probe = SiteOpen(
        ends=[entry["end"] for entry in entries], is_probed=tunnel.is_probed and not _is_cut(draft.lab, tunnel)
    )
    # no program is needed if the kernel carries the tunnel and nothing probes it
    is_served = bool(entries)
    draft.add_node(
        name,
        site.kind,
        process="sites" if is_served else "names",
        probe=probe if is_served else Services(addresses=[], services={}),
    )


def _is_cut(lab: Lab, tunnel: SiteTunnel) -> bool:
    """Whether the tunnel's outer link is down when the lab starts."""
    site = lab.nodes[tunnel.site]
    assert isinstance(site, SiteNode)
    return any(impairment_of(lab, node, site.outer_network or "").down for node in (tunnel.site, tunnel.proxy))


def tunnel_of(name: str, site: SiteNode, draft: Draft) -> SiteTunnel:
    """The tunnel of the site `name`: what carries it, its addresses and its MTU."""
    lab = draft.lab
    by, edge = carriers(lab, name, draft.kernel_kinds)
    return SiteTunnel(
        site=name,
        proxy=site.via or "",
        tenant=site.tenant,
        network=site.network,
        kind="gre" if isinstance(site, GreSiteNode) else "gue",
        interface=INTERFACE,
        addresses=[str(each) for each in inner_addresses(lab, name)[0]],
        outer=list(outer_addresses(lab, draft.assigned, name)),
        mtu=site.mtu or automatic_mtu(lab, name),
        by=by,
        edge=edge,
        lan=site.lan.name or "",
        is_probed=site.probing is not None,
    )


def _site_device(tunnel: SiteTunnel, site: SiteNode) -> Device:
    family = 6 if ":" in tunnel.outer[0] else 4
    kinds = {("gre", 4): "gre", ("gre", 6): "ip6gre", ("gue", 4): "gue", ("gue", 6): "gue6"}
    is_kernel = tunnel.by == "kernel"
    return Device(
        node=tunnel.site,
        name=INTERFACE,
        index=INDEX,
        kind=kinds[tunnel.kind, family] if is_kernel else "tun",  # type: ignore[arg-type]
        mtu=tunnel.mtu,
        carrier=_interface(site, site.outer_network) if is_kernel else "",
        local=tunnel.outer[0] if is_kernel else "",
        remote=tunnel.outer[1] if is_kernel else "",
        key=site.key if is_kernel and isinstance(site, GreSiteNode) else None,
        checksum=is_kernel and isinstance(site, GreSiteNode) and site.checksum,
        port=PORT if is_kernel and tunnel.kind == "gue" else 0,
        addresses=tunnel.addresses,
        tables=[MAIN, LAN_TABLE],
    )


def _interface(node: Node, network: str | None) -> str:
    """The interface of `node` in the lab network."""
    return f"eth{list(node.attached).index(network or '')}"


def _plan_edge(tunnel: SiteTunnel, site: SiteNode, draft: Draft) -> None:
    """Add the kernel's GRE device at the edge, the agent's TUN device, and a table for each direction."""
    assert isinstance(site, GreSiteNode)
    number = number_of(draft.lab, tunnel.site)
    up, down = FIRST_UP_TABLE + number, FIRST_DOWN_TABLE + number
    gre, tun = edge_devices(number)
    own, proxy = tunnel.outer
    draft.devices.append(
        Device(
            node=tunnel.proxy,
            name=gre,
            index=FIRST_EDGE_INDEX + 2 * number,
            kind="ip6gre" if ":" in own else "gre",
            mtu=tunnel.mtu,
            carrier=_interface(draft.lab.nodes[tunnel.proxy], site.outer_network),
            local=proxy,
            remote=own,
            key=site.key,
            checksum=site.checksum,
            tables=[down],
        )
    )
    index = FIRST_EDGE_INDEX + 2 * number + 1
    draft.devices.append(Device(node=tunnel.proxy, name=tun, index=index, kind="tun", mtu=tunnel.mtu, tables=[up]))
    draft.rules.append(Rule(node=tunnel.proxy, interface=gre, table=up, is_first=True))
    draft.rules.append(Rule(node=tunnel.proxy, interface=tun, table=down, is_first=True))


def edge_devices(number: int) -> tuple[str, str]:
    """The devices at the edge for the site with this number: the kernel's GRE device, and the agent's TUN device."""
    return f"gre{number}", f"tun{number}"


def has_kernel_edge(lab: Lab, proxy: str, kernel_kinds: Collection[str]) -> bool:
    """Whether the kernel carries the edge of any tunnel of `proxy`."""
    return any(
        isinstance(node, SiteNode) and node.via == proxy and carriers(lab, name, kernel_kinds)[1] == "kernel"
        for name, node in lab.nodes.items()
    )


def _entries(tunnel: SiteTunnel, site: SiteNode, draft: Draft) -> list[dict[str, Any]]:
    """The entries of the program `sites`: the site's end of the tunnel, with its probe, and the edge's end."""
    own, proxy = inner_addresses(draft.lab, tunnel.site)
    ends: list[dict[str, Any]] = [
        {
            "node": tunnel.site,
            "end": "probe" if tunnel.by == "kernel" else "site",
            "netns": str(draft.namespace_file(tunnel.site)),
            "mtu": tunnel.mtu,
        }
    ]
    if tunnel.by == "user space":
        ends[0] |= {"device": tunnel.interface} | _outer(tunnel, site, draft)
    if (probing := site.probing) is not None:
        ends[0]["probe"] = {
            "device": tunnel.interface,
            "address": str(proxy[0].ip),
            "source": str(own[0].ip),
            "every_s": probing.every_s,
            "timeout_s": probing.timeout_s,
        }
    if tunnel.by == "kernel" and probing is None:
        ends.clear()
    if tunnel.edge is not None:
        ends.append(_edge_entry(tunnel, site, draft))
    return ends


def _outer(tunnel: SiteTunnel, site: SiteNode, draft: Draft) -> dict[str, Any]:
    """The outer side of the site's end in user space."""
    own, proxy = tunnel.outer
    if isinstance(site, GreSiteNode):
        return {"gre": _gre(site, own, proxy)}
    assert isinstance(site, GueSiteNode)
    context = _context(draft.lab, tunnel.site, site.token) if site.may_have_context else None
    return {"gue": _gue(endpoint(own, PORT), endpoint(proxy, PORT), context, site.version)}


def _edge_entry(tunnel: SiteTunnel, site: SiteNode, draft: Draft) -> dict[str, Any]:
    assert isinstance(site, GreSiteNode)
    number = number_of(draft.lab, tunnel.site)
    own, proxy = tunnel.outer
    context = _context(draft.lab, tunnel.site, edge_token(draft, tunnel.site))
    local = endpoint(LOOPBACK, FIRST_EDGE_PORT + number)
    outer: dict[str, Any] = (
        {"gre": _gre(site, proxy, own)} if tunnel.edge == "user space" else {"device": edge_devices(number)[1]}
    )
    return {
        "node": tunnel.site,
        "end": "edge",
        "netns": str(draft.namespace_file(tunnel.proxy)),
        "mtu": tunnel.mtu,
        "gue": _gue(local, endpoint(LOOPBACK, PORT), context, 0),
    } | outer


def _gre(site: GreSiteNode, local: str, remote: str) -> dict[str, Any]:
    return {"local": local, "remote": remote, "key": site.key, "checksum": site.checksum}


def _gue(local: str, remote: str, context: dict[str, Any] | None, version: int) -> dict[str, Any]:
    return {"local": local, "remote": remote, "context": context, "version": version}


def _context(lab: Lab, name: str, token: str | None) -> dict[str, Any]:
    context = context_of(lab, name)
    return {"tenant": context.tenant, "site": context.site, "token": token}


def endpoint(address: str, port: int) -> str:
    """`10.0.0.1:6080` or `[fd00::1]:6080`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
