"""`--where`: conditions on flows in the language of policies, with the same names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from proxy.policy.language import Expression, ExpressionError, Facts, Field, Fields, Kind, compile_expression

Get = Callable[[Any], Any]


class _Source(NamedTuple):
    """The source of a field's value: a property of flows, and its conversion."""

    name: str
    field: Field
    convert: Get | None


def _source(field: str, name: str, kind: Kind, doc: str, convert: Get | None = None) -> _Source:
    return _Source(name, Field(field, kind, doc), convert)


def _seconds(milliseconds: float) -> float:
    return milliseconds / 1000


def _address(packed: bytes) -> bytes:
    return bytes(packed[1:])


SOURCES = (
    _source("tenant", "tenant", Kind.TEXT, "the tenant"),
    _source("net.src.ip", "src", Kind.ADDRESS, "the client's address", _address),
    _source("net.src.port", "src_port", Kind.NUMBER, "the client's port"),
    _source("net.dst.ip", "dst", Kind.ADDRESS, "the address that the client requested", _address),
    _source("net.dst.port", "dst_port", Kind.NUMBER, "the port that the client requested"),
    _source("net.dst.host", "dst_host", Kind.TEXT, "the destination's host name, if known"),
    _source("net.protocol", "protocol", Kind.TEXT, "tcp, udp, icmp, ..."),
    _source("net.onramp", "onramp", Kind.TEXT, "the kind of on-ramp"),
    _source("identity.email", "user", Kind.TEXT, "the tunnel's user"),
    _source("flow.device", "device", Kind.TEXT, "the tunnel's device"),
    _source("flow.offramp", "offramp", Kind.TEXT, "the kind of off-ramp"),
    _source("flow.level", "level", Kind.TEXT, "packet, stream, tls, http or ssh"),
    _source("flow.verdict", "verdict", Kind.TEXT, "allowed, denied, audit, redirected or error"),
    _source("flow.state", "state", Kind.TEXT, "new, established or closed"),
    _source("flow.close_reason", "close_reason", Kind.TEXT, "why it ended"),
    _source("flow.bytes", "bytes", Kind.NUMBER, "payload of both directions"),
    _source("flow.up", "up", Kind.NUMBER, "payload from the client"),
    _source("flow.down", "down", Kind.NUMBER, "payload from the origin"),
    _source("flow.duration_s", "duration", Kind.NUMBER, "duration in seconds", _seconds),
    _source("flow.dscp", "dscp", Kind.NUMBER, "DSCP of the client's first packet"),
)
FIELDS = Fields("flow", [source.field for source in SOURCES])
_BY_FIELD = {source.field.name: source for source in SOURCES}


def check(text: str) -> None:
    """Raise ValueError, with line and column, if an expression is invalid."""
    _compiled(text)


def condition(text: str, getters: Mapping[str, Get]) -> Callable[[Any], bool]:
    """A function that tells whether the condition holds for a flow. Raises ValueError for an invalid expression.

    `getters`: getters of the properties of a flow (`proxy.flow.query`).
    """
    expression = _compiled(text)
    matches = expression.matches
    field_getters = {name: _get(getters[source.name], source.convert) for name, source in _BY_FIELD.items()}
    # most flows do not match, which a required value of one field shows at a third of the cost
    required = [
        (field_getters[step.requires.field.name], step.requires.values.container())
        for step in expression.steps
        if step.requires is not None and step.requires.values is not None
    ]
    if not required:
        return lambda flow: matches(_FlowFacts(flow, field_getters))
    (get, container), *others = required
    if not others:
        return lambda flow: get(flow) in container and matches(_FlowFacts(flow, field_getters))
    return lambda flow: (
        get(flow) in container
        and all(get_other(flow) in values for get_other, values in others)
        and matches(_FlowFacts(flow, field_getters))
    )


def _compiled(text: str) -> Expression:
    try:
        return compile_expression(text, FIELDS)
    except ExpressionError as error:
        raise ValueError(str(error)) from None


def _get(get: Get, convert: Get | None) -> Get:
    if convert is None:
        return get

    def read(flow: Any) -> Any:
        value = get(flow)
        return None if value is None else convert(value)

    return read


class _FlowFacts(Facts):
    """Values that are read when the expression asks for them."""

    __slots__ = ("_flow", "_gets")

    def __init__(self, flow: Any, field_getters: Mapping[str, Get]) -> None:
        super().__init__()
        self._flow, self._gets = flow, field_getters

    def __missing__(self, key: str) -> Any:
        value = self[key] = self._gets[key](self._flow)
        return value
