"""`oxyctl flows`: the proxy's live and past flows, by tenant."""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import translated_errors
from oxyctl.cli.flow_options import (
    FieldsOption,
    FlowFormat,
    FlowsCommand,
    FlowsGroup,
    FormatOption,
    filter_option,
    flow_filters,
    negated_flow_filters,
    output_options,
    period_options,
    proxy_options,
    tenant_options,
)
from oxyctl.cli.flow_query import QueryOptions, all_requests
from oxyctl.cli.flow_requests import SHOWN, export_har, last_requests, requests
from oxyctl.cli.shared_options import shared_options

if TYPE_CHECKING:
    from proxy.control.schema import FlowsAnswer, GroupsAnswer

STATISTICS = ("tenant", "protocol", "verdict", "level", "close_reason", "user", "dst_host", "dst_port")

app = typer.Typer(cls=FlowsGroup)
app.command("requests", cls=FlowsCommand)(requests)


@app.callback(invoke_without_command=True)
@shared_options(period_options, tenant_options, flow_filters, negated_flow_filters, output_options, proxy_options)
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

    A repeated option matches any of its values; different options narrow the list. Also works when the proxy is not
    running.
    """
    if context.invoked_subcommand is not None:
        return
    options = QueryOptions(context)
    if follow:
        _follow(options)
    elif aggregate_by is not None:
        _groups(options)
    else:
        _list(options)


@app.command(cls=FlowsCommand)
@shared_options(tenant_options, flow_filters, negated_flow_filters, output_options, proxy_options)
def watch(
    context: typer.Context,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="Seconds between updates.")] = 1.0,
    **shared: Any,
) -> None:
    """Show live flows and their current rates, as in a process monitor; keys sort them, `q` quits.

    In a pipe, or with --format, print starts, updates and ends as they happen, like `flows --follow`.
    """
    options = QueryOptions(context)
    if sys.stdout.isatty() and not {"output", "fields"} & options.flags.keys():
        _monitor(options, interval)
    else:
        _follow(options)


@app.command()
@shared_options(tenant_options, output_options, proxy_options)
def get(context: typer.Context, flow_id: Annotated[str, typer.Argument(metavar="ID")], **shared: Any) -> None:
    """Show all fields of one flow, and its requests. Exit code 4 if the tenant has no such flow.

    Also works when the proxy is not running.
    """
    options = QueryOptions(context)
    printer = options.output("flow")
    pairs = options.pairs()
    with translated_errors():
        options.check_tenant()
        record, is_running = options.ask(lambda proxy: proxy.flow(flow_id, pairs))
    if options.format not in (FlowFormat.table, FlowFormat.json):
        printer.answer([record], is_running=is_running)
        return
    requests, has_more = last_requests(options, flow_id) if record.level == "http" else ([], False)
    if options.format == FlowFormat.json:
        printer.answer([record], is_running=is_running, requests=requests, requests_truncated=has_more)
        return
    printer.detail(record)
    if requests and "fields" not in options.flags:
        from oxyctl.render.requests import TABLE_FIELDS, request_table

        print()
        request_table(requests, [name for name in TABLE_FIELDS if name not in ("user", "flow_id")])
    if has_more:
        _note_more_requests(flow_id)


@app.command(cls=FlowsCommand)
@shared_options(period_options, tenant_options, flow_filters, negated_flow_filters, proxy_options)
def sql(
    context: typer.Context,
    statement: Annotated[str, typer.Argument(metavar="SELECT", help="The query.")],
    output: FormatOption = FlowFormat.table,
    **shared: Any,
) -> None:
    """Query flows in SQL, with DuckDB: `oxyctl flows sql "select user, sum(origin_bytes) from flows group by user"`.

    The table `flows` holds the flows that match the filters and the period, with all fields of a record; the table
    `requests` holds their HTTP requests.
    """
    from oxyctl.render.sql import run_sql
    from proxy.control.schema import EXPORT_PARAMETERS, Exported

    options = QueryOptions(context)
    pairs = options.pairs(EXPORT_PARAMETERS)
    with translated_errors(), contextlib.ExitStack() as stack, _ignoring_closed_pipe():
        lines, _ = options.ask(lambda proxy: stack.enter_context(proxy.export(pairs)))
        tenant = options.pairs()
        wants_requests = "requests" in statement.lower()
        requests = options.ask(lambda proxy: all_requests(proxy, tenant), announce=False)[0] if wants_requests else None
        run_sql(statement, (line for line in lines if not isinstance(line, Exported)), output, requests)


class ExportFormat(enum.StrEnum):
    """File format of an export."""

    csv = "csv"
    jsonl = "jsonl"
    eve = "eve"
    zeek = "zeek"
    parquet = "parquet"
    har = "har"


@app.command(cls=FlowsCommand)
@shared_options(period_options, tenant_options, flow_filters, negated_flow_filters, proxy_options)
def export(
    context: typer.Context,
    format_: Annotated[ExportFormat, typer.Option("--format", help="File format.")] = ExportFormat.jsonl,
    fields: FieldsOption = None,
    **shared: Any,
) -> None:
    """Write all matching flows, without a limit: csv, jsonl, parquet, Suricata's eve, Zeek's conn.log.

    `har` is an HTTP Archive of requests, which browsers can open; only request filters apply to it.

    A note at the end says which period the export covers, and how many records were lost.
    """
    from oxyctl.cli.output import print_stderr
    from oxyctl.errors import OxyctlError, UsageError
    from oxyctl.render.exports import eve_lines, zeek_lines
    from oxyctl.render.units import count_text, time_text
    from proxy.control.schema import EXPORT_PARAMETERS, Exported

    options = QueryOptions(context)
    if fields is not None and format_ not in (ExportFormat.csv, ExportFormat.jsonl):
        raise UsageError(f"--fields does not apply to {format_}: its fields are fixed")
    if format_ == ExportFormat.har:
        with _ignoring_closed_pipe():
            export_har(options)
        return
    pairs = options.pairs(EXPORT_PARAMETERS)
    ends: list[Exported] = []

    def records(lines: Iterator[Any]) -> Iterator[Any]:
        for line in lines:
            if isinstance(line, Exported):
                ends.append(line)
            else:
                yield line

    with translated_errors(), contextlib.ExitStack() as stack, _ignoring_closed_pipe():
        lines, _ = options.ask(lambda proxy: stack.enter_context(proxy.export(pairs)))
        if format_ in (ExportFormat.eve, ExportFormat.zeek):
            for line in (eve_lines if format_ == ExportFormat.eve else zeek_lines)(records(lines)):
                print(line)
        elif format_ == ExportFormat.parquet:
            from oxyctl.render.sql import write_parquet

            write_parquet(records(lines), sys.stdout.buffer)
        else:
            options.format = FlowFormat(format_)
            options.output("flows").answer(records(lines))
        sys.stdout.flush()
    if not ends:
        raise OxyctlError("the export was cut off: the proxy stopped")
    (end,) = ends
    if not end.exported:
        with translated_errors():
            options.check_tenant()
    since = "all records" if end.window.since is None else f"since {time_text(end.window.since, date=True)}"
    until = time_text(end.window.until, date=True)
    lost = count_text(end.lost, "record") if end.lost else "no records"
    print_stderr(f"{count_text(end.exported, 'flow')}: {since}, until {until}; {lost} lost")


@app.command()
@shared_options(tenant_options, proxy_options)
def explain(context: typer.Context, flow_id: Annotated[str, typer.Argument(metavar="ID")], **shared: Any) -> None:
    """Explain one flow: who, where to, which rule decided, how it ended, and what to do next.

    Exit code 4 if the tenant has no such flow.
    """
    from oxyctl.render.flow_explanation import flow_explanation

    options = QueryOptions(context)
    pairs = options.pairs()
    with translated_errors():
        options.check_tenant()
        record, _ = options.ask(lambda proxy: proxy.flow(flow_id, pairs))
    requests, has_more = last_requests(options, flow_id) if record.level == "http" else ([], False)
    print(flow_explanation(record, requests))
    if has_more:
        _note_more_requests(flow_id)


@app.command()
@shared_options(tenant_options, proxy_options)
def kill(context: typer.Context, flow_id: Annotated[str, typer.Argument(metavar="ID")], **shared: Any) -> None:
    """End a live flow; its record says `admin_killed`. Exit code 4 if the tenant has no such flow."""
    from oxyctl.cli.output import print_stderr

    options = QueryOptions(context)
    pairs = options.pairs()
    with translated_errors():
        options.check_tenant()
        options.client().kill(flow_id, pairs)
    print_stderr(f"flow {flow_id} was ended")


@app.command(cls=FlowsCommand)
@shared_options(period_options, tenant_options, flow_filters, negated_flow_filters, output_options, proxy_options)
def stats(context: typer.Context, **shared: Any) -> None:
    """Show the number of flows and their bytes: in total, and by protocol, verdict, close reason, user, host, ..."""
    from oxyctl.render.stats import print_stats
    from proxy.control.schema import LIST_PARAMETERS

    options = QueryOptions(context)
    pairs = options.pairs(LIST_PARAMETERS)

    def ask(proxy: Any) -> dict[str, GroupsAnswer]:
        return {by: proxy.groups([*pairs, ("by", by), ("limit", "5")]) for by in STATISTICS}

    with translated_errors():
        answers, is_running = options.ask(ask)
        if not any(answer.items for answer in answers.values()):
            options.check_tenant()
    print_stats(answers, options.format, is_running=is_running)


def _note_more_requests(flow_id: str) -> None:
    from oxyctl.cli.output import print_stderr

    print_stderr(f"only its last {SHOWN} requests are shown: `oxyctl flows requests --id {flow_id}` lists more")


def _groups(options: QueryOptions) -> None:
    from oxyctl.render.groups import print_groups
    from proxy.control.schema import GROUP_PARAMETERS

    pairs = options.groups(GROUP_PARAMETERS)
    by = tuple(name.strip() for name in dict(pairs)["by"].split(","))
    with translated_errors():
        answer, is_running = options.ask(lambda proxy: proxy.groups(pairs))
        if not answer.items:
            options.check_tenant()
    with _ignoring_closed_pipe():
        print_groups(answer, by, options.format, is_running=is_running)
    _print_remarks(answer, options)


def _list(options: QueryOptions) -> None:
    from proxy.control.schema import LIST_PARAMETERS

    printer = options.output("flows")
    pairs = options.pairs(LIST_PARAMETERS)
    with translated_errors():
        answer, is_running = options.ask(lambda proxy: proxy.flows(pairs))
        if not answer.items:
            options.check_tenant()
    with _ignoring_closed_pipe():
        printer.answer(answer.items, answer, is_running=is_running)
    _print_remarks(answer, options)


def _print_remarks(answer: FlowsAnswer | GroupsAnswer, options: QueryOptions) -> None:
    """Print on standard error what the list leaves out."""
    from oxyctl.cli.output import print_stderr
    from oxyctl.render.units import count_text, time_text

    remarks = []
    if answer.truncated and not {"last", "first", "top"} & options.flags.keys():
        what = "groups" if "by" in options.flags else "flows"
        remarks.append(f"more {what} match than the {len(answer.items)} shown: raise --limit")
    if answer.lost:
        remarks.append(f"{count_text(answer.lost, 'record')} of this period lost")
    if options.format == FlowFormat.table and not answer.items:
        oldest = answer.window.oldest
        remarks.append(
            f"no flows match; records go back to {time_text(oldest, date=True)}" if oldest else "no flows match"
        )
    for remark in remarks:
        print_stderr(remark)


def _monitor(options: QueryOptions, interval_s: float) -> None:
    from oxyctl.cli.flow_monitor import monitor
    from proxy.control.schema import WATCH_PARAMETERS

    options.flags.pop("interval", None)
    pairs = options.pairs(WATCH_PARAMETERS)
    try:
        with translated_errors():
            options.check_tenant()
            monitor(options.client(), pairs, interval_s)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _follow(options: QueryOptions) -> None:
    from oxyctl.errors import OxyctlError, UsageError
    from proxy.control.schema import WATCH_PARAMETERS

    requests = [negation + name for name in ("http_status", "http_method", "url") for negation in ("", "not_")]
    inapplicable = [
        name.removeprefix("not_").replace("_", "-")
        for name in ("since", "until", "sort", "limit", "last", "first", "top", "live", "past", *requests)
        if name in options.flags
    ]
    if inapplicable:
        raise UsageError(f"--{inapplicable[0]} does not apply to future events")
    if options.format == FlowFormat.json:
        raise UsageError("a stream of events is not one JSON document: use --format jsonl")
    printer = options.output("flows", events=True)
    pairs = options.pairs(WATCH_PARAMETERS)
    try:
        with translated_errors():
            options.check_tenant()
        with translated_errors(), _ignoring_closed_pipe(), options.client().watch(pairs) as events:
            printer.events(events)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    raise OxyctlError("the proxy has stopped")


@contextlib.contextmanager
def _ignoring_closed_pipe() -> Iterator[None]:
    """End quietly when `oxyctl flows | head` closes the pipe: click would treat it as a failure."""
    from oxyctl.cli.output import report_error

    try:
        yield
    except BrokenPipeError as error:
        raise typer.Exit(report_error(error)) from None
