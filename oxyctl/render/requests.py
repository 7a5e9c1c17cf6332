"""HTTP requests as rows: all fields by name, their text, and the columns of a table."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from oxyctl.errors import UsageError
from oxyctl.render.envelope import print_envelope
from oxyctl.render.flows import Field, attribute, deciding_rule, plain_text
from oxyctl.render.tables import Column, Table
from oxyctl.render.units import bytes_text, duration_text, time_text
from proxy.control.schema import ChildrenAnswer, RequestRecord
from proxy.settings import suggest

_encode = msgspec.json.Encoder().encode
_HIDDEN = ("schema", "decisions")


def _duration(value: float | None) -> str:
    return "-" if value is None else duration_text(value)


FIELDS: dict[str, Field] = {
    **{
        name: Field(attribute(name), plain_text, Column(name.upper().replace("_", " ")))
        for name in RequestRecord.__struct_fields__
        if name not in _HIDDEN
    },
    "time": Field(lambda r: r.start, time_text, Column("TIME", min_width=8, rank=1)),
    "method": Field(attribute("method"), plain_text, Column("METHOD", min_width=6, rank=2)),
    "status": Field(attribute("status"), plain_text, Column("STATUS", right=True)),
    "url": Field(lambda r: r.url, str, Column("URL", min_width=30)),
    "up": Field(attribute("request_body_bytes"), bytes_text, Column("UP", True, min_width=6, rank=5)),
    "down": Field(attribute("response_body_bytes"), bytes_text, Column("DOWN", True, min_width=6, rank=4)),
    "ttfb": Field(attribute("ttfb_ms"), _duration, Column("FIRST BYTE", True, rank=6)),
    "duration": Field(attribute("duration_ms"), _duration, Column("DURATION", True, rank=3)),
    "verdict": Field(attribute("verdict"), str, Column("VERDICT", rank=5)),
    "rule": Field(deciding_rule, plain_text, Column("RULE", rank=6)),
    "fault": Field(attribute("fault"), plain_text, Column("FAULT", rank=5)),
    "user": Field(attribute("user"), plain_text, Column("USER", rank=8)),
    "tenant": Field(attribute("tenant"), str, Column("TENANT", rank=1)),
    "flow_id": Field(attribute("flow_id"), str, Column("FLOW", rank=9)),
}
TABLE_FIELDS = (
    "time", "method", "status", "url", "up", "down", "ttfb", "duration", "verdict", "rule", "fault", "user", "flow_id",
)  # fmt: skip
CSV_FIELDS = tuple(name for name in FIELDS if name not in ("time", "up", "down", "ttfb", "duration"))


def request_fields(text: str | None) -> tuple[str, ...]:
    """The fields that `--fields` names, or none. UsageError: an unknown one."""
    if text is None:
        return ()
    names = tuple(name.strip().replace("-", "_") for name in text.split(","))
    for name in names:
        if name == "help":
            raise UsageError(f"--fields takes any of: {', '.join(sorted(FIELDS))}")
        if name not in FIELDS:
            raise UsageError(f"--fields: unknown field {name!r}{suggest(name, FIELDS)}")
    return names


def request_table(requests: Sequence[RequestRecord], names: Sequence[str]) -> None:
    """Print requests as a table."""
    rows = [[FIELDS[name].text(FIELDS[name].get(request)) for name in names] for request in requests]
    Table([FIELDS[name].column for name in names]).write(rows)


def print_requests(
    answer: ChildrenAnswer, format_: str, fields: tuple[str, ...], *, every_tenant: bool, is_running: bool
) -> None:
    """Print an answer, the newest first, as for flows."""
    requests: list[RequestRecord] = sorted(answer.items, key=lambda request: request.start, reverse=True)
    if format_ == "table":
        request_table(requests, fields or (*(["tenant"] if every_tenant else []), *TABLE_FIELDS))
    elif format_ == "json":
        more = {"window": answer.window, "lost": answer.lost, "truncated": answer.truncated}
        print_envelope("requests", [_selected(each, fields) for each in requests], proxy_running=is_running, **more)
    elif format_ == "jsonl":
        for request in requests:
            print(_encode(_selected(request, fields)).decode())
    else:
        _print_csv(requests, fields or CSV_FIELDS)


def _print_csv(requests: Iterable[RequestRecord], names: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for request in requests:
        writer.writerow([FIELDS[name].get(request) for name in names])


def _selected(request: RequestRecord, fields: tuple[str, ...]) -> Any:
    return {name: FIELDS[name].get(request) for name in fields} if fields else request
