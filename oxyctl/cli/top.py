"""`oxyctl top`: a proxy's tenants, tunnels, flows and drop reasons, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import ControlOption, NodeOption, asking, complete_tenant, connect
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from oxyctl.render.top import Sample
    from proxy.control.client import ControlClient

_ENTER, _LEAVE, _HOME, _REST = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[J"


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
    """Show a proxy's activity live: tenants, their flows and throughput, drops and their reasons. Ctrl-C ends it.

    With `--format json`, print one sample, with the rates of an interval.
    """
    client = connect(lab, node, control)
    is_live = output == Format.table and sys.stdout.isatty()
    looks = count or (0 if is_live else 1)
    try:
        if is_live:
            sys.stdout.write(_ENTER)
        with asking():
            _run(client, tenant, interval, looks, output, is_live=is_live)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    finally:
        if is_live:
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()


def _run(
    client: ControlClient, tenant: str | None, interval: float, looks: int, output: Format, *, is_live: bool
) -> None:
    from oxyctl.render.tables import terminal_width
    from oxyctl.render.top import Top, text

    shown = Top()
    shown.take(_look(client, tenant))  # rates need two
    taken = 0
    while not looks or taken < looks:
        time.sleep(interval)
        sample = shown.take(_look(client, tenant))
        taken += 1
        if output == Format.json:
            _print_json(sample)
            continue
        lines = text(sample, terminal_width(sys.stdout))
        if is_live:
            lines = _HOME + "".join(f"{line}\x1b[K\n" for line in _fitting(lines)) + _REST
        sys.stdout.write(lines)
        sys.stdout.flush()


def _fitting(lines: str) -> list[str]:
    """As many as the terminal has, less the one that the cursor waits in."""
    import shutil

    return lines.splitlines()[: shutil.get_terminal_size((100, 24)).lines - 1]


def _print_json(sample: dict[str, Any]) -> None:
    from oxyctl.render.envelope import print_envelope

    print_envelope("top", [sample])


def _look(client: ControlClient, tenant: str | None) -> Sample:
    from oxyctl.errors import NothingMatched
    from oxyctl.render.top import SHOWN, Sample

    status = client.status()
    if tenant is not None:
        if tenant not in status.tenants:
            raise NothingMatched(f"the proxy has no tenant {tenant}; it has {', '.join(sorted(status.tenants))}")
        status.tenants = {tenant: status.tenants[tenant]}
        status.drops = {}
    whose = ("all_tenants", "true") if tenant is None else ("tenant", tenant)
    busiest = client.flows([whose, ("scope", "live"), ("sort", "bytes"), ("limit", str(SHOWN))])
    return Sample(time.monotonic(), status, client.tunnels(tenant), busiest.items)
