"""Turns the options of `oxyctl flows` into the parameters of a query."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from oxyctl.cli.control import connect, recorded_flows, recorded_sessions, tenants
from oxyctl.cli.flow_options import FlowFormat

if TYPE_CHECKING:
    from oxyctl.render.output import FlowOutput
    from proxy.control.client import ControlClient
    from proxy.control.recordings import RecordedSessions
    from proxy.control.schema import RequestRecord
    from proxy.control.store import RecordedFlows

Pairs = list[tuple[str, str]]
T = TypeVar("T")

_SUBCOMMANDS = ("watch", "get", "kill", "stats", "explain", "export", "sql", "requests", "replay")
_REQUEST_PARAMETERS = {"http_status": "status", "http_method": "method"}  # flags whose parameters have other names
_NOT_PARAMETERS = (
    "lab",
    "node",
    "control",
    "output",
    "format_",
    "fields",
    "statement",
    "not_",
    "all_tenants",
    "tenant",
    "interval",
)
_NAMES = {"id_": "id", "not_id_": "not_id"}  # `id` is a builtin of Python
_PAGE = 2_000  # requests per answer
_IP_VERSIONS = {"ipv4": "4", "ipv6": "6"}


class QueryOptions:
    """The options on the command line: a subcommand's own, and those before its name."""

    def __init__(self, context: typer.Context) -> None:
        parents = [context.parent] if context.parent and context.info_name in _SUBCOMMANDS else []
        self.flags: dict[str, Any] = {}
        for level in (*parents, context):
            self.flags |= {
                _NAMES.get(name, name): level.params[name] for name in level.params if _is_given(level, name)
            }
        for negation in ("", "not_"):
            versions = [digit for name, digit in _IP_VERSIONS.items() if self.flags.pop(negation + name, False)]
            if versions:
                self.flags[f"{negation}version"] = versions
        self.format = FlowFormat(self.flags.get("output", FlowFormat.table))

    def client(self) -> ControlClient:
        """A client of the chosen proxy."""
        return connect(*self._proxy())

    def ask(self, query: Callable[[ControlClient | RecordedFlows], T], *, announce: bool = True) -> tuple[T, bool]:
        """The answer, and whether a running proxy gave it.

        If the proxy has ended, its records answer, and with `announce` a message says so.
        """
        return self._ask(query, recorded_flows, announce)

    def ask_recordings(self, query: Callable[[ControlClient | RecordedSessions], T]) -> tuple[T, bool]:
        """As `ask`, for recordings of SSH sessions."""
        return self._ask(query, recorded_sessions, announce=False)

    def _ask(self, query: Callable[[Any], T], find_records: Callable[..., Any], announce: bool) -> tuple[T, bool]:
        from oxyctl.cli.output import print_stderr
        from oxyctl.errors import LabNotFound
        from proxy.control.client import ProxyGone

        try:
            return query(self.client()), True
        except (ProxyGone, LabNotFound):
            store = None
            with contextlib.suppress(LabNotFound):
                store = find_records(*self._proxy())
            if store is None or self.flags.get("scope") == "live":
                raise
        answer = query(store)
        if announce:
            print_stderr("the proxy is not running; these are its records")
        return answer, False

    def _proxy(self) -> tuple[str | None, str | None, str | None]:
        return self.flags.get("lab"), self.flags.get("node"), self.flags.get("control")

    def pairs(self, allowed: tuple[str, ...] = ("tenant", "all_tenants")) -> Pairs:
        """The parameters of a query for flows. UsageError: one is missing or invalid."""
        self._explain_where()
        self._require_tenant()
        _choose_scope(self.flags)
        _choose_order(self.flags)
        return _checked(self._parameters(allowed))

    def groups(self, allowed: tuple[str, ...]) -> Pairs:
        """The parameters of a query for groups. UsageError: one is invalid."""
        from oxyctl.errors import UsageError

        self._require_tenant()
        _choose_scope(self.flags)
        if inapplicable := {"last", "first", "fields"} & self.flags.keys():
            raise UsageError(f"--{min(inapplicable)} does not apply to groups: use --top and --sort")
        if "top" in self.flags:
            self.flags["limit"] = self.flags["top"]
        self.flags["by"] = self.flags["aggregate_by"].replace("-", "_")
        return _checked(self._parameters(allowed), is_grouped=True)

    def requests(self, *, limit: int | None = None) -> Pairs:
        """The parameters of a query for requests. UsageError: a flag does not apply to requests."""
        from oxyctl.errors import UsageError
        from proxy.control.schema import CHILD_PARAMETERS

        self._require_tenant()
        _choose_scope(self.flags)
        pairs = self._parameters(("tenant", "all_tenants"))
        for name, value in self.flags.items():
            if name in (*_NOT_PARAMETERS, "live", "past", "limit"):
                continue
            negation, positive = ("not_", name.removeprefix("not_")) if name.startswith("not_") else ("", name)
            parameter = negation + _REQUEST_PARAMETERS.get(positive, positive)
            if parameter not in CHILD_PARAMETERS:
                raise UsageError(f"--{positive.replace('_', '-')} does not apply to requests")
            pairs += [(parameter, _text(item)) for item in (value if isinstance(value, list | tuple) else [value])]
        limit = self.flags.get("limit", limit)
        return _checked_requests([*pairs, ("limit", str(limit))] if limit is not None else pairs)

    def _parameters(self, names: tuple[str, ...]) -> Pairs:
        pairs: Pairs = []
        for name in names:
            value = self.flags.get(name, [])
            pairs += [(name, _text(item)) for item in (value if isinstance(value, list | tuple) else [value])]
        return pairs

    def output(self, kind: str, *, events: bool = False) -> FlowOutput:
        """The printer of the results. UsageError: a field is unknown."""
        from oxyctl.render.output import FlowOutput

        every_tenant = bool(self.flags.get("all_tenants"))
        return FlowOutput(kind, self.format, self.flags.get("fields"), every_tenant=every_tenant, events=events)

    def _explain_where(self) -> None:
        """Answer `--where help`."""
        if self.flags.get("where") == "help":
            from oxyctl.render.flows import where_fields

            print(where_fields())
            raise typer.Exit(0)

    def _require_tenant(self) -> None:
        from oxyctl.errors import UsageError

        if "tenant" in self.flags and "all_tenants" in self.flags:
            raise UsageError("--tenant and --all-tenants contradict each other")
        if "tenant" in self.flags or "all_tenants" in self.flags:
            return
        known = tenants(*self._proxy())
        if len(known) == 1:
            self.flags["tenant"] = known[0]
            return
        connect(*self._proxy())  # there may be no lab, or several, which is to be said first
        message = f"--tenant is required: one of {', '.join(known)}" if known else "--tenant NAME is required"
        raise UsageError(f"{message}; or --all-tenants, for the flows of every tenant")

    def check_tenant(self) -> None:
        """UsageError: neither the proxy nor its records know the tenant, so nothing can match."""
        from oxyctl.errors import UsageError
        from proxy.settings import suggest

        name = self.flags.get("tenant")
        known = [] if name is None else tenants(*self._proxy())
        if not known or name in known:
            return
        pairs = [("tenant", str(name)), ("limit", "1")]  # a tenant that has been removed from the settings
        if not self.ask(lambda proxy: proxy.flows(pairs), announce=False)[0].items:
            raise UsageError(f"--tenant: there is no tenant '{name}'{suggest(str(name), known)}")


def _is_given(context: Any, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _checked(pairs: Pairs, *, is_grouped: bool = False) -> Pairs:
    """Return `pairs` if the server will accept them. UsageError: it will not."""
    from datetime import datetime

    from oxyctl.errors import UsageError
    from proxy.control.schema import QueryError, parse_groups, parse_query

    try:
        now = datetime.now().astimezone()
        parse_groups(pairs, now) if is_grouped else parse_query(pairs, now)
    except QueryError as error:
        name, colon, rest = str(error).partition(":")
        flag = "aggregate-by" if name == "by" else name.replace("_", "-")
        raise UsageError(f"--{flag}:{rest}" if colon else str(error)) from None
    return pairs


def _checked_requests(pairs: Pairs) -> Pairs:
    """Return `pairs` if the server will accept them. UsageError: it will not."""
    from datetime import datetime

    from oxyctl.errors import UsageError
    from proxy.control.schema import QueryError, parse_children

    try:
        parse_children("request", pairs, datetime.now().astimezone())
    except QueryError as error:
        name, colon, rest = str(error).partition(":")
        flag = {each: flag for flag, each in _REQUEST_PARAMETERS.items()}.get(name, name).replace("_", "-")
        raise UsageError(f"--{flag}:{rest}" if colon else str(error)) from None
    return pairs


def all_requests(proxy: ControlClient | RecordedFlows, pairs: Pairs) -> Iterator[RequestRecord]:
    """All requests that match, fetched page by page: open ones first, then by end time, latest first."""
    before: list[tuple[str, str]] = []
    while True:
        page = proxy.children("requests", [*pairs, ("limit", str(_PAGE)), *before])
        yield from page.items
        if page.next is None:
            return
        before = [("before", str(page.next))]


def _choose_scope(flags: dict[str, Any]) -> None:
    live, past = flags.get("live"), flags.get("past")
    if live or past:
        flags["scope"] = "all" if live and past else "live" if live else "past"


def _choose_order(flags: dict[str, Any]) -> None:
    """Turn `--last N`, `--first N` and `--top N` into an order and a limit."""
    from oxyctl.errors import UsageError

    chosen = [name for name in ("last", "first") if name in flags]
    if chosen and (len(chosen) > 1 or "sort" in flags or "limit" in flags):
        raise UsageError("--last and --first set the order and the limit: use one of them, without --sort and --limit")
    if "top" in flags:
        if chosen or "limit" in flags:
            raise UsageError("--top sets the order and the limit: use it without --last, --first and --limit")
        flags["limit"] = flags["top"]
        flags.setdefault("sort", "bytes:desc")
    for name in chosen:
        flags["limit"], flags["sort"] = flags[name], "start:desc" if name == "last" else "start:asc"
