"""Aggregated flows as rows: the fields that they share, and their sums."""

from __future__ import annotations

import csv
import sys
from typing import Any

import msgspec

from oxyctl.render.tables import Column, Table
from oxyctl.render.units import bytes_text, duration_text, time_text
from proxy.control.schema import Group, GroupsAnswer, Sums

_SUMS = ("flows", "live", "up", "down", "bytes", "duration_ms", "first", "last")
_COLUMNS = [
    Column("FLOWS", True), Column("LIVE", True, rank=3), Column("UP", True, rank=1), Column("DOWN", True, rank=1),
    Column("BYTES", True), Column("DURATION", True, rank=4), Column("FIRST", rank=5), Column("LAST", rank=2),
]  # fmt: skip


def print_groups(answer: GroupsAnswer, by: tuple[str, ...], format_: str, *, is_running: bool) -> None:
    """Print the groups."""
    if format_ == "table":
        columns = [*(Column(name.upper().replace("_", " ")) for name in by), *_COLUMNS]
        Table(columns).write([_texts(group, by) for group in answer.items])
    elif format_ == "json":
        from oxyctl.render.envelope import print_envelope

        more = {"window": answer.window, "lost": answer.lost, "truncated": answer.truncated}
        print_envelope("flow-groups", [_item(group) for group in answer.items], proxy_running=is_running, **more)
    elif format_ == "jsonl":
        for group in answer.items:
            print(msgspec.json.encode(_item(group)).decode())
    else:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*by, *_SUMS])
        writer.writerows([list(_item(group).values()) for group in answer.items])


def _item(group: Group) -> dict[str, Any]:
    sums = group.sums
    values = (
        sums.flows, sums.live, sums.up, sums.down, sums.up + sums.down, sums.duration_ms, sums.first, sums.last,
    )  # fmt: skip
    return {**group.by, **dict(zip(_SUMS, values, strict=True))}


def _texts(group: Group, by: tuple[str, ...]) -> list[str]:
    shared = ["-" if group.by[name] is None else str(group.by[name]) for name in by]
    return [*shared, *sums_texts(group.sums)]


def sums_texts(sums: Sums) -> list[str]:
    """The sums as cells of a table."""
    return [
        str(sums.flows),
        str(sums.live),
        bytes_text(sums.up),
        bytes_text(sums.down),
        bytes_text(sums.up + sums.down),
        duration_text(sums.duration_ms),
        "-" if sums.first is None else time_text(sums.first),
        "now" if sums.last is None else time_text(sums.last),
    ]
