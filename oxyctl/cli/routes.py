"""`oxyctl routes`: where a tenant's packets go, the current priority of each route, and how many flows use it."""

from __future__ import annotations

from typing import Annotated

import typer

from oxyctl.cli.control import ControlOption, NodeOption, check_tenant, complete_tenant, connect, translated_errors
from oxyctl.cli.options import Format, FormatOption, LabOption

app = typer.Typer()


@app.command()
def routes(
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", "-t", metavar="NAME", help="Only this tenant's.", autocompletion=complete_tenant),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """List the routes between tunnels. COST is the priority, plus a penalty for an unhealthy tunnel.

    A virtual network without routes lifts every flow to a stream. Exit code 4 if the proxy has no such tenant.
    """
    from oxyctl.cli.output import print_envelope, print_stderr

    client = connect(lab, node, control)
    with translated_errors():
        tenant_routes = client.routes(tenant)
        if not tenant_routes and tenant is not None:
            check_tenant(client, tenant)
    if output == Format.json:
        print_envelope("routes", tenant_routes)
    elif tenant_routes:
        from oxyctl.render.routes import print_routes

        print_routes(tenant_routes)
    else:
        print_stderr("no routes: every flow is lifted to a stream")
