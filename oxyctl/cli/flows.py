"""`oxyctl flows`: the proxy's live and past flows, by tenant."""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import asking
from oxyctl.cli.flow_options import (
    FieldsOption,
    FlowFormat,
    FlowsCommand,
    FlowsGroup,
    FormatOption,
    excluded,
    filter_option,
    filters,
    place,
    printing,
    whose,
    window,
)
from oxyctl.cli.flow_query import Typed, every_request
from oxyctl.cli.flow_requests import SHOWN, export_har, requests, requests_of
from oxyctl.cli.sharing import sharing

if TYPE_CHECKING:
    from proxy.control.schema import FlowsAnswer, GroupsAnswer

STATISTICS = ("tenant", "protocol", "verdict", "level", "close_reason", "user", "dst_host", "dst_port")

app = typer.Typer(cls=FlowsGroup)
app.command("requests", cls=FlowsCommand)(requests)


@app.callback(invoke_without_command=True)
@sharing(window, whose, filters, excluded, printing, place)
def flows(
    context: typer.Context,
    sort: Annotated[
        str | None, filter_option("--sort", "By start, bytes, duration, ...; descending.", "FIELD[:asc|desc]", "sort")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Maximum number of flows.  [default: 100]")] = None,
    last: Annotated[int | None, typer.Option("--last", metavar="N", help="The N newest flows.")] = None,
    first: Annotated[int | None, typer.Option("--first", metavar="N", help="The N oldest flows.")] = None,
    top: Annotated[
        int | None, typer.Option("--top", metavar="N", help="The top N flows, by bytes or by --sort.")
    ] = None,
    aggregate_by: Annotated[
        str | None,
        typer.Option("--aggregate-by", metavar="A,B,...", help="Group flows by these fields: user,dst_host."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print events as they happen, until Ctrl-C.")] = False,
    **shared: Any,
) -> None:
    """List the flows of a tenant, live and ended, newest first.

    A repeated flag matches any of its values; different flags narrow the list. Also works for a proxy that is not
    running.
    """
    if context.invoked_subcommand is not None:
        return
    typed = Typed(context)
    if follow:
        _follow(typed)
    elif aggregate_by is not None:
        _groups(typed)
    else:
        _list(typed)


@app.command(cls=FlowsCommand)
@sharing(whose, filters, excluded, printing, place)
def watch(
    context: typer.Context,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="Seconds between updates.")] = 1.0,
    **shared: Any,
) -> None:
    """Show live flows like a process monitor: what each moves now, sorted by a key; `q` ends it.

    In a pipe, or with a --format, starts, updates and ends are printed as they happen: `flows --follow`.
    """
    typed = Typed(context)
    if sys.stdout.isatty() and not {"output", "fields"} & typed.flags.keys():
        _monitor(typed, interval)
    else:
        _follow(typed)


@app.command()
@sharing(whose, printing, place)
def get(context: typer.Context, flow_id: Annotated[str, typer.Argument(metavar="ID")], **shared: Any) -> None:
    """Show all fields of one flow, and its requests. Exit code 4 if the tenant has no such flow.

    Also works for a proxy that is not running.
    """
    typed = Typed(context)
    printer = typed.output("flow")
    pairs = typed.pairs()
    with asking():
        typed.check_tenant()
        record, is_running = typed.ask(lambda proxy: proxy.flow(flow_id, pairs))
    if typed.format not in (FlowFormat.table, FlowFormat.json):
        printer.answer([record], is_running=is_running)
        return
    found, is_more = requests_of(typed, flow_id) if record.level == "http" else ([], False)
    if typed.format == FlowFormat.json:
        printer.answer([record], is_running=is_running, requests=found, requests_truncated=is_more)
        return
    printer.detail(record)
    if found and "fields" not in typed.flags:
        from oxyctl.render.requests import TABLE_FIELDS, request_table

        print()
        request_table(found, [name for name in TABLE_FIELDS if name not in ("user", "flow_id")])
    if is_more:
        _say_more(flow_id)


@app.command(cls=FlowsCommand)
@sharing(window, whose, filters, excluded, place)
def sql(
    context: typer.Context,
    statement: Annotated[str, typer.Argument(metavar="SELECT", help="The query.")],
    output: FormatOption = FlowFormat.table,
    **shared: Any,
) -> None:
    """Ask a question in SQL, by DuckDB: `oxyctl flows sql "select user, sum(origin_bytes) from flows group by user"`.

    The table `flows` holds those that the filters and the window let through, with all fields of a record; the table
    `requests` the HTTP requests in them.
    """
    from oxyctl.render.sql import run_sql
    from proxy.control.schema import EXPORT_PARAMETERS, Exported

    typed = Typed(context)
    pairs = typed.pairs(EXPORT_PARAMETERS)
    with asking(), contextlib.ExitStack() as stack, _until_nobody_reads():
        lines, _ = typed.ask(lambda proxy: stack.enter_context(proxy.export(pairs)))
        tenant = typed.pairs()
        wants_requests = "requests" in statement.lower()
        requests = typed.ask(lambda proxy: every_request(proxy, tenant), announces=False)[0] if wants_requests else None
        run_sql(statement, (line for line in lines if not isinstance(line, Exported)), output, requests)


class ExportFormat(enum.StrEnum):
    """What an export is written as."""

    csv = "csv"
    jsonl = "jsonl"
    eve = "eve"
    zeek = "zeek"
    parquet = "parquet"
    har = "har"


@app.command(cls=FlowsCommand)
@sharing(window, whose, filters, excluded, place)
def export(
    context: typer.Context,
    format_: Annotated[ExportFormat, typer.Option("--format", help="File format.")] = ExportFormat.jsonl,
    fields: FieldsOption = None,
    **shared: Any,
) -> None:
    """Write every flow that matches, however many they are: csv, jsonl, parquet, Suricata's eve, Zeek's conn.log.

    `har` is an HTTP Archive of requests, which browsers read: only filters about requests go with it.

    What the export covers, and what is lost, is said at its end.
    """
    from oxyctl.cli.output import say
    from oxyctl.errors import OxyctlError, UsageError
    from oxyctl.render.exports import eve_lines, zeek_lines
    from oxyctl.render.units import time_text
    from proxy.control.schema import EXPORT_PARAMETERS, Exported

    typed = Typed(context)
    if fields is not None and format_ not in (ExportFormat.csv, ExportFormat.jsonl):
        raise UsageError(f"--fields does not apply to {format_}: its fields are fixed")
    if format_ == ExportFormat.har:
        with _until_nobody_reads():
            export_har(typed)
        return
    pairs = typed.pairs(EXPORT_PARAMETERS)
    ends: list[Exported] = []

    def records(lines: Iterator[Any]) -> Iterator[Any]:
        for line in lines:
            if isinstance(line, Exported):
                ends.append(line)
            else:
                yield line

    with asking(), contextlib.ExitStack() as stack, _until_nobody_reads():
        lines, _ = typed.ask(lambda proxy: stack.enter_context(proxy.export(pairs)))
        if format_ in (ExportFormat.eve, ExportFormat.zeek):
            for line in (eve_lines if format_ == ExportFormat.eve else zeek_lines)(records(lines)):
                print(line)
        elif format_ == ExportFormat.parquet:
            from oxyctl.render.sql import write_parquet

            write_parquet(records(lines), sys.stdout.buffer)
        else:
            typed.format = FlowFormat(format_)
            typed.output("flows").answer(records(lines))
        sys.stdout.flush()
    if not ends:
        raise OxyctlError("the export was cut off: the proxy stopped")
    (end,) = ends
    if not end.exported:
        with asking():
            typed.check_tenant()
    since = "everything on record" if end.window.since is None else f"since {time_text(end.window.since, date=True)}"
    until = time_text(end.window.until, date=True)
    say(f"{end.exported} flows: {since}, until {until}; {end.lost or 'no'} records are lost")


@app.command()
@sharing(whose, place)
def explain(context: typer.Context, flow_id: Annotated[str, typer.Argument(metavar="ID")], **shared: Any) -> None:
    """Explain one flow: who, where to, which rule decided, how it ended, and what to do next.

    Exit code 4 when the tenant has no such flow.
    """
    from oxyctl.render.story import story

    typed = Typed(context)
    pairs = typed.pairs()
    with asking():
        typed.check_tenant()
        record, _ = typed.ask(lambda proxy: proxy.flow(flow_id, pairs))
    found, is_more = requests_of(typed, flow_id) if record.level == "http" else ([], False)
    print(story(record, found))
    if is_more:
        _say_more(flow_id)


@app.command()
@sharing(whose, place)
def kill(context: typer.Context, flow_id: Annotated[str, typer.Argument(metavar="ID")], **shared: Any) -> None:
    """End a live flow; its record says `admin_killed`. Exit code 4 when the tenant has no such flow."""
    from oxyctl.cli.output import say

    typed = Typed(context)
    pairs = typed.pairs()
    with asking():
        typed.check_tenant()
        typed.client().kill(flow_id, pairs)
    say(f"flow {flow_id} was ended")


@app.command(cls=FlowsCommand)
@sharing(window, whose, filters, excluded, printing, place)
def stats(context: typer.Context, **shared: Any) -> None:
    """Show the number of flows and their bytes: in total, and by protocol, verdict, close reason, user, host, ..."""
    from oxyctl.render.stats import print_stats
    from proxy.control.schema import LIST_PARAMETERS

    typed = Typed(context)
    pairs = typed.pairs(LIST_PARAMETERS)

    def ask(proxy: Any) -> dict[str, GroupsAnswer]:
        return {by: proxy.groups([*pairs, ("by", by), ("limit", "5")]) for by in STATISTICS}

    with asking():
        answers, is_running = typed.ask(ask)
        if not any(answer.items for answer in answers.values()):
            typed.check_tenant()
    print_stats(answers, typed.format, is_running=is_running)


def _say_more(flow_id: str) -> None:
    from oxyctl.cli.output import say

    say(f"these are its last {SHOWN} requests; `oxyctl flows requests --id {flow_id}` shows more")


def _groups(typed: Typed) -> None:
    from oxyctl.render.groups import print_groups
    from proxy.control.schema import GROUP_PARAMETERS

    pairs = typed.groups(GROUP_PARAMETERS)
    by = tuple(name.strip() for name in dict(pairs)["by"].split(","))
    with asking():
        answer, is_running = typed.ask(lambda proxy: proxy.groups(pairs))
        if not answer.items:
            typed.check_tenant()
    with _until_nobody_reads():
        print_groups(answer, by, typed.format, is_running=is_running)
    _remark(answer, typed)


def _list(typed: Typed) -> None:
    from proxy.control.schema import LIST_PARAMETERS

    printer = typed.output("flows")
    pairs = typed.pairs(LIST_PARAMETERS)
    with asking():
        answer, is_running = typed.ask(lambda proxy: proxy.flows(pairs))
        if not answer.items:
            typed.check_tenant()
    with _until_nobody_reads():
        printer.answer(answer.items, answer, is_running=is_running)
    _remark(answer, typed)


def _remark(answer: FlowsAnswer | GroupsAnswer, typed: Typed) -> None:
    """Say, beside the result, what the list leaves out."""
    from oxyctl.cli.output import say
    from oxyctl.render.units import time_text

    remarks = []
    if answer.truncated and not {"last", "first", "top"} & typed.flags.keys():
        what = "groups" if "by" in typed.flags else "flows"
        remarks.append(f"more {what} match than these {len(answer.items)}: --limit shows more")
    if answer.lost:
        remarks.append(f"{answer.lost} records of this period are lost")
    if typed.format == FlowFormat.table and not answer.items:
        oldest = answer.window.oldest
        remarks.append(
            f"no flow matches; records go back to {time_text(oldest, date=True)}" if oldest else "no flow matches"
        )
    for remark in remarks:
        say(remark)


def _monitor(typed: Typed, interval_s: float) -> None:
    from oxyctl.cli.flow_monitor import monitor
    from proxy.control.schema import WATCH_PARAMETERS

    typed.flags.pop("interval", None)
    pairs = typed.pairs(WATCH_PARAMETERS)
    try:
        with asking():
            typed.check_tenant()
            monitor(typed.client(), pairs, interval_s)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _follow(typed: Typed) -> None:
    from oxyctl.errors import OxyctlError, UsageError
    from proxy.control.schema import WATCH_PARAMETERS

    requests = [unwanted + name for name in ("http_status", "http_method", "url") for unwanted in ("", "not_")]
    useless = [
        name.removeprefix("not_").replace("_", "-")
        for name in ("since", "until", "sort", "limit", "last", "first", "top", "live", "past", *requests)
        if name in typed.flags
    ]
    if useless:
        raise UsageError(f"--{useless[0]} does not apply to future events")
    if typed.format == FlowFormat.json:
        raise UsageError("a stream of events is not one JSON document: use --format jsonl")
    printer = typed.output("flows", events=True)
    pairs = typed.pairs(WATCH_PARAMETERS)
    try:
        with asking():
            typed.check_tenant()
        with asking(), _until_nobody_reads(), typed.client().watch(pairs) as events:
            printer.events(events)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    raise OxyctlError("the proxy has stopped")


@contextlib.contextmanager
def _until_nobody_reads() -> Iterator[None]:
    """End quietly when `oxyctl flows | head` closes the pipe: click would call it a failure."""
    from oxyctl.cli.output import explain

    try:
        yield
    except BrokenPipeError as error:
        raise typer.Exit(explain(error)) from None
