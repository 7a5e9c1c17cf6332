"""Shell completion of labs, nodes, checks, capture targets and lab files. Fast, and never an error.

Everything is read from the run directory and from lab files; no program is queried. (Tenants: `oxyctl.cli.control`.)
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from oxyctl.plan.steps import Plan
    from oxyctl.supervise.state import LabDirectory

LAB_SUFFIXES = {".yaml", ".yml"}
UNSAFE = re.compile(r"([^\w@%+=:,./~-])")
Completion = Callable[[typer.Context, str], list[str]]


def _quietly(find: Callable[[typer.Context], Iterable[str]]) -> Completion:
    """Completes with the results of `find` that begin with the typed text, or with nothing if `find` fails."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            return [_shell_quoted(each) for each in find(context) if each.startswith(incomplete)]
        return []

    return complete


def _shell_quoted(text: str) -> str:
    """Quote for bash, which inserts completions as they are; the other shells quote them themselves."""
    is_bash = os.environ.get("_OXYCTL_COMPLETE", "").endswith("bash")
    return UNSAFE.sub(r"\\\1", text) if is_bash else text


def _plan(context: typer.Context) -> Plan | None:
    from oxyctl.supervise.state import find_lab

    return find_lab(context.params.get("lab")).read_plan()


def _labs(is_wanted: Callable[[LabDirectory], object]) -> Callable[[typer.Context], list[str]]:
    def find(context: typer.Context) -> list[str]:
        from oxyctl.supervise.state import all_labs

        return [lab.name for lab in all_labs() if is_wanted(lab)]

    return find


def _nodes(context: typer.Context) -> list[str]:
    plan = _plan(context)
    return [node.name for node in plan.nodes] if plan else []


def _logs(context: typer.Context) -> list[str]:
    """Nodes and programs with logs, also of a lab that has ended."""
    from oxyctl.supervise.state import find_stopped

    lab = find_stopped(context.params.get("lab"))
    plan = lab.read_plan()
    return list(dict.fromkeys([*(node.name for node in plan.nodes), *lab.logs()] if plan else lab.logs()))


def _proxies(context: typer.Context) -> list[str]:
    plan = _plan(context)
    return [node.name for node in plan.nodes if node.control is not None] if plan else []


def _checks(context: typer.Context) -> list[str]:
    """Checks in the current lab file."""
    from oxyctl.topology.file import load

    plan = _plan(context)
    return [check.title() for check in load(plan.source).checks] if plan else []


complete_lab = _quietly(_labs(lambda lab: lab.live_state()))
complete_any_lab = _quietly(_labs(lambda lab: True))
complete_node = _quietly(_nodes)
complete_log = _quietly(_logs)
complete_proxy = _quietly(_proxies)
complete_check = _quietly(_checks)


def complete_further_node(context: typer.Context, incomplete: str) -> list[str]:
    """For commands that take several nodes: those not named yet."""
    named = context.params.get("nodes") or []
    return [node for node in complete_node(context, incomplete) if node not in named]


def complete_capture(context: typer.Context, incomplete: str) -> list[str]:
    """For `capture`. bash splits NODE:INTERFACE into three words and wants the last."""
    with contextlib.suppress(Exception):
        from oxyctl.capture.targets import names

        plan = _plan(context)
        known = names(plan) if plan else []
        before = list(context.params.get("targets") or [])
        if len(before) > 1 and before[-1] == ":":
            typed = f"{before[-2]}:{incomplete}"
            return [each.partition(":")[2] for each in known if each.startswith(typed)]
        return [each for each in known if each.startswith(incomplete)]
    return []


def complete_link(context: typer.Context, incomplete: str) -> list[str]:
    """For `impair`: links and networks."""
    with contextlib.suppress(Exception):
        plan = _plan(context)
        if plan is None:
            return []
        tunnels = [f"{node.name}:tunnel" for node in plan.nodes if node.kind == "warp"]
        links = [f"{link.node}:{link.network}" for link in plan.links]
        known = [*(bridge.network for bridge in plan.bridges), *links, *tunnels]
        return [each for each in known if each.startswith(incomplete)]
    return []


def complete_lab_file(incomplete: str) -> list[str]:
    """For `lab up`: lab files, and names of bundled labs."""
    with contextlib.suppress(Exception):
        return [each for each in dict.fromkeys(_lab_files(incomplete)) if each.startswith(incomplete)]
    return []


def complete_lab_or_file(context: typer.Context, incomplete: str) -> list[str]:
    """For `lab graph`: lab files, bundled labs, and running labs."""
    return list(dict.fromkeys([*complete_lab(context, incomplete), *complete_lab_file(incomplete)]))


def _lab_files(typed: str) -> list[str]:
    """Lab files and directories that continue the typed path, and the names of bundled labs."""
    from pathlib import Path

    from oxyctl.topology.library import LIBRARIES

    directory = Path(typed).expanduser() if typed.endswith("/") else Path(typed).expanduser().parent
    prefix = typed[: typed.rfind("/") + 1]
    entries = sorted(directory.iterdir()) if directory.is_dir() else []
    found = [f"{prefix}{entry.name}/" for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    found += [f"{prefix}{entry.name}" for entry in entries if entry.suffix in LAB_SUFFIXES]
    if not prefix:
        found += [file.stem for library in LIBRARIES if library.is_dir() for file in sorted(library.glob("*.yaml"))]
    return found
