"""Flow records as rows: how each field is formatted, and which columns a table has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from oxyctl.render.tables import Column
from oxyctl.render.units import bytes_text, duration_text, endpoint_text, time_text
from proxy.control.schema import ChannelRecord, FlowRecord, RequestRecord, TLSRecord, Totals, payload_bytes

Get = Callable[[FlowRecord], Any]


class Field(NamedTuple):
    """One field: its value, its text in a table, and its column."""

    get: Callable[[Any], Any]  # takes a flow's or a request's record
    text: Callable[[Any], str]
    column: Column


def plain_text(value: Any) -> str:
    """The value as it is, or `-` if there is none."""
    return "-" if value is None or value == "" else str(value)


def attribute(name: str) -> Callable[[Any], Any]:
    """A getter for one field of a record."""
    return lambda record: getattr(record, name)


def _total(name: str) -> Get:
    return lambda record: getattr(record.total, name)


def _tls(name: str) -> Get:
    """A getter for one field of the TLS record."""
    return lambda record: None if record.tls is None else getattr(record.tls, name)


def _tls_text(tls: TLSRecord | None) -> str:
    if tls is None:
        return "-"
    return " ".join(filter(None, [tls.action, tls.version, tls.alpn, tls.sni, tls.error and f"({tls.error})"]))


def _onramp(record: FlowRecord) -> str:
    """The on-ramp; for traffic from a site, the site."""
    return record.tunnel if record.tunnel and record.tunnel.startswith(SITE) else record.onramp


def _offramp(record: FlowRecord) -> str:
    """The off-ramp; if that is a tunnel, the tunnel."""
    return record.offramp_tunnel or record.offramp or "-"


def _header(name: str) -> str:
    return name.upper().replace("_", " ")


SITE = "site:"
_ALLOWING = ("allow", "quarantine", "redirect", "override-origin")  # of rules: they end a phase, and do not deny
_NESTED = ("total", "delta", "decisions")
_TLS_FIELDS = TLSRecord.__struct_fields__
_RECORD_FIELDS = [name for name in FlowRecord.__struct_fields__ if name not in _NESTED]


def deciding_rule(record: FlowRecord | RequestRecord | ChannelRecord) -> str | None:
    """The rule that decided, or `default`, or `hook`; None: no policy applied.

    If several phases allowed it, a rule takes precedence over a default.
    """
    enforced = [decision for decision in reversed(record.decisions) if decision.enforced]
    if enforced and record.verdict in ("denied", "error"):
        return enforced[0].rule or enforced[0].policy
    enforced = [decision for decision in enforced if decision.rule is not None]
    enforced = [
        decision for decision in enforced if decision.action in _ALLOWING and decision.rule != "default"
    ] or enforced
    return enforced[0].rule if enforced else None


def _audited_rules(record: FlowRecord) -> str | None:
    """Audit-only rules that would have acted."""
    return " ".join(each.rule for each in record.decisions if not each.enforced and each.rule is not None) or None


FIELDS: dict[str, Field] = {
    **{name: Field(attribute(name), plain_text, Column(_header(name))) for name in _RECORD_FIELDS},
    **{name: Field(_total(name), plain_text, Column(_header(name), right=True)) for name in Totals.__struct_fields__},
    **{f"tls_{name}": Field(_tls(name), plain_text, Column(_header(f"tls_{name}"))) for name in _TLS_FIELDS},
    "tls": Field(attribute("tls"), _tls_text, Column("TLS", rank=9)),
    "time": Field(lambda r: r.start, time_text, Column("TIME", min_width=8, rank=1)),
    "protocol": Field(attribute("protocol"), str, Column("PROTO", min_width=4, rank=3)),
    "source": Field(lambda r: endpoint_text(r.src, r.src_port), str, Column("SOURCE", min_width=17)),
    "destination": Field(lambda r: endpoint_text(r.dst, r.dst_port), str, Column("DESTINATION", min_width=17)),
    "state": Field(attribute("state"), str, Column("STATE", min_width=11, rank=6)),
    "up": Field(_total("client_payload_bytes"), bytes_text, Column("UP", True, min_width=6, rank=4)),
    "down": Field(_total("origin_payload_bytes"), bytes_text, Column("DOWN", True, min_width=6, rank=4)),
    "bytes": Field(payload_bytes, bytes_text, Column("BYTES", True, min_width=6)),
    "duration": Field(attribute("duration_ms"), duration_text, Column("DURATION", True, rank=5)),
    "closed_by": Field(attribute("closed_by"), plain_text, Column("CLOSED BY", rank=8)),
    "close_reason": Field(attribute("close_reason"), plain_text, Column("REASON", min_width=14, rank=2)),
    "in": Field(_onramp, str, Column("ON-RAMP", rank=8)),
    "out": Field(_offramp, str, Column("OFF-RAMP", rank=7)),
    "level": Field(attribute("level"), str, Column("LEVEL", rank=7)),
    "rule": Field(deciding_rule, plain_text, Column("RULE", rank=9)),
    "audited": Field(_audited_rules, plain_text, Column("AUDITED", rank=9)),
    "user": Field(attribute("user"), plain_text, Column("USER", rank=9)),
    "tenant": Field(attribute("tenant"), str, Column("TENANT", rank=1)),
    "event": Field(attribute("event"), str, Column("EVENT", min_width=9, rank=7)),
}  # fmt: skip

COMPUTED = ("rule", "audited", "tls", "time", "source", "destination", "up", "down", "bytes", "duration", "in", "out")
TABLE_FIELDS = (
    "time",
    "protocol",
    "source",
    "destination",
    "state",
    "up",
    "down",
    "duration",
    "closed_by",
    "close_reason",
    "in",
    "out",
    "level",
    "user",
)
CSV_FIELDS = tuple(name for name in FIELDS if name not in COMPUTED)


def table_fields(*, every_tenant: bool, events: bool) -> tuple[str, ...]:
    """The fields of a table by default."""
    return (*(["tenant"] if every_tenant else []), TABLE_FIELDS[0], *(["event"] if events else []), *TABLE_FIELDS[1:])


def columns(names: Sequence[str]) -> list[Column]:
    return [FIELDS[name].column for name in names]


def texts(record: FlowRecord, names: Sequence[str], *, dates: bool = False) -> list[str]:
    """The record's cells in a table."""
    return [
        time_text(record.start, date=True) if dates and name == "time" else FIELDS[name].text(FIELDS[name].get(record))
        for name in names
    ]


def values(record: FlowRecord, names: Sequence[str]) -> list[Any]:
    """The record's values, as in JSON and CSV."""
    return [FIELDS[name].get(record) for name in names]


def where_fields() -> str:
    """The fields that `--where` accepts."""
    from proxy.control.schema import where_fields as known

    width = max(len(name) for name, _, _ in known())
    return "\n".join(f"{name.ljust(width)}  {kind.ljust(7)}  {doc}" for name, kind, doc in known())
