"""A flow record as rows of the flow log and back, without loss, in a fifth of the size of its JSON.

Fields used by filters are columns of a narrow table, so that scanning all of it is fast. The rest is one small body.
"""

from __future__ import annotations

import binascii
import operator
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from proxy.flow.flow import address_text
from proxy.flow.query import packed
from proxy.flow.record import SCHEMA, Decision, FlowRecord, Totals
from proxy.telemetry.strings import StringIds, Strings

COLUMNS = (
    "tenant", "started", "flow_id", "ended", "up", "down", "src_port", "dst_port", "protocol", "src", "dst", "state",
    "close_reason", "verdict", "level", "onramp", "offramp", "decisions", "dscp", "user", "device", "dst_host",
    "community", "tls_action",
)  # fmt: skip
STRING_COLUMNS = (
    "protocol", "state", "close_reason", "verdict", "level", "onramp", "offramp", "decisions", "user", "device",
    "dst_host", "tls_action", "tenant",
)  # fmt: skip
_BODY_STRINGS = (
    "node", "tunnel", "vnet", "offramp_tunnel", "route", "egress_ip", "host_source", "detected_protocol", "conn_state",
    "history", "closed_by",
)  # fmt: skip
_BODY_TIMES = ("client_tcp_ms", "origin_tcp_ms", "policy_ms", "ttfb_ms")
_BODY_TOTALS = (
    "client_packets", "client_bytes", "origin_packets", "origin_bytes", "spliced_bytes",
)  # fmt: skip
_TIMES_AT = len(_BODY_STRINGS)
_TOTALS_AT = _TIMES_AT + len(_BODY_TIMES)
_OTHERS_AT = _TOTALS_AT + len(_BODY_TOTALS)
# Derived from columns, or the same in every ended flow: stored only if they differ.
_DERIVED = ("schema", "event", "final", "end", "duration_ms", "community_id", "origin", "total", "start")
_KNOWN = {*COLUMNS, *_BODY_STRINGS, *_BODY_TIMES, *_DERIVED, "seq"}
_FIELDS = {field.name: field for field in msgspec.structs.fields(FlowRecord)}
_OTHERS = {
    name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    for name, field in _FIELDS.items()
    if name not in _KNOWN
}
_CONSTANT = {"schema": SCHEMA, "event": "end", "final": True}
_get_words, _get_times, _get_totals = (
    operator.attrgetter(*names) for names in (_BODY_STRINGS, _BODY_TIMES, _BODY_TOTALS)
)  # one call for all of them: bench/flowlog.py times a row
_get_defaults, _ALL_DEFAULTS = operator.attrgetter(*_CONSTANT, *_OTHERS), (*_CONSTANT.values(), *_OTHERS.values())
_ID_DIGITS = 18
_INSERT_BODY = "INSERT OR IGNORE INTO bodies VALUES (?, ?, ?, ?)"
_INSERT_FLOW = f"INSERT OR IGNORE INTO flows VALUES ({','.join('?' * len(COLUMNS))})"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list).decode
_encode_decisions = msgspec.json.Encoder().encode
_decode_decisions = msgspec.json.Decoder(list[Decision]).decode

Row = tuple[Any, ...]
FlowRow = tuple[Any, ...]
BodyRow = tuple[Any, ...]
Pair = tuple[FlowRow, BodyRow]


def insert(connection: sqlite3.Connection, pairs: Sequence[Pair]) -> int:
    """Insert the rows. Returns the number of new flows; a flow whose id is already stored is ignored."""
    if not pairs:
        return 0
    connection.executemany(_INSERT_FLOW, [flow for flow, _ in pairs])
    return connection.executemany(_INSERT_BODY, [body for _, body in pairs]).rowcount


def rows_of(record: FlowRecord, string_ids: StringIds) -> Pair:
    """The rows of one ended flow: its columns, and its body. Raises ValueError or OverflowError if it cannot be stored.

    Blobs are bytearrays, as sqlite3 looks for an adapter of each bytes object.
    """
    end = _end_of(record)
    flow_id, id_of = packed_id(record.flow_id), string_ids.id_of
    digest = community_digest(record.community_id)
    total, tenant = record.total, id_of(record.tenant)
    row = (
        tenant, record.start, flow_id, end, total.client_payload_bytes, total.origin_payload_bytes,
        record.src_port, record.dst_port, id_of(record.protocol),
        bytearray(packed(record.src)), bytearray(packed(record.dst)),
        id_of(record.state), id_of(record.close_reason), id_of(record.verdict), id_of(record.level),
        id_of(record.onramp), id_of(record.offramp), decisions_id(record.decisions, string_ids), record.dscp,
        id_of(record.user), id_of(record.device), id_of(record.dst_host), community_number(digest),
        None if record.tls is None else id_of(record.tls.action),
    )  # fmt: skip
    body: list[Any] = [record.seq, digest, _endpoint_is_origin(record)]
    body += map(id_of, _get_words(record))
    body += map(_microseconds, _get_times(record))
    body += _get_totals(total)
    if others := _others(record, end, digest):
        body.append(others)
    return row, (flow_id, tenant, record.start, bytearray(_pack(body)))


def record_of(row: FlowRow, body: bytes, strings: Strings) -> FlowRecord:
    """The record that `rows_of` was given. `row`: the COLUMNS in order. Raises LookupError or msgspec.DecodeError."""
    columns = dict(zip(COLUMNS, row, strict=True))
    for name in STRING_COLUMNS:
        columns[name] = strings.text(columns[name])
    seq, digest, origin, *rest = _unpack(body)
    ids, times, counts = rest[:_TIMES_AT], rest[_TIMES_AT:_TOTALS_AT], rest[_TOTALS_AT:_OTHERS_AT]
    started, ended = columns.pop("started"), columns.pop("ended")
    decisions = columns.pop("decisions")
    payload = columns.pop("up"), columns.pop("down")
    del columns["community"], columns["tls_action"]
    columns["flow_id"] = flow_id_text(columns["flow_id"])
    columns["src"], columns["dst"] = _address(columns["src"]), _address(columns["dst"])
    values: dict[str, Any] = {
        **columns, **_CONSTANT, "seq": seq, "start": started, "end": ended, "duration_ms": (ended - started) / 1e6,
        "decisions": decisions_of(decisions),
        "total": Totals(counts[0], counts[1], payload[0], counts[2], counts[3], payload[1], counts[4]),
        "community_id": "" if digest is None else _community_text(digest),
        "origin": _endpoint(columns["dst"], columns["dst_port"]) if origin is True else origin,
    }  # fmt: skip
    values |= zip(_BODY_STRINGS, map(strings.text, ids), strict=True)
    values["history"] = values["history"] or ""
    values |= zip(_BODY_TIMES, map(_milliseconds, times), strict=True)
    if len(rest) > _OTHERS_AT:
        others = rest[_OTHERS_AT]
        values |= {name: msgspec.convert(others[name], _FIELDS[name].type) for name in others if name in _FIELDS}
    return FlowRecord(**values)


def packed_id(flow_id: str) -> bytearray | str:
    """A flow id as stored: the proxy's own ids as bytes, in the same order; others unchanged."""
    if len(flow_id) == _ID_DIGITS:
        try:
            packed_name = bytearray.fromhex(flow_id)
        except ValueError:
            return flow_id
        if packed_name.hex() == flow_id:
            return packed_name
    return flow_id


def flow_id_text(stored: bytes | str) -> str:
    return stored if isinstance(stored, str) else stored.hex()


def community_number(digest: bytes | None) -> int | None:
    """The value of the Community ID column: the digest's first six bytes."""
    return None if digest is None else int.from_bytes(digest[:6], "big")


def community_digest(text: str) -> bytes | None:
    """The 20 bytes of `1:<base64>`, or None if it is not a Community ID."""
    try:
        digest = binascii.a2b_base64(text[2:])
    except binascii.Error:
        return None
    return digest if len(digest) == 20 and _community_text(digest) == text else None


def _end_of(record: FlowRecord) -> int:
    return record.start + int(record.duration_ms * 1e6) if record.end is None else record.end


def _others(record: FlowRecord, end: int, digest: bytes | None) -> dict[str, Any]:
    """Fields without a place of their own, where they differ from their defaults."""
    others: dict[str, Any] = {}
    if (values := _get_defaults(record)) != _ALL_DEFAULTS:
        each = zip((*_CONSTANT, *_OTHERS), values, _ALL_DEFAULTS, strict=True)
        others = {name: value for name, value, default in each if value != default}
    if record.end is None:
        others["end"] = None
    if record.duration_ms != (end - record.start) / 1e6:
        others["duration_ms"] = record.duration_ms
    if digest is None:
        others["community_id"] = record.community_id
    others |= {name: text for name in ("src", "dst") if _address(packed(text := getattr(record, name))) != text}
    return others


def _community_text(digest: bytes) -> str:
    return "1:" + binascii.b2a_base64(digest, newline=False).decode()


def decisions_id(decisions: list[Decision], string_ids: StringIds) -> int | None:
    """The id of the decisions' JSON as a string: most records share theirs."""
    return string_ids.id_of(_encode_decisions(decisions).decode()) if decisions else None


def decisions_of(text: str | None) -> list[Decision]:
    """The decisions that `decisions_id` was given. Raises msgspec.DecodeError."""
    return [] if text is None else _decode_decisions(text)


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoint_is_origin(record: FlowRecord) -> bool | str | None:
    """True in place of an origin that is the requested destination."""
    origin = record.origin
    return True if origin is not None and origin == _endpoint(record.dst, record.dst_port) else origin


def _address(stored: bytes) -> str:
    return address_text(bytes(stored[1:]))


def _microseconds(milliseconds: float | None) -> int | float | None:
    """Whole microseconds if that is exact: two or three bytes instead of nine."""
    if milliseconds is None:
        return None
    whole = round(milliseconds * 1000)
    return whole if whole / 1000 == milliseconds else milliseconds


def _milliseconds(stored: int | float | None) -> float | None:
    return stored / 1000 if isinstance(stored, int) else stored
