"""A lab drawn in the terminal: a box for each node, a line down the page for each network and for a proxy's tunnels.

╭─ laptop ── warp ───────────╮  edge's tunnels
│ acme 100.96.0.2 fd00:96::2 ╞══╣  internet
...
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from oxyctl.render.topology import DrawnNode, Topology
from oxyctl.render.units import cells

STEP = 4  # columns from one lane to the next
MIN_BOX_WIDTH = 20
MIN_GROUP = 4  # this many nodes that differ only in their numbers become one box
ASCII = str.maketrans("╭╮╰╯─│├┤┘┼═║╞╣╝╬╪╫…", "++++-|++++=#=#####.")


class Lane(NamedTuple):
    """A line down the page: a network, or the tunnels of a proxy."""

    name: str
    is_tunnel: bool


class Row(NamedTuple):
    """A line of a box, and the lane that it connects to."""

    text: str
    lane: Lane | None


class Box(NamedTuple):
    """A node, or several similar ones."""

    title: str
    rows: list[Row]


def draw(topology: Topology, width: int = 80, *, is_ascii: bool = False) -> str:
    """The drawing, at most `width` columns wide where possible; text that is cut ends in `…`."""
    lanes = _lanes(topology)
    boxes = list(_boxes(topology.nodes))
    box_width = _box_width(boxes, width - STEP * len(lanes) - 1)
    lines = [*_heading(topology, lanes, box_width, width), *_body(boxes, lanes, box_width)]
    text = "\n".join([f"lab {topology.lab}", "", *(line.rstrip() for line in lines)]) + "\n"
    return text.translate(ASCII) if is_ascii else text


def _lanes(topology: Topology) -> list[Lane]:
    proxies = dict.fromkeys(node.tunnel.proxy for node in topology.nodes if node.tunnel)
    return [*(Lane(proxy, True) for proxy in proxies), *(Lane(network.name, False) for network in topology.networks)]


def _boxes(nodes: Sequence[DrawnNode]) -> Iterator[Box]:
    """The boxes. Clients come first, so that the lanes of their tunnels end at the proxies."""
    proxies = {node.tunnel.proxy for node in nodes if node.tunnel}
    ordered = sorted(nodes, key=lambda node: 0 if node.tunnel else 1 if node.name in proxies else 2)
    for _, group in groupby(ordered, _grouping_key):
        nodes_alike = list(group)
        if len(nodes_alike) >= MIN_GROUP:
            yield _box(
                nodes_alike[0],
                f"{nodes_alike[0].name} to {nodes_alike[-1].name} ({len(nodes_alike)})",
                proxies,
                is_many=True,
            )
        else:
            yield from (_box(node, node.name, proxies) for node in nodes_alike)


def _grouping_key(node: DrawnNode) -> tuple[object, ...]:
    tunnel = (node.tunnel.proxy, node.tunnel.tenant, node.tunnel.carrier) if node.tunnel else None
    stem = re.sub(r"\d+$", "#", node.name)
    return stem, node.kind, tunnel, tuple(end.network for end in node.attachments)


def _box(node: DrawnNode, name: str, proxies: set[str], *, is_many: bool = False) -> Box:
    rows = [Row("tunnels", Lane(node.name, True))] if node.name in proxies else []
    more = ["…"] if is_many else []
    if (tunnel := node.tunnel) is not None:
        words = [tunnel.tenant, *([tunnel.carrier] if tunnel.carrier else []), *tunnel.addresses, *more]
        rows.append(Row(" ".join(words), Lane(tunnel.proxy, True)))
    for end in node.attachments:
        rows.append(Row(" ".join([end.interface, *end.addresses, *more]), Lane(end.network, False)))
    return Box(f"{name} ── {node.kind}", rows or [Row("", None)])


def _box_width(boxes: Sequence[Box], limit: int) -> int:
    needed = max(max(cells(box.title) + 6, *(cells(row.text) + 4 for row in box.rows)) for box in boxes)
    return max(MIN_BOX_WIDTH, min(needed, limit))


def _heading(topology: Topology, lanes: Sequence[Lane], box_width: int, width: int) -> Iterator[str]:
    """The name of each lane above it, the last one lowest. Names that do not fit are aligned to the right edge."""
    subnets = {network.name: " ".join(network.subnets) for network in topology.networks}
    for number, lane in enumerate(lanes):
        name = f"tunnels of {lane.name}" if lane.is_tunnel else f"{lane.name} {subnets[lane.name]}".rstrip()
        before = "".join(_vertical(other).rjust(STEP) for other in lanes[:number])
        start = " " * box_width + before + " " * (STEP - 1)
        room = width - cells(start)
        # a name too long for the space to its right ends at the right edge instead, if the space to its left is empty
        if cells(name) > room and not before and cells(name) <= width:
            yield name.rjust(width)
        else:
            yield start + _cut(name, max(room, 8))


def _body(boxes: Sequence[Box], lanes: Sequence[Lane], box_width: int) -> Iterator[str]:
    remaining = {lane: sum(row.lane == lane for box in boxes for row in box.rows) for lane in lanes}
    for box in boxes:
        title = f"╭─ {_cut(box.title, box_width - 6)} "
        yield title + "─" * (box_width - cells(title) - 1) + "╮" + _idle(lanes, remaining)
        for row in box.rows:
            yield _row(row, lanes, remaining, box_width)
            if row.lane is not None:
                remaining[row.lane] -= 1
        yield "╰" + "─" * (box_width - 2) + "╯" + _idle(lanes, remaining)


def _idle(lanes: Sequence[Lane], remaining: dict[Lane, int]) -> str:
    return "".join((_vertical(lane) if remaining[lane] else " ").rjust(STEP) for lane in lanes)


def _row(row: Row, lanes: Sequence[Lane], remaining: dict[Lane, int], box_width: int) -> str:
    text = _cut(row.text, box_width - 4)
    inside = "│ " + text + " " * (box_width - 3 - cells(text))
    if row.lane is None:
        return inside + "│" + _idle(lanes, remaining)
    line, edge = ("═", "╞") if row.lane.is_tunnel else ("─", "├")
    result, is_before = inside + edge, True
    for lane in lanes:
        if lane == row.lane:
            is_last = remaining[lane] == 1
            end = ("╝" if is_last else "╣") if lane.is_tunnel else ("╯" if is_last else "┤")
            result, is_before = result + line * (STEP - 1) + end, False
        elif is_before:
            result += line * (STEP - 1) + (_crossing(lane, row.lane) if remaining[lane] else line)
        else:
            result += (_vertical(lane) if remaining[lane] else " ").rjust(STEP)
    return result


def _vertical(lane: Lane) -> str:
    return "║" if lane.is_tunnel else "│"


def _crossing(lane: Lane, by: Lane) -> str:
    return {(True, True): "╬", (True, False): "╫", (False, True): "╪", (False, False): "┼"}[
        lane.is_tunnel, by.is_tunnel
    ]


def _cut(text: str, room: int) -> str:
    if cells(text) <= room:
        return text
    while text and cells(text) > room - 1:
        text = text[:-1]
    return text.rstrip() + "…"
