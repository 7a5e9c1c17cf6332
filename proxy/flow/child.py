"""Child records of a flow (its requests, SSH channels and files), and queries for them.

A child belongs to one flow, and so to one tenant. Inspectors may get that wrong, so it is checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import msgspec

from proxy.flow.query import DEFAULT_LIMIT, Filters, Range, Scope, Window, globs
from proxy.flow.record import Verdict
from proxy.flow.request import RequestRecord
from proxy.flow.ssh import ChannelRecord, FileRecord

Child = RequestRecord | ChannelRecord | FileRecord
ChildKind = Literal["request", "channel", "file"]
TYPES: dict[ChildKind, type[Child]] = {"request": RequestRecord, "channel": ChannelRecord, "file": FileRecord}
KINDS: dict[type[Child], ChildKind] = {type_: kind for kind, type_ in TYPES.items()}
_decoders = {type_.__name__: msgspec.json.Decoder(type_).decode for type_ in KINDS}


def decode_child(name: str, data: bytes) -> Child:
    """Decode a record of the structure `name` from JSON. Raises ValueError if it is invalid."""
    if name not in _decoders:
        raise ValueError(f"no child record is a {name!r}")
    return _decoders[name](data)


def child_id(child: Child) -> str:
    """The id of a child: the flow's id, a dot, and a number. A file has its channel's id."""
    return child.request_id if isinstance(child, RequestRecord) else child.channel_id


def is_genuine(child: Child, flow_id: str, tenant: str) -> bool:
    """Whether the record names this flow and tenant as its own."""
    return (child.flow_id, child.tenant) == (flow_id, tenant) and child_id(child).startswith(f"{flow_id}.")


def start_of(child: Child) -> int:
    """The start of the child (Unix ns)."""
    return child.time if isinstance(child, FileRecord) else child.start


def end_of(child: Child) -> int:
    """The end of the child (Unix ns); for an open one, the time of its latest record."""
    return child.time if isinstance(child, FileRecord) else child.start + round(child.duration_ms * 1e6)


def is_open(child: Child) -> bool:
    """Whether the child is still open."""
    return not isinstance(child, FileRecord) and child.is_open


class ChildFilters(msgspec.Struct, kw_only=True, frozen=True):
    """Filters: values inside one are alternatives, filters are combined by AND, and an empty one matches everything."""

    status: tuple[Range, ...] = ()  # HTTP status of a request, exit status of a channel
    method: tuple[str, ...] = ()  # upper case; kind of a channel, operation on a file
    host: tuple[str, ...] = ()  # patterns in lower case: `*` is any text, `?` any character
    url: tuple[str, ...] = ()  # patterns; command of a channel, path of a file
    fault: tuple[str, ...] = ()
    user: tuple[str, ...] = ()
    verdict: tuple[Verdict, ...] = ()
    flow_id: tuple[str, ...] = ()


NOTHING = ChildFilters()


class ChildQuery(ChildFilters, kw_only=True, frozen=True):
    """A query for the children of one kind: open ones first, then by end, latest first."""

    kind: ChildKind = "request"
    tenant: str | None  # None: all tenants, set only for callers who may ask for that
    scope: Scope = "all"
    since: int | None = None  # Unix ns; children that were open at some time between these two
    until: int | None = None
    excluded: ChildFilters = NOTHING
    before: int | None = None  # only children stored before this number (`StoredChild.number`)
    limit: int = DEFAULT_LIMIT


class StoredChild(NamedTuple):
    """One child in an answer: its number in the store (None: it is open), and the record."""

    number: int | None
    record: Child


class ChildPage(msgspec.Struct):
    """The store's answer to a query: at most `limit` children, and how complete it is."""

    children: list[StoredChild]
    window: Window
    lost: int
    truncated: bool


class FilterValues(NamedTuple):
    """The values that filters test, with the same names for all kinds."""

    status: int | None
    method: str
    host: str | None
    url_prefix: str | None  # scheme, host and port of a request
    path: str | None
    fault: str | None


def filter_values(child: Child) -> FilterValues:
    """The values of a child of any kind."""
    if isinstance(child, RequestRecord):
        return FilterValues(child.status, child.method, child.host or None, child.url_prefix, child.path, child.fault)
    if isinstance(child, ChannelRecord):
        return FilterValues(child.exit_status, child.kind, child.forward_host, None, child.command, child.error)
    return FilterValues(None, child.operation, None, None, child.path, child.error)


Test = Callable[[Child, FilterValues], bool]


def child_predicate(query: ChildQuery) -> Callable[[Child], bool]:
    """A function that tells whether an open child matches, apart from the query's scope."""
    tests = [*_tests(query), *(_negated(test) for test in _tests(query.excluded))]

    def matches(child: Child) -> bool:
        return (
            KINDS[type(child)] == query.kind
            and query.tenant in (None, child.tenant)
            and (query.until is None or start_of(child) <= query.until)
            and all(test(child, values) for values in (filter_values(child),) for test in tests)
        )

    return matches


def _tests(filters: ChildFilters) -> Iterable[Test]:
    if statuses := filters.status:
        yield (
            lambda _, values: values.status is not None and any(low <= values.status <= high for low, high in statuses)
        )
    if methods := filters.method:
        yield lambda _, values: values.method.upper() in methods
    if filters.host:
        hosts = globs(filters.host)
        yield lambda _, values: values.host is not None and hosts.fullmatch(values.host.lower()) is not None
    if filters.url:
        urls = globs(tuple(url.lower() for url in filters.url))
        yield lambda _, values: _matches_url(urls, values)
    if faults := filters.fault:
        yield lambda _, values: values.fault in faults
    if users := filters.user:
        yield lambda child, _: child.user in users
    if verdicts := filters.verdict:
        yield lambda child, _: not isinstance(child, FileRecord) and child.verdict in verdicts
    if flows := filters.flow_id:
        yield lambda child, _: child.flow_id in flows


def _matches_url(pattern: re.Pattern[str], values: FilterValues) -> bool:
    return pattern.fullmatch(f"{values.url_prefix or ''}{values.path or ''}".lower()) is not None


def _negated(test: Test) -> Test:
    return lambda child, values: not test(child, values)


def request_wanted(filters: Filters) -> ChildFilters | None:
    """The condition that one request of a flow must meet for the flow to match, or None if there is none."""
    if not (filters.http_status or filters.http_method or filters.url):
        return None
    return ChildFilters(status=filters.http_status, method=filters.http_method, url=filters.url, host=filters.host)


def requests_excluded(filters: Filters) -> list[ChildFilters]:
    """Conditions that no request of a flow may meet."""
    each = [
        ChildFilters(status=filters.http_status),
        ChildFilters(method=filters.http_method),
        ChildFilters(url=filters.url),
    ]
    return [filters for filters in each if filters != NOTHING]


def without_requests(filters: Filters, *, is_wanted: bool) -> dict[str, Any]:
    """The same filters without those on requests."""
    cleared = dict.fromkeys(("http_status", "http_method", "url"), ())
    return {**cleared, "host": ()} if is_wanted and request_wanted(filters) is not None else cleared
