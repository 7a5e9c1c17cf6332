"""The commands. Each module here imports what it needs when its command runs, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from oxyctl.cli import ca, flows, lab, policy, ssh, traffic
from oxyctl.cli.apply import apply
from oxyctl.cli.capture import capture
from oxyctl.cli.check import check
from oxyctl.cli.dispatch import select_command
from oxyctl.cli.doctor import doctor
from oxyctl.cli.down import down, gc
from oxyctl.cli.graph import graph
from oxyctl.cli.impair import impair
from oxyctl.cli.inside import exec, logs, shell
from oxyctl.cli.nodes import kill, restart, start, stop
from oxyctl.cli.replay import replay
from oxyctl.cli.routes import routes
from oxyctl.cli.schema import schema
from oxyctl.cli.status import status
from oxyctl.cli.top import top

app = typer.Typer(
    name="oxyctl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes half of the time that `--help` may take
    context_settings={"help_option_names": ["-h", "--help"]},
)
lab.app.command("down")(down)
lab.app.command("gc")(gc)
lab.app.command("stop")(stop)
lab.app.command("start")(start)
lab.app.command("restart")(restart)
lab.app.command("kill")(kill)
lab.app.command("exec", context_settings={"allow_interspersed_args": False})(exec)
lab.app.command("shell")(shell)
lab.app.command("logs")(logs)
lab.app.command("apply")(apply)
lab.app.command("impair")(impair)
lab.app.command("check")(check)
lab.app.command("graph")(graph)
lab.app.command("schema")(schema)
app.add_typer(lab.app, name="lab")
flows.app.command("replay")(replay)
app.add_typer(flows.app, name="flows")
app.add_typer(policy.app, name="policy")
app.add_typer(ssh.app, name="ssh")
app.add_typer(ca.app, name="ca")
app.add_typer(traffic.app, name="traffic")
app.command("status")(status)
app.command("top")(top)
app.command("routes")(routes)
app.command("capture")(capture)
app.command("doctor")(doctor)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"oxyctl {version('oxyctl')}")
        raise typer.Exit


@app.callback()
def _oxyctl(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Labs around a multi-tenant proxy of raw IP packets, and what the proxy sees."""


def main() -> NoReturn:
    """Run the command line. Failures with a message end as that message and an exit code."""
    from oxyctl.cli.output import report_error

    if sys.stdout is None:  # `oxyctl ... >&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- stays open until the process ends
    try:
        select_command(app, sys.argv[1:])()
    except Exception as error:
        sys.exit(report_error(error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
