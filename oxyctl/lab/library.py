"""Lab files by name, and what to try in a lab that is up."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from pathlib import Path

from oxyctl.errors import UsageError
from oxyctl.lab.steps import Plan, PlannedNode, Services
from proxy.settings import suggest

INSTALLED = Path("share", "oxyctl", "labs")
LIBRARIES = (Path(__file__).parents[2] / "labs", sys.prefix / INSTALLED, site.getuserbase() / INSTALLED)
DEFAULT_FILE, DEFAULT_LAB = Path("lab.yaml"), "quickstart"


def find_file(said: str | None) -> Path:
    """The lab file that was meant: a path, the name of a lab that comes along, or nothing, which is ./lab.yaml.

    Without a ./lab.yaml, nothing is the quickstart. UsageError when a name is unknown; a path is returned as it is.
    """
    if said is None:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else find_file(DEFAULT_LAB)
    path = Path(said)
    if os.path.exists(said) or "/" in said or path.suffix:
        return path
    known = {file.stem: file for library in reversed(LIBRARIES) for file in library.glob("*.yaml")}
    if said not in known:
        raise UsageError(f"no file and no lab is called '{said}'{suggest(said, known)}")
    return known[said]


def hints(plan: Plan) -> Iterator[str]:
    """Commands that show what this lab is for."""
    clients = [node for node in plan.nodes if node.kind == "warp"] or [n for n in plan.nodes if n.kind == "process"]
    origins = [node for node in plan.nodes if isinstance(node.probe, Services) and node.probe.services]
    lab = f" --lab {plan.lab}" if plan.lab != DEFAULT_LAB else ""
    if clients:
        yield from (f"oxyctl lab exec{lab} {clients[0].name} -- {command}" for command in _commands(origins))
    if any(node.control for node in plan.nodes):
        yield f"oxyctl flows{lab} --all-tenants"
    yield f"oxyctl lab status {plan.lab}"
    yield f"oxyctl lab down {plan.lab}"


def _commands(origins: list[PlannedNode]) -> Iterator[str]:
    for node in origins[:1]:
        yield f"ping -c3 {node.name}"
        if isinstance(node.probe, Services) and "http" in node.probe.services:
            port = node.probe.services["http"]
            yield f"curl -sS http://{node.name}{'' if port == 80 else f':{port}'}/"
