"""Child records as rows of the flow log, and back: fields used by filters are columns, the rest is one small body."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from proxy.flow.child import KINDS, TYPES, Child, ChildKind, end_of, filter_values, start_of
from proxy.flow.ssh import FileRecord
from proxy.telemetry.rows import decisions_id, decisions_of, flow_id_text, packed_id
from proxy.telemetry.strings import StringIds, Strings

# In the order of their ends, which is that of their numbers: the oldest are deleted first, the newest found first.
TABLE = """CREATE TABLE IF NOT EXISTS children (
    number INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, kind INTEGER NOT NULL, flow_id BLOB NOT NULL,
    started INTEGER NOT NULL, ended INTEGER NOT NULL, verdict INTEGER, user INTEGER, status INTEGER, method INTEGER,
    host INTEGER, url_prefix INTEGER, path TEXT, fault INTEGER, decisions INTEGER, body BLOB NOT NULL
)"""
INDEX = "CREATE INDEX IF NOT EXISTS children_by_flow ON children (flow_id)"
COLUMNS = (
    "tenant", "kind", "flow_id", "started", "ended", "verdict", "user", "status", "method", "host", "url_prefix",
    "path", "fault", "decisions", "body",
)  # fmt: skip
_INSERT = f"INSERT INTO children ({', '.join(COLUMNS)}) VALUES ({','.join('?' * len(COLUMNS))})"
KIND_NUMBERS: dict[ChildKind, int] = {"request": 1, "channel": 2, "file": 3}
_NUMBERED = {number: TYPES[kind] for kind, number in KIND_NUMBERS.items()}


class Layout(NamedTuple):
    """The fields of one kind in columns and body. Bodies are arrays, so new `strings` and `others` must be appended."""

    id_field: str
    method: str
    status: str | None
    host: str | None
    path: str
    fault: str
    strings: tuple[str, ...]  # texts shared by many records
    others: tuple[str, ...]


LAYOUTS: dict[type[Child], Layout] = {
    TYPES["request"]: Layout(
        "request_id", "method", "status", "host", "path", "fault",
        ("scheme", "client_version", "origin_version", "origin", "upgrade", "request_type", "response_type",
         "user_agent", "fault_by", "error"),
        ("port", "ttfb_ms", "request_header_bytes", "request_body_bytes", "response_header_bytes",
         "response_body_bytes", "client_messages", "origin_messages", "close_code", "detail"),
    ),
    TYPES["channel"]: Layout(
        "channel_id", "kind", "exit_status", "forward_host", "command", "error",
        ("ssh_user", "identity", "auth_method", "subsystem", "terminal", "client_version", "server_version",
         "exit_signal", "forward_protocol"),
        ("principals", "forward_port", "client_bytes", "origin_bytes", "stderr_bytes", "recording", "reason"),
    ),
    TYPES["file"]: Layout(
        "channel_id", "operation", None, None, "path", "error", (),
        ("target", "bytes", "refused", "sent_as", "sha256"),
    ),
}  # fmt: skip
MAX_PATH_CHARACTERS = 2048  # characters of a path or command: of unlimited length, a million would fill the disk
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list).decode

Row = tuple[Any, ...]


def insert_children(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    connection.executemany(_INSERT, rows)


def row_of(child: Child, string_ids: StringIds) -> Row:
    """The row of one child. Raises ValueError or OverflowError if it cannot be stored."""
    type_, id_of = type(child), string_ids.id_of
    layout, facts = LAYOUTS[type_], filter_values(child)
    verdict, decisions = (None, []) if isinstance(child, FileRecord) else (child.verdict, child.decisions)
    body: list[Any] = [int(getattr(child, layout.id_field).rpartition(".")[2])]
    body.append(_trimmed([id_of(getattr(child, name)) for name in layout.strings]))
    body.append(_trimmed([getattr(child, name) for name in layout.others]))
    return (
        id_of(child.tenant), KIND_NUMBERS[KINDS[type_]], packed_id(child.flow_id), start_of(child), end_of(child),
        id_of(verdict), id_of(child.user), facts.status, id_of(facts.method), id_of(facts.host),
        id_of(facts.url_prefix), facts.path and facts.path[:MAX_PATH_CHARACTERS],
        id_of(facts.fault),
        decisions_id(decisions, string_ids), bytearray(_pack(body)),
    )  # fmt: skip


def child_of(row: Row, strings: Strings) -> Child:
    """The record that `row_of` was given, from COLUMNS in their order. Raises LookupError or ValueError."""
    text: Callable[[int | None], str | None] = strings.text
    columns = dict(zip(COLUMNS, row, strict=True))
    type_ = _NUMBERED[columns["kind"]]
    layout = LAYOUTS[type_]
    number, shared, others = _unpack(columns["body"])
    flow_id = flow_id_text(columns["flow_id"])
    started, ended = columns["started"], columns["ended"]
    values: dict[str, Any] = {
        "flow_id": flow_id, layout.id_field: f"{flow_id}.{number}", "tenant": text(columns["tenant"]),
        "user": text(columns["user"]), layout.method: text(columns["method"]), layout.path: columns["path"],
        layout.fault: text(columns["fault"]),
    }  # fmt: skip
    if layout.status is not None:
        values[layout.status] = columns["status"]
    if layout.host is not None:
        values[layout.host] = text(columns["host"])
    if type_ is TYPES["file"]:
        values["time"] = started
    else:
        values |= {"start": started, "duration_ms": (ended - started) / 1e6, "verdict": text(columns["verdict"])}
        values["decisions"] = decisions_of(text(columns["decisions"]))
    values |= zip(layout.strings, map(text, shared), strict=False)
    values |= zip(layout.others, others, strict=False)
    return type_(**{name: value for name, value in values.items() if value is not None})


def _trimmed(values: list[Any]) -> list[Any]:
    while values and values[-1] is None:
        del values[-1]
    return values
