"""A running lab, as tests use it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxyctl.checks import runner
from oxyctl.checks.evidence import flow_lines
from oxyctl.checks.result import Result
from oxyctl.checks.session import Session
from oxyctl.errors import NothingMatched, OxyctlError
from oxyctl.operate.ask import ask_status
from oxyctl.supervise.processes import tail
from oxyctl.supervise.state import control_socket, find_node, lab_directory
from oxyctl.supervise.status import LabStatus
from oxyctl.testing.node import NodeHandle
from oxyctl.topology.model import Lab
from proxy.control.client import ControlClient, ControlError
from proxy.control.schema import FlowRecord
from proxy.settings import suggest

if TYPE_CHECKING:
    from oxyctl.capture.recording import Recording

PAUSE_S = 0.05
SHOWN_FLOWS = 20
Section = tuple[str, str]
Condition = int | Callable[[list[FlowRecord]], bool]


class LabHandle:
    """A running lab. `lab["laptop"]` is one of its nodes."""

    def __init__(self, lab: Lab, captures: Path | None = None) -> None:
        """`captures`: a directory; packets are recorded, and kept there if a test fails."""
        self.lab, self.name = lab, lab.name
        self.directory = lab_directory(lab.name)
        self.started = time.time_ns()
        self.has_failed = False
        self._recording: Recording | None = None
        self._no_capture = ""  # why there is no capture
        if captures is not None:
            self._record(captures / lab.name)

    def __getitem__(self, node: str) -> NodeHandle:
        return NodeHandle(self.directory, find_node(self.directory, node))

    def __repr__(self) -> str:
        return f"<lab {self.name}>"

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes, in the order of the file."""
        return list(self.lab.nodes)

    def status(self) -> LabStatus:
        """The status, as in `oxyctl lab status`."""
        return ask_status(self.directory)

    def control(self, proxy: str | None = None) -> ControlClient:
        """A client of the control API of the lab's proxy; `proxy` chooses one of several."""
        return ControlClient(str(control_socket(self.name, proxy)))

    def flows(
        self,
        tenant: str,
        *,
        until: Condition | None = None,
        timeout: float = 5,
        proxy: str | None = None,
        **where: str | int | Sequence[str | int],
    ) -> list[FlowRecord]:
        """The flows that `where` selects (the filters of `oxyctl flows`), newest first.

        `until`: query again until there are this many, or it returns true for them; AssertionError after `timeout` s.
        """
        pairs = [("tenant", tenant)]
        for name, value in where.items():
            pairs += [(name, str(each)) for each in ([value] if isinstance(value, str | int) else value)]
        client, deadline = self.control(proxy), time.monotonic() + timeout
        while True:
            found = client.flows(pairs).items
            if until is None or (len(found) >= until if isinstance(until, int) else until(found)):
                return found
            if time.monotonic() >= deadline:
                table = "\n".join(flow_lines(found)) if found else "none"
                raise AssertionError(f"expected flows did not appear within {timeout:g} s; found:\n{table}")
            time.sleep(PAUSE_S)

    def metrics(self, proxy: str | None = None) -> str:
        """The proxy's counters as Prometheus text."""
        return self.control(proxy).metrics()

    def check(self, *names: str) -> list[Result]:
        """Run all checks of the lab file, or these. AssertionError explains each that fails."""
        titles = {check.title(): check for check in self.lab.checks}
        for name in names:
            if name not in titles:
                raise NothingMatched(f"no check is called '{name}'{suggest(name, titles)}")
        results = asyncio.run(self._check([titles[name] for name in names or titles]))
        if failed := [result for result in results if result.state != "passed"]:
            raise AssertionError("\n".join(line for each in failed for line in (each.name, *each.describe())))
        return results

    async def _check(self, checks: Sequence[Any]) -> list[Result]:
        async with Session(self.directory, self.lab.base) as session:
            return [result async for result in runner.run(checks, session)]

    def sections(self) -> list[Section]:
        """Sections for the report of a failed test: logs, flows, and the path of the captured packets."""
        if self.directory.live_state() is None:
            return []
        sections = [(f"{self.name}: log of {path.stem}", tail(path)) for path in self._logs()]
        for node in [name for name in self.nodes if self[name].planned.control]:
            sections.append((f"{self.name}: flows of {node}", self._flows_text(node)))
        if packets := self._no_capture or (str(self._recording.file) if self._recording else ""):
            sections.append((f"{self.name}: packets", packets))
        return sections

    def _flows_text(self, proxy: str) -> str:
        try:
            records = self.control(proxy).flows([("all_tenants", "true"), ("limit", str(SHOWN_FLOWS))]).items
        except (ControlError, OxyctlError) as error:
            return str(error)
        return "\n".join(flow_lines(records)) if records else "none"

    def _record(self, directory: Path) -> None:
        """Start to record all packets. If the machine or lab does not permit it, tests do not fail."""
        from oxyctl.capture.recording import Recording

        directory.mkdir(parents=True)
        recording = Recording(self.name, directory)
        try:
            recording.start()
        except OxyctlError as error:
            self._no_capture = str(error)
            shutil.rmtree(directory)
        else:
            self._recording = recording

    def stop_capture(self) -> None:
        """End the recording, and delete it if no test has failed."""
        if self._recording is not None:
            self._recording.stop()
            if not self.has_failed:
                shutil.rmtree(self._recording.file.parent)
            self._recording = None

    def _logs(self) -> list[Path]:
        return [path for path in self.directory.logs().values() if path.stat().st_size]
