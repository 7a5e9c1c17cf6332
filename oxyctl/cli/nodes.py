"""`oxyctl lab stop`, `start`, `restart` and `kill`: single nodes of a running lab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.completion import complete_further_node
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from oxyctl.topology.choices import Action

NodesArgument = Annotated[
    list[str], typer.Argument(metavar="NODE...", help="The nodes.", autocompletion=complete_further_node)
]
TimeoutOption = Annotated[float, typer.Option(min=0.1, help="Seconds to wait until all of them are ready.")]


def stop(nodes: NodesArgument, lab: LabOption = None, output: FormatOption = Format.table) -> None:
    """Stop the programs of nodes; their links and addresses stay, and other nodes are not touched.

    They stay stopped until `start`, whatever the lab file's `restart:` says.
    """
    _perform("stop", nodes, lab, 0, output)


def start(
    nodes: NodesArgument, timeout: TimeoutOption = 60, lab: LabOption = None, output: FormatOption = Format.table
) -> None:
    """Start the programs of nodes that were stopped or have ended, and wait until they are ready.

    For a proxy, also wait until its clients and sites have reconnected.
    """
    _perform("start", nodes, lab, timeout, output)


def restart(
    nodes: NodesArgument, timeout: TimeoutOption = 60, lab: LabOption = None, output: FormatOption = Format.table
) -> None:
    """Stop and start the programs of nodes, and wait until they are ready."""
    _perform("restart", nodes, lab, timeout, output)


def kill(nodes: NodesArgument, lab: LabOption = None, output: FormatOption = Format.table) -> None:
    """Kill the programs of nodes, like a crash; the lab file's `restart:` says whether they are restarted."""
    _perform("kill", nodes, lab, 0, output)


def _perform(action: Action, nodes: list[str], lab: str | None, timeout_s: float, output: Format) -> None:
    from oxyctl.cli.output import print_envelope
    from oxyctl.cli.progress import Progress
    from oxyctl.operate.ask import ask_nodes
    from oxyctl.supervise.requests import Nodes
    from oxyctl.supervise.state import find_lab

    directory = find_lab(lab)
    with Progress(directory.name) as progress:
        results = ask_nodes(directory, Nodes(action=action, nodes=nodes, timeout_s=timeout_s), progress.show)
    if output == Format.json:
        print_envelope("lab-nodes", results, action=action)
