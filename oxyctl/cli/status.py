"""`oxyctl status`: the state of a proxy, what is connected to it, and what it dropped."""

from __future__ import annotations

from typing import Annotated

import typer

from oxyctl.cli.control import ControlOption, NodeOption, connect, translated_errors
from oxyctl.cli.options import Format, FormatOption, LabOption

app = typer.Typer()


@app.command()
def status(
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print the counters as Prometheus text.")] = False,
) -> None:
    """Show a proxy: its tenants, tunnels and counters, and why it dropped packets."""
    client = connect(lab, node, control)
    with translated_errors():
        if metrics:
            print(client.metrics(), end="")
            return
        proxy_status, tunnels = client.status(), client.tunnels()
    if output == Format.json:
        import msgspec

        from oxyctl.cli.output import print_envelope

        print_envelope("status", [{**msgspec.to_builtins(proxy_status), "open_tunnels": tunnels}])
    else:
        from oxyctl.render.status import print_status

        print_status(proxy_status, tunnels)
