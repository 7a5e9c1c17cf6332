"""Parses a FlowQuery from the parameters of a URL, which are also the flags of `oxyctl flows`."""

from __future__ import annotations

import ipaddress
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal

from proxy.flow.groups import GROUP_FIELDS, GROUP_SORTS, MAX_GROUP_FIELDS, GroupsQuery
from proxy.flow.query import DEFAULT_LIMIT, MAX_LIMIT, NEVER, SORT_KEYS, Filters, FlowQuery, Prefix, Range, Scope
from proxy.flow.record import CloseReason, Level, Protocol, State, Verdict
from proxy.settings import suggest


class QueryError(ValueError):
    """One error in a query. `str()` names the parameter."""


MAX_ALTERNATIVES = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"([\d.]+)(ms|s|m|h|d)", re.ASCII)
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZES |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def parse_duration(text: str) -> float:
    """The seconds in `90s`, `5m`, `1h30m`, `250ms`, `7d`."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"not a duration: {text!r} (write 90s, 5m, 1h30m, 250ms or 7d)")
    return sum(float(count) * _UNITS_S[unit] for count, unit in _DURATION_PART.findall(text))


def parse_time(text: str, now: datetime) -> int:
    """Unix ns of a duration before `now`, an ISO 8601 time, a time of today, or of a number of ns as in records."""
    if text.isascii() and text.isdigit() and 16 <= len(text) <= 19:
        return min(int(text), NEVER)
    try:
        moment = now - timedelta(seconds=parse_duration(text)) if _DURATION.fullmatch(text) else _moment(text, now)
        return max(0, (moment - _EPOCH) // timedelta(microseconds=1) * 1000)
    except (ValueError, OverflowError):
        raise ValueError(f"not a time: {text!r} (write 5m for five minutes ago, or 2026-01-31T18:30:00)") from None


def _moment(text: str, now: datetime) -> datetime:
    if re.match(r"\d\d:\d\d", text, re.ASCII):
        return datetime.combine(now.date(), time.fromisoformat(text), time.fromisoformat(text).tzinfo or now.tzinfo)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def parse_prefix(text: str) -> Prefix:
    """First and last address of `10.50.0.0/16`, or of one address. Bits after the prefix are ignored."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text  # as with a port
    try:
        network = ipaddress.ip_network(bare, strict=False)
    except ValueError:
        raise ValueError(f"not an address or prefix: {text!r}") from None
    version = bytes((network.version,))
    return version + network.network_address.packed, version + network.broadcast_address.packed


def parse_port(text: str) -> Range:
    """`443`, or `8000-8099` with both ends included."""
    parts = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    low, high = (int(parts[1]), int(parts[2] or parts[1])) if parts else (1, 0)
    if not low <= high <= 65_535:
        raise ValueError(f"not a port: {text!r} (write 443 or 8000-8099)")
    return low, high


def parse_size(text: str) -> int:
    """The bytes in `1500`, `10k`, `1.5M`, `2GiB`."""
    parts = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]i?|)b?", text.lower(), re.ASCII)
    if not parts:
        raise ValueError(f"not a size: {text!r} (write 1500, 10k, 1.5M or 2GiB)")
    return min(int(float(parts[1]) * _SIZES[parts[2]]), NEVER)


def parse_text(text: str) -> str:
    """A text that is not empty."""
    if not text:
        raise ValueError("must not be empty")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT):
        raise ValueError(f"not a number from 1 to {MAX_LIMIT}: {text!r}")
    return int(text)


def _dscp(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 3 and int(text) <= 63):
        raise ValueError(f"not a DSCP: {text!r} (0 to 63)")
    return int(text)


def _version(text: str) -> int:
    if text not in ("4", "6"):
        raise ValueError(f"not a version of IP: {text!r} (4 or 6)")
    return int(text)


def _community(text: str) -> str:
    if not re.fullmatch(r"1:[A-Za-z0-9+/]{27}=", text):
        raise ValueError(f"not a community id: {text!r} (write 1: and 28 characters)")
    return text


def _where(text: str) -> str:
    from proxy.flow.where import check  # 0.2 s to import: only if needed

    check(text)
    return text


def parse_status(text: str) -> Range:
    """`404`, `4xx`, or `400-499` with both ends included."""
    if re.fullmatch(r"[1-5]xx", text, re.ASCII | re.IGNORECASE):
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    parts = re.fullmatch(r"(\d{1,10})(?:-(\d{1,10}))?", text, re.ASCII)
    low, high = (int(parts[1]), int(parts[2] or parts[1])) if parts else (1, 0)
    if low > high:
        raise ValueError(f"not a status: {text!r} (write 404, 4xx or 400-499)")
    return low, high


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"expected true or false (found {text!r})")
    return text == "true"


def parse_word(kind: Any) -> Callable[[str], str]:
    """A parser for the words of a Literal."""
    choices = typing.get_args(kind)

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"unknown value {text!r}{suggest(text, choices)}")
        return text

    return parse


def _order(text: str) -> tuple[str, bool]:
    name, colon, direction = text.partition(":")
    if name not in SORT_KEYS:
        raise ValueError(f"unknown field {name!r}{suggest(name, SORT_KEYS)}")
    if colon and direction not in ("asc", "desc"):
        raise ValueError(f"unknown direction {direction!r}; write {name}:asc or {name}:desc")
    return name, direction != "asc"


OffRamp = Literal["kernel", "socket", "tunnel"]
_OFF_RAMPS = {"sockets": "socket"}  # as in `offramp: sockets`
Parser = Callable[[str], Any]
FILTERS: dict[str, Parser] = {  # may be repeated: alternatives
    "id": parse_text,
    "src": parse_prefix,
    "dst": parse_prefix,
    "ip": parse_prefix,
    "src_port": parse_port,
    "dst_port": parse_port,
    "port": parse_port,
    "protocol": parse_word(Protocol),
    "state": parse_word(State),
    "close_reason": parse_word(CloseReason),
    "user": parse_text,
    "device": parse_text,
    "onramp": parse_text,
    "offramp": lambda text: parse_word(OffRamp)(_OFF_RAMPS.get(text, text)),
    "level": parse_word(Level),
    "verdict": parse_word(Verdict),
    "tls_action": parse_word(Literal["pass", "terminate"]),
    "host": lambda text: parse_text(text).lower(),
    "policy": parse_text,
    "dscp": _dscp,
    "version": _version,
    "community_id": _community,
    "http_status": parse_status,
    "http_method": lambda text: parse_text(text).upper(),
    "url": parse_text,
}
REQUESTS = ("http_status", "http_method", "url")  # filters on a flow's requests
TENANT: dict[str, Parser] = {"tenant": parse_text, "all_tenants": _flag}
MINIMUMS: dict[str, Parser] = {"min_bytes": parse_size, "min_duration": lambda text: parse_duration(text) * 1000}
LISTING: dict[str, Parser] = {"scope": parse_word(Scope), "sort": _order, "limit": _count}
TIMES = ("since", "until")
_FIELDS = {"id": "flow_id", "min_duration": "min_duration_ms"}

NOT = "not_"  # prefix of a filter's name: flows that match are left out
WHERE: dict[str, Parser] = {"where": _where}
EXCLUDING = tuple(NOT + name for name in (*FILTERS, *MINIMUMS))

_SELECTING = (*TENANT, *FILTERS, *MINIMUMS, *EXCLUDING, *WHERE)
# Flow events are published at once, before the flow's requests are known.
WATCH_PARAMETERS = tuple(name for name in _SELECTING if name.removeprefix(NOT) not in REQUESTS)
LIST_PARAMETERS = (*_SELECTING, *LISTING, *TIMES)
EXPORT_PARAMETERS = (*_SELECTING, "scope", *TIMES)
GROUP_PARAMETERS = (*LIST_PARAMETERS, "by")


def parse_query(pairs: Iterable[tuple[str, str]], now: datetime, allowed: Iterable[str] = LIST_PARAMETERS) -> FlowQuery:
    """The query in `pairs`. Raises QueryError without a tenant, unless `all_tenants=true` asks for all."""
    single: dict[str, Parser] = {
        **TENANT,
        **MINIMUMS,
        **LISTING,
        **WHERE,
        **{NOT + name: MINIMUMS[name] for name in MINIMUMS},
    }
    single |= {name: lambda text: parse_time(text, now) for name in TIMES}
    return _build(read_pairs(pairs, tuple(allowed), FILTERS, single))


def read_pairs(
    pairs: Iterable[tuple[str, str]], allowed: tuple[str, ...], many: Mapping[str, Parser], single: Mapping[str, Parser]
) -> dict[str, Any]:
    """The parameters' values by name. Those in `many` may be repeated, also prefixed by `not_`. Raises QueryError."""
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in allowed:
            raise QueryError(f"unknown parameter '{name}'{suggest(name, allowed)}")
        if name in single and name in values:
            raise QueryError(f"{name}: given twice")
        try:
            if (parse := many.get(name.removeprefix(NOT))) is not None:
                values[name] = (*values.get(name, ()), parse(text))
                if len(values[name]) > MAX_ALTERNATIVES:
                    raise ValueError(f"more than {MAX_ALTERNATIVES} values")
            else:
                values[name] = single[name](text)
        except ValueError as error:
            raise QueryError(f"{name}: {error}") from None
    return values


def parse_groups(pairs: Iterable[tuple[str, str]], now: datetime) -> GroupsQuery:
    """As `parse_query`, for groups: `by=src,dst_host`, and an order of groups (`sort=flows`)."""
    pairs = list(pairs)
    own = {
        "by": [text for name, text in pairs if name == "by"],
        "sort": [text for name, text in pairs if name == "sort"],
    }
    for name, texts in own.items():
        if len(texts) > 1:
            raise QueryError(f"{name}: given twice")
    if not own["by"]:
        raise QueryError("by is required: the fields by which flows are counted together, as in by=user,dst_host")
    by = tuple(name.strip() for name in own["by"][0].split(","))
    for name in by:
        if name not in GROUP_FIELDS:
            raise QueryError(f"by: unknown field {name!r}{suggest(name, GROUP_FIELDS)}")
    if len(set(by)) < len(by) or len(by) > MAX_GROUP_FIELDS:
        raise QueryError(f"by: at most {MAX_GROUP_FIELDS} fields, each once")
    sort, descending = "bytes", True
    if own["sort"]:
        name, colon, direction = own["sort"][0].partition(":")
        if name not in GROUP_SORTS:
            raise QueryError(f"sort: groups have no {name!r}{suggest(name, GROUP_SORTS)}")
        if colon and direction not in ("asc", "desc"):
            raise QueryError(f"sort: unknown direction {direction!r}; write {name}:asc or {name}:desc")
        sort, descending = name, direction != "asc"
    rest = [pair for pair in pairs if pair[0] not in own]
    return GroupsQuery(flows=parse_query(rest, now, GROUP_PARAMETERS), by=by, sort=sort, descending=descending)


def _build(values: dict[str, Any]) -> FlowQuery:
    tenant = take_tenant(values)
    sort, descending = values.pop("sort", ("start", True))
    limit = values.pop("limit", DEFAULT_LIMIT)
    excluded = {name.removeprefix(NOT): values.pop(name) for name in EXCLUDING if name in values}
    query = FlowQuery(
        tenant=tenant, sort=sort, descending=descending, limit=limit, excluded=Filters(**_fields(excluded)),
        **_fields(values),
    )  # fmt: skip
    check_window(query.since, query.until)
    return query


def take_tenant(values: dict[str, Any]) -> str | None:
    """Remove the tenant from `values` and return it; None is all tenants. Raises QueryError if neither is given."""
    every, tenant = values.pop("all_tenants", False), values.pop("tenant", None)
    if every and tenant is not None:
        raise QueryError("tenant and all_tenants=true contradict each other")
    if not every and tenant is None:
        raise QueryError("tenant is required (or all_tenants=true, to see those of every tenant)")
    return None if tenant is None else str(tenant)


def check_window(since: int | None, until: int | None) -> None:
    if since is not None and until is not None and since > until:
        raise QueryError("until: is before since")


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    return {_FIELDS.get(name, name): value for name, value in values.items()}
