"""A query for flows: filters and how they match a record, sort order, and the window that an answer covers."""

from __future__ import annotations

import functools
import ipaddress
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from proxy.flow.record import CloseReason, FlowRecord, Level, Protocol, State, Verdict

Scope = Literal["all", "live", "past"]
Range = tuple[int, int]  # both ends included
Prefix = tuple[bytes, bytes]  # first and last address, as returned by packed()

DEFAULT_LIMIT = 100
MAX_LIMIT = 20_000
NEVER = 2**63 - 1  # stands for the end of a live flow when sorting by end


class Filters(msgspec.Struct, kw_only=True, frozen=True):
    """Filters: values inside one are alternatives, filters are combined by AND, and an empty one matches everything."""

    flow_id: tuple[str, ...] = ()
    src: tuple[Prefix, ...] = ()
    dst: tuple[Prefix, ...] = ()
    ip: tuple[Prefix, ...] = ()  # either side
    src_port: tuple[Range, ...] = ()
    dst_port: tuple[Range, ...] = ()
    port: tuple[Range, ...] = ()  # either side
    protocol: tuple[Protocol, ...] = ()
    version: tuple[Literal[4, 6], ...] = ()  # of IP
    state: tuple[State, ...] = ()
    close_reason: tuple[CloseReason, ...] = ()
    user: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    onramp: tuple[str, ...] = ()
    offramp: tuple[str, ...] = ()
    level: tuple[Level, ...] = ()
    verdict: tuple[Verdict, ...] = ()
    host: tuple[str, ...] = ()  # patterns in lower case: `*` is any text, `?` any character
    tls_action: tuple[Literal["pass", "terminate"], ...] = ()
    policy: tuple[str, ...] = ()  # a policy or a rule with a decision about the flow
    dscp: tuple[int, ...] = ()
    community_id: tuple[str, ...] = ()
    http_status: tuple[Range, ...] = ()  # these three, and `host` with them, are about one request (`proxy.flow.child`)
    http_method: tuple[str, ...] = ()  # in upper case
    url: tuple[str, ...] = ()  # patterns
    min_bytes: int = 0  # payload, both directions
    min_duration_ms: float = 0


NOTHING = Filters()


class FlowQuery(Filters, kw_only=True, frozen=True):
    """Filters over the flows of a tenant and a window, and the order in which the first are chosen."""

    tenant: str | None  # None: all tenants, set only for callers who may ask for that
    scope: Scope = "all"
    since: int | None = None  # Unix ns; flows that were live at some time between these two
    until: int | None = None
    excluded: Filters = NOTHING  # flows that match one of these are left out
    where: str = ""  # a condition (`proxy.flow.where`)
    after: tuple[int, str] | None = None  # start and id: only flows after this one, oldest first
    sort: str = "start"
    descending: bool = True
    limit: int = DEFAULT_LIMIT


class Window(msgspec.Struct, frozen=True):
    """The time that an answer covers (Unix ns), and the end of the oldest record still stored."""

    since: int | None = msgspec.field(name="from")
    until: int
    oldest: int | None


class StoredFlow(NamedTuple):
    """One flow in an answer: its sort key, its id, and its record as JSON."""

    key: Any
    flow_id: str
    record: bytes


class Page(msgspec.Struct):
    """The store's answer to a query: at most `limit` flows, sorted, and how complete it is."""

    flows: list[StoredFlow]
    window: Window
    lost: int  # records of this tenant that ended in this window and could not be stored
    truncated: bool  # more flows match than `limit`


@functools.lru_cache(4096)  # 0.1 us for a known address, 3.4 us for a new one; called four times per record
def packed(address: str) -> bytes:
    """An address as bytes that sort and compare within its family: the version, then the address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return bytes((parsed.version,)) + parsed.packed


def payload_bytes(record: FlowRecord) -> int:
    """Payload bytes of both directions: the `bytes` of filters and sorting."""
    return record.total.client_payload_bytes + record.total.origin_payload_bytes


Get = Callable[[Any], Any]
Getters = Mapping[str, Get]  # property name to getter, from a record or a live flow
Test = Callable[[Any], bool]

RECORD_GETTERS: Getters = {
    **{name: operator.attrgetter(name) for name in FlowRecord.__struct_fields__},
    "src": lambda r: packed(r.src),
    "dst": lambda r: packed(r.dst),
    "tls_action": lambda r: None if r.tls is None else r.tls.action,
    "duration": lambda r: r.duration_ms,
    "bytes": payload_bytes,
    "up": lambda r: r.total.client_payload_bytes,
    "down": lambda r: r.total.origin_payload_bytes,
}
SORT_NAMES = (
    "start", "end", "duration", "bytes", "up", "down", "tenant", "user", "src", "src_port", "dst", "dst_port",
    "protocol", "state", "close_reason",
)  # fmt: skip
_ABSENT = {"end": NEVER, "user": "", "close_reason": ""}
_EQUAL = (  # equality with one of the filter's values
    "flow_id", "protocol", "state", "close_reason", "user", "device", "onramp", "offramp", "level", "verdict", "dscp",
    "community_id", "tls_action",
)  # fmt: skip
_RANGES = {
    "src": ("src",),
    "dst": ("dst",),
    "ip": ("dst", "src"),
    "src_port": ("src_port",),
    "dst_port": ("dst_port",),
    "port": ("dst_port", "src_port"),
}


def sort_key(name: str, getters: Getters = RECORD_GETTERS) -> Get:
    """The function whose values `--sort NAME` compares."""
    get = getters[name]
    if name not in _ABSENT:
        return get
    absent = _ABSENT[name]
    return lambda each: absent if (value := get(each)) is None else value


SORT_KEYS: dict[str, Get] = {name: sort_key(name) for name in SORT_NAMES}


def predicate(query: FlowQuery, getters: Getters = RECORD_GETTERS) -> Test:
    """A function that tells whether a record matches. Only filters in use cost time."""
    tests: list[Test] = []
    if (tenant := query.tenant) is not None:
        tenant_of = getters["tenant"]
        tests.append(lambda r: tenant_of(r) == tenant)
    if (since := query.since) is not None:
        end = sort_key("end", getters)
        tests.append(lambda r: end(r) >= since)
    if (until := query.until) is not None:
        start = getters["start"]
        tests.append(lambda r: start(r) <= until)
    tests += _tests(query, getters)
    tests += [_negated(test) for test in _tests(query.excluded, getters)]
    if query.where:
        from proxy.flow.where import condition  # 0.2 s to import: only if needed

        tests.append(condition(query.where, getters))
    return _all(tests)


def _all(tests: list[Test]) -> Test:
    if not tests:
        return lambda r: True
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda r: first(r) and second(r)
    return lambda r: all(test(r) for test in tests)


def _negated(test: Test) -> Test:
    return lambda r: not test(r)


def _tests(filters: Filters, getters: Getters) -> list[Test]:
    tests = [_equal(getters[name], frozenset(values)) for name in _EQUAL if (values := getattr(filters, name))]
    tests += [_in_range([getters[side] for side in sides], getattr(filters, name)) for name, sides in _RANGES.items()
              if getattr(filters, name)]  # fmt: skip
    if versions := filters.version:
        src = getters["src"]
        tests.append(lambda r: src(r)[0] in versions)
    if hosts := filters.host:
        pattern, host = globs(hosts), getters["dst_host"]
        tests.append(lambda r: (name := host(r)) is not None and pattern.fullmatch(name.lower()) is not None)
    if names := filters.policy:
        decisions = getters["decisions"]
        tests.append(lambda r: any(each.policy in names or each.rule in names for each in decisions(r)))
    if (min_bytes := filters.min_bytes) > 0:
        octets = getters["bytes"]
        tests.append(lambda r: octets(r) >= min_bytes)
    if (min_duration := filters.min_duration_ms) > 0:
        duration = getters["duration"]
        tests.append(lambda r: duration(r) >= min_duration)
    return tests


def _equal(get: Get, values: frozenset[Any]) -> Test:
    if len(values) == 1:
        (only,) = values
        return lambda r: get(r) == only
    return lambda r: get(r) in values


def _in_range(field_getters: list[Get], ranges: tuple[tuple[Any, Any], ...]) -> Test:
    if len(field_getters) == len(ranges) == 1:
        (get,), ((low, high),) = field_getters, ranges
        return lambda r: low <= get(r) <= high
    return lambda r: any(low <= value <= high for value in [get(r) for get in field_getters] for low, high in ranges)


def globs(patterns: Iterable[str]) -> re.Pattern[str]:
    """One regular expression for all patterns: `*` is any text, `?` any character."""
    texts = (re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".") for pattern in patterns)
    return re.compile("|".join(texts), re.DOTALL)


def matches(query: FlowQuery, record: FlowRecord) -> bool:
    """Whether `record` matches the query's filters (apart from scope, sort order and limit)."""
    return predicate(query)(record)


def sort_flows(flows: Iterable[StoredFlow], query: FlowQuery) -> list[StoredFlow]:
    """Flows in the query's order; equal keys by flow id, so that answers are reproducible."""
    return sorted(flows, key=operator.itemgetter(0, 1), reverse=query.descending)
