"""Stops, starts and kills nodes of a running lab on request, and restarts them by their policy.

A node's namespace, links and addresses stay; only its programs end. If one program serves many nodes, the others are
not touched; if it ends by itself, that counts as a failure of each of its nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Coroutine, Sequence
from typing import Any

from oxyctl.errors import NothingMatched, OxyctlError, UsageError
from oxyctl.plan.serving import NAMES, SHARED_BY_NODES, Serving
from oxyctl.plan.steps import PlannedNode
from oxyctl.supervise.backoff import Backoff, is_wanted
from oxyctl.supervise.lab import RunningLab
from oxyctl.supervise.processes import Program, describe_exit
from oxyctl.supervise.recovery import Recovery
from oxyctl.supervise.requests import Nodes, Notify
from oxyctl.supervise.status import LifecycleState, NodeStatus, node_status
from proxy.settings import suggest

GRACE_S = 3.0
KILLED = -signal.SIGKILL


class NodeLifecycle:
    """The nodes of a lab that are not running, and when to restart them."""

    def __init__(self, lab: RunningLab) -> None:
        self._lab, self._recovery = lab, Recovery(lab, self.is_running)
        self._known = lab.plan, Serving(lab.plan)
        self._start_lock = asyncio.Lock()  # starts wait for each other; stops do not wait for starts
        self._stopped: set[str] = set()
        self._exit_codes: dict[
            str, int
        ] = {}  # by node, the exit code of its program, which ended by itself or was killed
        self._restarts: Counter[str] = Counter()
        self._started_at: dict[str, float] = {}
        self._restart_due: dict[str, float] = {}
        self._backoffs: defaultdict[str, Backoff] = defaultdict(Backoff)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def _serving(self) -> Serving:
        """Cached by plan: computing it takes a while in a large lab."""
        if self._known[0] is not self._lab.plan:
            self._known = self._lab.plan, Serving(self._lab.plan)
        return self._known[1]

    def enable_restarts(self) -> None:
        """Start to restart programs by policy: the lab is up."""
        self._lab.processes.on_exit = self._note_end
        for program in [each for each in self._lab.processes.programs.values() if not each.is_running]:
            self._note_end(program)

    def status(self, node: PlannedNode) -> NodeStatus:
        """The status of `node`."""
        due = self._restart_due.get(node.name)
        state = LifecycleState(
            is_stopped=node.name in self._stopped,
            exit_code=self._exit_codes.get(node.name),
            restarts_in_s=None if due is None else max(0.0, due - time.monotonic()),
            restarts=self._restarts[node.name],
        )
        program = self._lab.processes.programs.get(node.process)
        return node_status(node, program, node.name in self._lab.ready, state)

    def forget(self, names: Collection[str]) -> None:
        """Forget nodes that are removed, or replaced by others of the same name."""
        for name in names:
            self._recovery.interrupt(name)
            self._stopped.discard(name)
            for known in (self._exit_codes, self._restarts, self._started_at, self._restart_due, self._backoffs):
                known.pop(name, None)
            for absent in self._lab.shared.absent.values():
                absent.discard(name)

    async def handle(self, request: Nodes, notify: Notify) -> list[NodeStatus]:
        """Carry out a request; return its nodes' status. UsageError, NothingMatched: invalid. OxyctlError: failed."""
        self._find_nodes(request.nodes)
        match request.action:
            case "stop":
                async with self._lab.change_lock:
                    await self._stop(self._find_nodes(request.nodes), notify)
            case "kill":
                async with self._lab.change_lock:
                    await self._kill(self._find_nodes(request.nodes), notify)
            case "start" | "restart":
                async with self._start_lock:
                    await self._start(request, notify)
        return [self.status(node) for node in self._find_nodes(request.nodes)]

    def _find_nodes(self, names: Sequence[str]) -> list[PlannedNode]:
        plan = self._lab.plan
        known = {node.name: node for node in plan.nodes}
        serving = self._serving
        for name in names:
            if name not in known:
                raise NothingMatched(f"lab '{plan.lab}' has no node '{name}'{suggest(name, known)}")
            if names.count(name) > 1:
                raise UsageError(f"node '{name}' is listed twice")
            serving.require(known[name])
        if self._lab.processes.is_stopping:
            raise OxyctlError(f"lab '{plan.lab}' is being taken down")
        return [known[name] for name in names]

    def is_running(self, node: PlannedNode) -> bool:
        """Whether all programs that serve `node` are running."""
        if node.name in self._stopped or node.name in self._exit_codes:
            return False
        programs = [self._lab.processes.programs.get(name) for name in self._serving.programs[node.name]]
        return all(program is not None and program.is_running for program in programs)

    async def _stop(self, nodes: Sequence[PlannedNode], notify: Notify) -> None:
        serving = self._serving
        for node in nodes:
            self._mark_absent(node.name, serving.programs[node.name])
            self._stopped.add(node.name)
            self._recovery.interrupt(node.name)
        programs = {name for node in nodes for name in serving.programs[node.name]}
        own = [self._lab.processes.programs.get(node.name) for node in nodes if node.name in programs]
        await self._lab.processes.end([program for program in own if program is not None], GRACE_S)
        await self._refresh(programs)
        for node in nodes:
            self._recovery.lose_clients(node)
            notify("stopped", node=node.name, kind=node.kind)

    async def _kill(self, nodes: Sequence[PlannedNode], notify: Notify) -> None:
        serving = self._serving
        if idle := next((node for node in nodes if not self.is_running(node)), None):
            raise OxyctlError(f"node '{idle.name}' ({idle.kind}) is not running")
        for node in nodes:
            if serving.runs_alone(node.name):
                program = self._lab.processes.programs[node.name]
                os.kill(program.pid, signal.SIGKILL)
                await program.exited
            else:
                self._recovery.interrupt(node.name)
                self._fail([node], serving.programs[node.name], KILLED)
                await self._refresh(serving.programs[node.name])
            notify("killed", node=node.name, kind=node.kind)

    async def _start(self, request: Nodes, notify: Notify) -> None:
        async with self._lab.change_lock:
            nodes = self._find_nodes(request.nodes)
            if request.action == "restart":
                await self._stop(nodes, notify)
            await self._launch([node for node in nodes if not self.is_running(node)])
        awaited = [node for node in nodes if node.name not in self._lab.ready]
        for node in [node for node in nodes if node not in awaited]:
            notify("running", node=node.name, kind=node.kind)
        await self._recovery.until_all_ready(nodes, awaited, time.monotonic() + request.timeout_s, notify)

    async def _launch(self, nodes: Sequence[PlannedNode]) -> None:
        """Start the programs that serve `nodes`. OxyctlError: it failed; the nodes then count as exited."""
        plan, processes, serving = self._lab.plan, self._lab.processes, self._serving
        programs = {name for node in nodes for name in serving.programs[node.name]}
        for node in nodes:
            self._mark_present(node.name, serving.programs[node.name])
        try:
            for process in plan.processes:
                if process.name in programs and process.node is not None:
                    if (before := processes.programs.get(process.name)) is not None:
                        processes.clear(before)
                    processes.start(process)
            await self._refresh(programs, is_wanted=True)
        except (OxyctlError, OSError):
            for node in nodes:
                self._mark_absent(node.name, serving.programs[node.name])
                self._exit_codes[node.name] = 1
            raise

    async def _refresh(self, programs: Collection[str], *, is_wanted: bool = False) -> None:
        """Reconfigure those of `programs` that serve many nodes; start those that must run."""
        for name in sorted(programs):
            program = self._lab.processes.programs.get(name)
            is_running = program is not None and program.is_running
            if name in SHARED_BY_NODES and (is_running or is_wanted):
                await self._lab.shared.refresh(name, self._lab.plan)

    def _mark_absent(self, node: str, programs: Collection[str]) -> None:
        self._exit_codes.pop(node, None)
        self._restart_due.pop(node, None)
        self._lab.ready.discard(node)
        for program in programs:
            self._lab.shared.absent[program].add(node)

    def _mark_present(self, node: str, programs: Collection[str]) -> None:
        self._stopped.discard(node)
        self._exit_codes.pop(node, None)
        self._restart_due.pop(node, None)
        self._restarts[node] += 1
        self._started_at[node] = time.monotonic()
        for program in programs:
            self._lab.shared.absent[program].discard(node)

    def _note_end(self, program: Program) -> None:
        """Handle the end of a program."""
        is_known = self._lab.processes.programs.get(program.name) is program
        if program.is_stop_requested or self._lab.processes.is_stopping or not is_known:
            return
        if program.name == NAMES:
            self._spawn(self._restart_resolver(program))
        failed = set(self._serving.nodes.get(program.name, ())) - self._lab.shared.absent[program.name]
        self._fail(
            [node for node in self._lab.plan.nodes if node.name in failed], [program.name], program.exited.result()
        )

    def _fail(self, nodes: Sequence[PlannedNode], programs: Collection[str], code: int) -> None:
        restarting = []
        for node in nodes:
            if node.name in self._stopped:
                continue
            self._mark_absent(node.name, programs)
            self._exit_codes[node.name] = code
            self._recovery.lose_clients(node)
            if is_wanted(node.restart, code):
                restarting.append(node.name)
        if restarting:
            self._restart_later(restarting)

    def _restart_later(self, names: Sequence[str]) -> None:
        """Restart these nodes together after a pause: a shared program is started once."""
        now = time.monotonic()
        pause_s = max(self._backoffs[name].next_s(now - self._started_at.get(name, -math.inf)) for name in names)
        self._restart_due.update(dict.fromkeys(names, now + pause_s))
        self._spawn(self._restart(names, pause_s))

    async def _restart(self, names: Sequence[str], pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        async with self._lab.change_lock:
            nodes = [node for node in self._lab.plan.nodes if node.name in names and node.name in self._restart_due]
            if not nodes or self._lab.processes.is_stopping:  # nothing left to restart
                return
            ends = {node.name: describe_exit(self._exit_codes[node.name]) for node in nodes}
            try:
                await self._launch(nodes)
            except (OxyctlError, OSError):
                self._restart_later([node.name for node in nodes])
                return
        for node in nodes:
            self._note(node, f"{ends[node.name]}: restarted")
            self._spawn(self._recover(node))

    async def _restart_resolver(self, program: Program) -> None:
        """The lab's resolver has no restart policy: every node needs it."""
        backoff = self._backoffs[""]
        await asyncio.sleep(backoff.next_s(time.monotonic() - program.started_at))
        if not self._lab.processes.is_stopping:
            self._lab.processes.start(program.process)

    async def _recover(self, node: PlannedNode) -> None:
        with contextlib.suppress(OxyctlError):  # the node has ended again, or was stopped
            await self._recovery.until_ready(node, math.inf)
            await self._recovery.renew_far_ends(node)

    def _note(self, node: PlannedNode, text: str) -> None:
        """Write a line to the log of the node's program."""
        if (program := self._lab.processes.programs.get(node.process)) is not None:
            prefix = "" if node.process == node.name else f"{node.name}: "
            program.output.write(f"{prefix}{text}\n".encode())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
