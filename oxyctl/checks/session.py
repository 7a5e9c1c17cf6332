"""A running lab as checks see it: traffic and programs inside its nodes, and its proxies' control API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from oxyctl.errors import OxyctlError
from oxyctl.operate.recorded_flows import recorded_flows_of
from oxyctl.operate.run_inside import command_in
from oxyctl.plan.steps import Plan
from oxyctl.supervise.state import LabDirectory, control_socket, find_node, find_proxy
from oxyctl.topology.choices import Trust
from oxyctl.traffic.client import COMMAND, GeneratorProcess
from oxyctl.traffic.config import AnyTraffic
from oxyctl.traffic.tally import Report
from proxy.control.client import ControlClient, ProxyGone
from proxy.control.schema import FlowRecord

PROGRAMS_AT_ONCE = 4
CONTROL_TIMEOUT_S = 10


class Finished(NamedTuple):
    """A program that ended."""

    code: int
    out: str
    err: str


class Session(contextlib.AbstractAsyncContextManager["Session"]):
    """One run of checks in `lab`. Each node has one traffic generator, started when first needed."""

    def __init__(self, lab: LabDirectory, base: Path) -> None:
        """`base`: the directory in which programs run, that of the lab file. OxyctlError: the lab has no valid plan."""
        plan = lab.read_plan()
        if plan is None:
            raise OxyctlError(f"lab '{lab.name}' has no plan that this version can read")
        self.lab, self.base = lab, base
        self.plan: Plan = plan
        self.started = time.time_ns()
        self.was_running: dict[str, bool] = {}  # whether a node ran before the first step that names it
        self.original_policies: dict[Path, tuple[str, str]] = {}  # control socket and text, before the first step
        self._stack = contextlib.AsyncExitStack()
        self._generators: dict[str, asyncio.Task[GeneratorProcess]] = {}
        self._programs = asyncio.Semaphore(PROGRAMS_AT_ONCE)

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    def at_end(self, callback: Callable[[Session], Awaitable[None]]) -> None:
        """Call `callback` at the end of the run, even after a failure."""
        self._stack.push_async_callback(callback, self)

    def trusted(self, node: str, verify: bool | Trust) -> str | None:
        """The CA file for a check from `node`: `verify` True: that of the node. None: certificates are not verified."""
        if verify is False:
            return None
        path = next((each.bundle for each in self.plan.namespaces if each.node == node), None)
        bundle = next((each for each in self.plan.bundles if each.path == path), None)
        if bundle is None or verify == "lab-ca":
            return str(self.lab.path / "services" / "ca.pem")
        return bundle.path if verify is True else bundle.authorities[-1]

    async def traffic(self, node: str, traffic: AnyTraffic) -> Report:
        """Send `traffic` from `node`; return the report. NothingMatched: no such node. GeneratorError."""
        find_node(self.lab, node)
        if node not in self._generators:
            process = GeneratorProcess(command_in(self.lab, node, COMMAND))
            self._generators[node] = asyncio.create_task(self._stack.enter_async_context(process))
        return await (await self._generators[node]).run(traffic)

    async def program(self, node: str, command: Sequence[str], timeout_s: float) -> Finished:
        """Run `command` in `node`; return its output. NothingMatched: no such node. TimeoutError: it was killed."""
        find_node(self.lab, node)
        pipe = asyncio.subprocess.PIPE
        async with self._programs:
            process = await asyncio.create_subprocess_exec(
                *command_in(self.lab, node, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                cwd=self.base,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(timeout_s):
                    out, err = await process.communicate()
            finally:
                if process.returncode is None:
                    # its children inside the lab are in its process group, and also hold the pipes
                    os.killpg(process.pid, signal.SIGKILL)
                    await process.communicate()
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))

    async def flows(self, proxy: str | None, pairs: Sequence[tuple[str, str]]) -> list[FlowRecord]:
        """The flows that the parameters select, from the records if the proxy has ended. OxyctlError, ControlError."""
        client = self._client(proxy)
        try:
            return (await asyncio.to_thread(client.flows, list(pairs))).items
        except ProxyGone:
            control = find_proxy(self.lab, proxy).control
            if control is None or (store := recorded_flows_of(control)) is None:
                raise
            return (await asyncio.to_thread(store.flows, list(pairs))).items

    async def metrics(self, proxy: str | None) -> str:
        """The proxy's metrics as Prometheus text. OxyctlError, ControlError."""
        return await asyncio.to_thread(self._client(proxy).metrics)

    def _client(self, proxy: str | None) -> ControlClient:
        return ControlClient(str(control_socket(self.lab.name, proxy)), timeout_s=CONTROL_TIMEOUT_S)
