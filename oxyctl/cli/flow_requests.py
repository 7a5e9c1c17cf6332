"""`oxyctl flows requests`, and the requests that other commands show or export."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import translated_errors
from oxyctl.cli.flow_options import (
    negated_request_filters,
    output_options,
    period_options,
    proxy_options,
    request_filters,
    tenant_options,
)
from oxyctl.cli.flow_query import QueryOptions, all_requests
from oxyctl.cli.shared_options import shared_options

if TYPE_CHECKING:
    from proxy.control.schema import RequestRecord

SHOWN = 20  # requests of a flow, in commands whose subject is the flow


@shared_options(period_options, tenant_options, request_filters, negated_request_filters, output_options, proxy_options)
def requests(
    context: typer.Context,
    limit: Annotated[int | None, typer.Option("--limit", help="Maximum number of requests.  [default: 100]")] = None,
    **shared: Any,
) -> None:
    """List the HTTP requests in a tenant's flows, open and ended, newest first.

    A repeated option matches any of its values; different options narrow the list. Also works when the proxy is not
    running.
    """
    from oxyctl.cli.output import print_stderr
    from oxyctl.render.requests import print_requests, request_fields
    from oxyctl.render.units import count_text

    options = QueryOptions(context)
    fields = request_fields(options.flags.get("fields"))
    pairs = options.requests()
    with translated_errors():
        answer, is_running = options.ask(lambda proxy: proxy.children("requests", pairs))
        if not answer.items:
            options.check_tenant()
    every_tenant = "all_tenants" in options.flags
    print_requests(answer, options.format, fields, every_tenant=every_tenant, is_running=is_running)
    if answer.truncated:
        print_stderr(f"more requests match than the {len(answer.items)} shown: raise --limit")
    if answer.lost:
        print_stderr(f"{count_text(answer.lost, 'record')} of this period lost")


def last_requests(options: QueryOptions, flow_id: str) -> tuple[list[RequestRecord], bool]:
    """The last requests of one flow, ordered by start, and whether there are more."""
    pairs = [*options.pairs(), ("id", flow_id), ("limit", str(SHOWN))]
    with translated_errors():
        answer, _ = options.ask(lambda proxy: proxy.children("requests", pairs), announce=False)
    return sorted(answer.items, key=lambda request: request.start), answer.truncated


def export_har(options: QueryOptions) -> None:
    """Write the matching requests as one HTTP archive."""
    from oxyctl.cli.output import print_stderr
    from oxyctl.render.har import write_har
    from oxyctl.render.units import count_text

    pairs = options.requests()
    with translated_errors():
        requests, _ = options.ask(lambda proxy: list(all_requests(proxy, pairs)))
    count = write_har(requests, sys.stdout.buffer)
    sys.stdout.flush()
    print_stderr(count_text(count, "request"))
