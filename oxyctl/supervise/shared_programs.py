"""Programs that serve many nodes or links: reconfigured by a file and SIGHUP, which they answer with a report.

Nodes that are absent from a program, because they were stopped or have failed, are left out of its configuration.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from oxyctl.errors import OxyctlError
from oxyctl.plan.diff import SHARED
from oxyctl.plan.steps import Plan
from oxyctl.supervise.processes import Processes, Program
from oxyctl.supervise.state import write_atomically

TIMEOUT_S, GRACE_S = 10.0, 3.0
Served = tuple[Plan, frozenset[str]]  # a plan, and its nodes that are left out
Config = dict[str, Any]


class SharedPrograms:
    """The programs in `SHARED`. `absent`: by program, the nodes that it currently does not serve."""

    def __init__(self, processes: Processes) -> None:
        self.absent: defaultdict[str, set[str]] = defaultdict(set)
        self.far_ends: Counter[str] = Counter()  # by site, how often its proxy was restarted
        self._processes = processes
        self._generation = 0

    async def reconfigure(self, before: Served, after: Served) -> None:
        """Start, reconfigure or end the programs according to a plan, leaving some nodes out. OxyctlError."""
        for name in SHARED:
            content = self._content(*after, name)
            if content is None:
                await self._end(name)
            elif content != self._content(*before, name):
                await self._configure(name, content, after[0])

    async def refresh(self, name: str, plan: Plan) -> None:
        """Reconfigure one program according to `plan`, leaving absent nodes out. OxyctlError."""
        content = self._content(plan, frozenset(), name)
        assert content is not None
        await self._configure(name, content, plan)

    async def _configure(self, name: str, content: Config, plan: Plan) -> None:
        path = self._processes.directory.path / f"{name}.json"
        program = self._processes.programs.get(name)
        if program is None or not program.is_running:
            path.write_text(json.dumps(content, indent=1))
            self._processes.start(next(process for process in plan.processes if process.name == name))
            return
        served = {_owner(entry) for entry in content[SHARED[name]]}
        _forget_nodes(program, served)
        self._generation += 1
        text = json.dumps(content | {"generation": self._generation}).encode()
        answer = await reload(program, path, text, self._generation)
        _forget_nodes(program, served)  # reports from before it read the configuration
        if problems := answer["problems"]:
            raise OxyctlError("; ".join(f"node '{node}': {text}" for node, text in problems.items()))

    async def _end(self, name: str) -> None:
        if (program := self._processes.programs.get(name)) is not None:
            await self._processes.end([program], GRACE_S)
            self._processes.programs.pop(name, None)

    def _content(self, plan: Plan, excluded: Collection[str], program: str) -> Config | None:
        text = next((file.text for file in plan.files if Path(file.path).name == f"{program}.json"), None)
        if text is None:
            return None
        content: Config = json.loads(text)
        content[SHARED[program]] = [
            entry | ({"far_end": count} if (count := self.far_ends[_owner(entry)]) and program == "sites" else {})
            for entry in content[SHARED[program]]
            if not _depends_on(entry) & set(excluded) and _owner(entry) not in self.absent[program]
        ]
        return content


def _owner(entry: Config) -> str:
    """The node that an entry of a shared program belongs to."""
    return str(entry.get("node") or entry.get("name"))


def _depends_on(entry: Config) -> set[str]:
    """The nodes that an entry depends on: its owner, and the one with its namespace."""
    return {_owner(entry), Path(entry.get("netns", "")).name}


def _forget_nodes(program: Program, served: Collection[str]) -> None:
    """Delete reports of nodes that are not served (any more), which must report again when they come back."""
    program.reports[:] = [r for r in program.reports if r.get("node") is None or r["node"] in served]


async def reload(program: Program, path: Path, content: bytes | None, generation: int) -> dict[str, Any]:
    """Configure `program` and return its report. `content` is configuration number `generation`, written to `path`.

    `content` None: the program was started with it. OxyctlError: the program ends or does not answer.
    """
    if content is not None:
        write_atomically(path, content)
        os.kill(program.pid, signal.SIGHUP)
    answer = asyncio.ensure_future(_await_answer(program, generation))
    futures: set[asyncio.Future[Any]] = {answer, program.exited}
    try:
        await asyncio.wait(futures, timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            report: dict[str, Any] = answer.result()
            return report
    finally:
        answer.cancel()
    what = program.describe_exit() if not program.is_running else f"did not answer within {TIMEOUT_S:g} s"
    raise OxyctlError(f"{program.name} {what}; see `oxyctl lab logs {program.name}`")


async def _await_answer(program: Program, generation: int) -> dict[str, Any]:
    while True:
        reported = program.reported
        for report in reversed(program.reports):
            if report.get("generation") == generation:
                _forget_answers(program, generation)
                return dict(report)
        await reported.wait()


def _forget_answers(program: Program, generation: int) -> None:
    """Delete answers to earlier requests, which are never needed again, and all but the last report on services."""
    last = program.reports[-1]
    program.reports[:] = [
        report
        for report in program.reports
        if report is last
        or (report.get("generation", generation) >= generation and not ("services" in report and "services" in last))
    ]
