"""`oxyctl lab graph`: a lab drawn in the terminal, or for mermaid and Graphviz."""

from __future__ import annotations

import enum
import shutil
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.completion import complete_lab_or_file
from oxyctl.cli.options import LabOption

if TYPE_CHECKING:
    from oxyctl.plan.steps import Plan

PAGE_WIDTH = 80


class GraphFormat(enum.StrEnum):
    """How a lab is drawn."""

    text = "text"
    mermaid = "mermaid"
    dot = "dot"
    json = "json"


def graph(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|NAME]",
            help="A running lab, a lab file, or a bundled lab.",
            show_default=False,
            autocompletion=complete_lab_or_file,
        ),
    ] = None,
    lab: LabOption = None,
    output: Annotated[GraphFormat, typer.Option("--format", help="Output format.")] = (GraphFormat.text),
) -> None:
    """Draw a running lab, or a lab file without building it."""
    from oxyctl.render import drawing
    from oxyctl.render import graph as graphs
    from oxyctl.render.topology import topology

    lab_topology = topology(_plan(source, lab))
    match output:
        case GraphFormat.text:
            width = shutil.get_terminal_size((PAGE_WIDTH, 24)).columns if sys.stdout.isatty() else PAGE_WIDTH
            is_ascii = "utf" not in (sys.stdout.encoding or "").lower()
            print(drawing.draw(lab_topology, width, is_ascii=is_ascii), end="")
        case GraphFormat.mermaid:
            print(graphs.mermaid(lab_topology), end="")
        case GraphFormat.dot:
            print(graphs.dot(lab_topology), end="")
        case GraphFormat.json:
            from oxyctl.cli.output import print_envelope

            print_envelope("graph", lab_topology.nodes, lab=lab_topology.lab, networks=lab_topology.networks)


def _plan(source: str | None, lab: str | None) -> Plan:
    """The plan of the running lab or, if none is meant, of the file. LabNotFound, UsageError, DocumentError."""
    from oxyctl.errors import LabNotFound, UsageError
    from oxyctl.plan.make import make_plan
    from oxyctl.supervise.state import all_labs, find_lab, lab_directory
    from oxyctl.topology.file import load
    from oxyctl.topology.library import find_file

    if source is not None and lab is not None:
        raise UsageError("--lab already names the lab: leave out the argument")
    if source is None or not _is_path(source):
        try:
            if (plan := find_lab(source or lab).read_plan()) is not None:
                return plan
        except LabNotFound:
            names_running_lab = lab is not None or (source is None and any(found.live_state() for found in all_labs()))
            if names_running_lab:
                raise
    lab_file = load(find_file(source))
    return make_plan(lab_file, lab_directory(lab_file.name).path)


def _is_path(source: str) -> bool:
    from pathlib import Path

    return "/" in source or Path(source).suffix in (".yaml", ".yml")
