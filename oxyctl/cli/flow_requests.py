"""`oxyctl flows requests`, and the requests that other commands show or export."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import asking
from oxyctl.cli.flow_options import (
    excluded_requests,
    place,
    printing,
    request_filters,
    whose,
    window,
)
from oxyctl.cli.flow_query import Typed, every_request
from oxyctl.cli.sharing import sharing

if TYPE_CHECKING:
    from proxy.control.schema import RequestRecord

SHOWN = 20  # requests of a flow, in commands whose subject is the flow


@sharing(window, whose, request_filters, excluded_requests, printing, place)
def requests(
    context: typer.Context,
    limit: Annotated[int | None, typer.Option("--limit", help="Maximum number of requests.  [default: 100]")] = None,
    **shared: Any,
) -> None:
    """List the HTTP requests in the flows of a tenant, open ones and ended ones, newest first.

    A repeated flag matches any of its values; different flags narrow the list. Also works for a proxy that is not
    running.
    """
    from oxyctl.cli.output import say
    from oxyctl.render.requests import print_requests, request_fields

    typed = Typed(context)
    fields = request_fields(typed.flags.get("fields"))
    pairs = typed.requests()
    with asking():
        answer, is_running = typed.ask(lambda proxy: proxy.children("requests", pairs))
        if not answer.items:
            typed.check_tenant()
    every_tenant = "all_tenants" in typed.flags
    print_requests(answer, typed.format, fields, every_tenant=every_tenant, is_running=is_running)
    if answer.truncated:
        say(f"more requests match than these {len(answer.items)}: --limit shows more")
    if answer.lost:
        say(f"{answer.lost} records of this period are lost")


def requests_of(typed: Typed, flow_id: str) -> tuple[list[RequestRecord], bool]:
    """The last requests of one flow, ordered by start, and whether there are more."""
    pairs = [*typed.pairs(), ("id", flow_id), ("limit", str(SHOWN))]
    with asking():
        answer, _ = typed.ask(lambda proxy: proxy.children("requests", pairs), announces=False)
    return sorted(answer.items, key=lambda request: request.start), answer.truncated


def export_har(typed: Typed) -> None:
    """Write the matching requests as one archive."""
    from oxyctl.cli.output import say
    from oxyctl.render.har import write_har

    pairs = typed.requests()
    with asking():
        found, _ = typed.ask(lambda proxy: list(every_request(proxy, pairs)))
    count = write_har(found, sys.stdout.buffer)
    sys.stdout.flush()
    say(f"{count} requests")
