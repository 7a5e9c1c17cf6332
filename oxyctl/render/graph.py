"""A lab as a graph for other tools: mermaid and dot. `drawing` draws in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from oxyctl.render.topology import DrawnNode, Topology, Tunnel


def mermaid(topology: Topology) -> str:
    """A flowchart, as GitHub and many wikis show it. Networks are round; tunnels are thick arrows."""
    nodes = {node.name: f"node{number}" for number, node in enumerate(topology.nodes)}
    networks = {network.name: f"net{number}" for number, network in enumerate(topology.networks)}
    lines = ["flowchart LR"]
    lines += [f"  {nodes[node.name]}[{_quoted(_label(node), '<br/>')}]" for node in topology.nodes]
    lines += [f"  {networks[n.name]}([{_quoted([n.name, *n.subnets], '<br/>')}])" for n in topology.networks]
    for node in topology.nodes:
        if (tunnel := node.tunnel) is not None:
            lines.append(f"  {nodes[node.name]} == {_quoted([_tunnel_label(tunnel)], '')} ==> {nodes[tunnel.proxy]}")
        for end in node.attachments:
            label = _quoted([end.interface, *end.addresses], "<br/>")
            lines.append(f"  {nodes[node.name]} -- {label} --- {networks[end.network]}")
    return "\n".join(lines) + "\n"


def dot(topology: Topology) -> str:
    """For Graphviz: `oxyctl lab graph --format dot | dot -Tsvg`."""
    return "\n".join(_dot(topology)) + "\n"


def _dot(topology: Topology) -> Iterator[str]:
    yield f"digraph {_escaped([topology.lab])} {{"
    yield '  graph [rankdir=LR]; node [shape=box, fontname="sans-serif"]; edge [fontname="sans-serif", fontsize=10];'
    for network in topology.networks:
        label = _escaped([network.name, *network.subnets])
        yield f"  {_escaped(['network', network.name])} [shape=ellipse, style=dashed, label={label}];"
    for node in topology.nodes:
        name = _escaped([node.name])
        yield f"  {name} [label={_escaped(_label(node))}];"
        if (tunnel := node.tunnel) is not None:
            style = f'label={_escaped([_tunnel_label(tunnel)])}, color="black:invis:black"'
            yield f"  {name} -> {_escaped([tunnel.proxy])} [{style}];"
        for end in node.attachments:
            label = _escaped([end.interface, *end.addresses])
            yield f"  {name} -> {_escaped(['network', end.network])} [dir=none, label={label}];"
    yield "}"


def _label(node: DrawnNode) -> list[str]:
    tunnel = node.tunnel
    return [node.name, node.kind, *(tunnel.addresses if tunnel else [])]


def _tunnel_label(tunnel: Tunnel) -> str:
    return tunnel.tenant if tunnel.carrier is None else f"{tunnel.tenant} {tunnel.carrier}"


def _quoted(lines: list[str], separator: str) -> str:
    escaped = [line.replace("#", "#35;").replace('"', "#quot;").replace("<", "&lt;") for line in lines]
    return '"' + separator.join(escaped) + '"'


def _escaped(lines: list[str]) -> str:
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
