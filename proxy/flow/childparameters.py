"""Parses a ChildQuery from the parameters of a URL, which are also the flags of `oxyctl flows requests`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from proxy.flow.child import ChildFilters, ChildKind, ChildQuery
from proxy.flow.parameters import (
    LISTING,
    NOT,
    TENANT,
    TIMES,
    Parser,
    check_window,
    parse_status,
    parse_text,
    parse_time,
    parse_word,
    read_pairs,
    take_tenant,
)
from proxy.flow.record import Verdict

FILTERS: dict[str, Parser] = {  # may be repeated: alternatives
    "id": parse_text,
    "status": parse_status,
    "method": lambda text: parse_text(text).upper(),
    "host": lambda text: parse_text(text).lower(),
    "url": parse_text,
    "fault": parse_text,
    "user": parse_text,
    "verdict": parse_word(Verdict),
}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(f"not a number: {text!r}")
    return int(text)


_SINGLE: dict[str, Parser] = {**TENANT, "scope": LISTING["scope"], "limit": LISTING["limit"], "before": _number}
_EXCLUDING = tuple(NOT + name for name in FILTERS)
CHILD_PARAMETERS = (*_SINGLE, *TIMES, *FILTERS, *_EXCLUDING)


def parse_children(kind: ChildKind, pairs: Iterable[tuple[str, str]], now: datetime) -> ChildQuery:
    """The query in `pairs`. Raises QueryError without a tenant, unless `all_tenants=true` asks for all."""
    single = _SINGLE | {name: lambda text: parse_time(text, now) for name in TIMES}
    values = read_pairs(pairs, CHILD_PARAMETERS, FILTERS, single)
    tenant = take_tenant(values)
    excluded = {name.removeprefix(NOT): values.pop(name) for name in _EXCLUDING if name in values}
    for filters in (values, excluded):
        if "id" in filters:
            filters["flow_id"] = filters.pop("id")
    query = ChildQuery(kind=kind, tenant=tenant, excluded=ChildFilters(**excluded), **values)
    check_window(query.since, query.until)
    return query
