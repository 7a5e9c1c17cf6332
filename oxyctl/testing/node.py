"""A node of a running lab, as tests use it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from oxyctl.operate.run_inside import command_in
from oxyctl.plan.steps import PlannedNode
from oxyctl.supervise.processes import tail
from oxyctl.supervise.state import LabDirectory
from oxyctl.traffic.client import COMMAND, GeneratorProcess
from oxyctl.traffic.config import AnyTraffic
from oxyctl.traffic.tally import Report


class HttpAnswer(NamedTuple):
    """A server's response."""

    status: int
    headers: dict[str, str]
    text: str  # at most the first MiB
    length: int
    sha256: str


class NodeHandle:
    """One node of a lab."""

    def __init__(self, directory: LabDirectory, planned: PlannedNode) -> None:
        self.directory, self.planned, self.name = directory, planned, planned.name

    def __repr__(self) -> str:
        return f"<node {self.name} of lab {self.directory.name}>"

    @property
    def addresses(self) -> list[str]:
        """The node's addresses without prefix lengths; those inside its tunnel first."""
        return self.planned.addresses

    def exec(
        self, command: Sequence[str], *, timeout: float = 30, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside the node and return its output and exit code. `options`: those of subprocess.run.

        `check`: CalledProcessError if the exit code is not 0. TimeoutExpired: it was killed.
        """
        defaults: dict[str, Any] = {"capture_output": True, "text": True}
        if "input" not in options:
            defaults["stdin"] = subprocess.DEVNULL
        inside = command_in(self.directory, self.name, command)
        return subprocess.run(inside, timeout=timeout, check=check, **(defaults | options))

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program inside the node; it ends with the lab at the latest."""
        return subprocess.Popen(command_in(self.directory, self.name, command), **options)

    def http(self, url: str, *, timeout: float = 10, **options: Any) -> HttpAnswer:
        """GET `url` from inside the node; `options`: fields of HttpTraffic. AssertionError: there is no response."""
        options = {"method": "GET", **options}
        report = self.traffic("http", url, count=1, timeout_s=timeout, detail=True, **options)
        if report.detail is None:
            raise AssertionError(f"{options['method']} {url} from {self.name}: {report.explanation} ({report.errors})")
        detail = report.detail
        return HttpAnswer(detail["status"], detail["headers"], detail["body"], detail["length"], detail["sha256"])

    def traffic(self, kind: str, target: str, **options: Any) -> Report:
        """The report of `oxyctl traffic KIND` from this node; `options`: fields in `oxyctl.traffic.config`."""
        traffic: AnyTraffic = msgspec.convert({"kind": kind, "target": target, **options}, AnyTraffic)
        report = asyncio.run(self._generate(traffic))
        report.node = self.name
        return report

    async def _generate(self, traffic: AnyTraffic) -> Report:
        async with GeneratorProcess(command_in(self.directory, self.name, COMMAND)) as generator:
            return await generator.run(traffic)

    def log(self) -> str:
        """The last lines of the log of its program."""
        return tail(self.directory.log(self.planned.process))
