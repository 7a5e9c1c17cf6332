"""`oxyctl lab apply`: changes a running lab to match its edited file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.completion import complete_lab_file
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from oxyctl.plan.diff import Change
    from oxyctl.plan.steps import Plan
    from oxyctl.supervise.state import LabDirectory

SIGNS = {"add": "+", "remove": "-", "change": "~"}
COLOURS = {"add": "\x1b[32m", "remove": "\x1b[31m", "change": "\x1b[33m"}
PLAIN = "\x1b[0m"


def apply(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A lab file, or the name of a bundled lab.", autocompletion=complete_lab_file
        ),
    ],
    lab: LabOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, without changing it.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait until every new node is ready.")] = 60,
    output: FormatOption = Format.table,
) -> None:
    """Change a running lab to match an edited file: add, remove and change nodes, networks, links and clients.

    What stays the same is not touched. If anything fails, the lab is restored.
    """
    from oxyctl.operate.ask import ask_apply
    from oxyctl.operate.kernel_tunnels import supported_kinds_for
    from oxyctl.operate.up import locked_for_change
    from oxyctl.plan.diff import compare
    from oxyctl.plan.make import make_plan
    from oxyctl.supervise.requests import Apply
    from oxyctl.supervise.state import find_lab
    from oxyctl.topology.file import load
    from oxyctl.topology.library import find_file

    model = load(find_file(file), lab)
    directory = find_lab(model.name)
    plan = make_plan(model, directory.path, supported_kinds_for(model))
    if dry_run:
        changes = compare(_running_plan(directory), plan).changes
    else:
        with locked_for_change(directory.name):
            changes = ask_apply(directory, Apply(plan=plan, timeout_s=timeout))
    print_changes(changes, output, f"lab '{directory.name}' already matches the file")


def _running_plan(lab: LabDirectory) -> Plan:
    from oxyctl.errors import OxyctlError

    plan = lab.read_plan()
    if plan is None:
        raise OxyctlError(f"lab '{lab.name}' was started by another version: run `oxyctl lab down {lab.name}` first")
    return plan


def print_changes(changes: Sequence[Change], output: Format, unchanged_message: str) -> None:
    """Print a line for each change, coloured on a terminal; or else `unchanged_message`, on standard error."""
    from oxyctl.cli.output import print_envelope, print_stderr
    from oxyctl.render.tables import is_coloured

    if output == Format.json:
        print_envelope("lab-changes", changes)
        return
    for change in changes:
        line = f"{SIGNS[change.action]} {change.what} {change.name}" + (f"  {change.detail}" if change.detail else "")
        print(f"{COLOURS[change.action]}{line}{PLAIN}" if is_coloured(sys.stdout) else line)
    if not changes:
        print_stderr(unchanged_message)
