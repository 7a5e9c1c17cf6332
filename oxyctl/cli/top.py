"""`oxyctl top`: a proxy's tenants, tunnels, flows and drop reasons, live."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import ControlOption, NodeOption, complete_tenant, connect, translated_errors
from oxyctl.cli.options import Format, FormatOption, LabOption
from oxyctl.cli.screen import draw, full_screen, key_within

if TYPE_CHECKING:
    from oxyctl.render.top import Sample
    from proxy.control.client import ControlClient


def top(
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", "-t", metavar="NAME", help="Only this tenant.", autocompletion=complete_tenant),
    ] = None,
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, help="Seconds between samples.")] = 1.0,
    count: Annotated[
        int | None,
        typer.Option("--count", "-n", min=1, metavar="N", help="Stop after N samples.  [default: 1 in a pipe]"),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Show a proxy's activity live: tenants, their flows and throughput, drops and their reasons. Ctrl-C quits.

    With `--format json`, print one sample, with the rates of an interval.
    """
    client = connect(lab, node, control)
    is_live = output == Format.table and sys.stdout.isatty()
    samples = count or (0 if is_live else 1)
    try:
        with translated_errors(), full_screen() if is_live else contextlib.nullcontext():
            _run(client, tenant, interval, samples, output, is_live=is_live)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _run(
    client: ControlClient, tenant: str | None, interval: float, samples: int, output: Format, *, is_live: bool
) -> None:
    from oxyctl.render.tables import terminal_width
    from oxyctl.render.top import Top, text

    view = Top()
    view.update(_sample(client, tenant))  # rates need two samples
    count_taken = 0
    while not samples or count_taken < samples:
        if is_live and key_within(interval) == "q":
            return
        if not is_live:
            time.sleep(interval)
        sample = view.update(_sample(client, tenant))
        count_taken += 1
        if output == Format.json:
            _print_json(sample)
            continue
        lines = text(sample, terminal_width(sys.stdout))
        if is_live:
            draw(lines)
        else:
            sys.stdout.write(lines)
            sys.stdout.flush()


def _print_json(sample: dict[str, Any]) -> None:
    from oxyctl.render.envelope import print_envelope

    print_envelope("top", [sample])


def _sample(client: ControlClient, tenant: str | None) -> Sample:
    from oxyctl.errors import NothingMatched
    from oxyctl.render.top import SHOWN, Sample

    status = client.status()
    if tenant is not None:
        if tenant not in status.tenants:
            raise NothingMatched(f"the proxy has no tenant {tenant}; it has {', '.join(sorted(status.tenants))}")
        status.tenants = {tenant: status.tenants[tenant]}
        status.drops = {}
    tenant_filter = ("all_tenants", "true") if tenant is None else ("tenant", tenant)
    busiest = client.flows([tenant_filter, ("scope", "live"), ("sort", "bytes"), ("limit", str(SHOWN))])
    return Sample(time.monotonic(), status, client.tunnels(tenant), busiest.items)
