"""One capture from start to end: sockets, rings, a writer, and the summary."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from oxyctl.capture import report, writers
from oxyctl.capture.filters import Program, compile_filter
from oxyctl.capture.interface_watcher import InterfaceWatcher, plan_version
from oxyctl.capture.opener import open_sockets
from oxyctl.capture.pcapng import Statistics
from oxyctl.capture.ring import Ring, blocks_for
from oxyctl.capture.secrets import Secrets, files_of
from oxyctl.capture.session import End, Session, stop_requests
from oxyctl.capture.sinks import PipeSink, ReaderGone, RingSink, Sink, create, sink_to
from oxyctl.capture.targets import Interface, resolve, tenants
from oxyctl.errors import LabNotFound, NothingMatched, OxyctlError
from oxyctl.supervise.state import LabDirectory, is_alive

MAX_SNAPLEN = 128_000  # fits into a block of a ring, with headers
STDOUT = "-"


class FileRing(NamedTuple):
    """At most `files` files of at most `size` bytes each."""

    size: int
    files: int


@dataclass(frozen=True)
class Request:
    """The options of a capture."""

    targets: Sequence[str]
    write: str | None = None  # a path, `-`, or None: print lines
    filter: str | None = None
    snaplen: int = MAX_SNAPLEN
    count: int | None = None
    duration_s: float | None = None
    ring: FileRing | None = None
    quiet: bool = False


class Outcome(NamedTuple):
    """The outcome of a capture."""

    end: End | None  # None: it failed
    session: Session
    failure: OxyctlError | None


def capture(lab: LabDirectory, request: Request) -> Outcome:
    """Capture in `lab` until something ends it. OxyctlError: it could not start."""
    with contextlib.ExitStack() as stack:
        wake = stack.enter_context(stop_requests(ignore_afterwards=True))
        since = plan_version(lab)
        rings = _rings(stack, lab, request)
        interfaces = [ring.interface for ring in rings]
        programs = {kind: compile_filter(request.filter, kind, request.snaplen) for kind in _link_types(interfaces)}
        watched = _watch(stack, lab)
        sink = _sink(request, writers.head(interfaces, lab.name, request.snaplen, request.filter), wake)
        kind = writers.LineWriter if request.write is None else writers.PcapngWriter
        writer = kind(sink, interfaces)
        session = Session(rings, writer, wake, watched)
        adder = _InterfaceAdder(stack, session, writer, programs, request)
        watcher = InterfaceWatcher(lab, request.targets, session.rings, since, adder.add)
        if isinstance(writer, writers.PcapngWriter):
            writer.before_packets = Secrets(files_of(lab), writer.secrets).poll
        return _run(session, writer, programs, request, watcher)


Writer = writers.LineWriter | writers.PcapngWriter


@dataclass(frozen=True)
class _InterfaceAdder:
    """Adds interfaces to a running capture."""

    stack: contextlib.ExitStack
    session: Session
    writer: Writer
    programs: dict[int, Program]
    request: Request

    def add(self, interface: Interface, sock: socket.socket) -> None:
        """Start to capture at this interface. OxyctlError, OSError."""
        self.stack.callback(sock.close)
        request, kind = self.request, interface.link_type
        if kind not in self.programs:
            self.programs[kind] = compile_filter(request.filter, kind, request.snaplen)
        number = len(self.session.rings)
        ring = _ring(self.stack, interface, sock, number, blocks_for(number + 1))
        self.writer.add(interface, writers.description(interface, request.snaplen, request.filter))
        self.session.add(ring)
        _start([ring], self.programs)
        print(f"capturing at {interface.title} as well", file=sys.stderr, flush=True)


def _run(
    session: Session, writer: Writer, programs: dict[int, Program], request: Request, watcher: InterfaceWatcher
) -> Outcome:
    if isinstance(writer.sink, PipeSink) and writer.sink.has_hang_up:
        session.watch(writer.sink.fileno())
    progress = report.Report(session, _where(request), live=request.write is not None, quiet=request.quiet)

    def tick() -> float:
        following, remaining = progress.tick(), watcher.tick()
        return remaining if following is None else min(following, remaining)

    start, end, failure = time.time_ns(), None, None
    try:
        _start(session.rings, programs)
        progress.begin()
        end = session.run(request.count, request.duration_s, tick)
    except OxyctlError as error:
        failure = error
    finally:
        progress.end()
    counts = [Statistics(ring.received, ring.dropped, session.delivered[ring.number]) for ring in session.rings]
    try:
        writer.close(start, time.time_ns(), counts)
    except OxyctlError as error:
        failure = failure or error
    except ReaderGone:
        end = End.READER
    return Outcome(end if failure is None else None, session, failure)


def _rings(stack: contextlib.ExitStack, lab: LabDirectory, request: Request) -> list[Ring]:
    plan = lab.read_plan()
    if plan is None:
        raise LabNotFound(f"lab '{lab.name}' has no readable plan")
    opened = open_sockets(lab, resolve(request.targets, plan), tenants(plan))
    for _, sock in opened:
        stack.callback(sock.close)
    if not opened:
        raise NothingMatched(f"{', '.join(request.targets)}: no interface to capture at")
    blocks = blocks_for(len(opened))
    return [_ring(stack, interface, sock, number, blocks) for number, (interface, sock) in enumerate(opened)]


def _ring(stack: contextlib.ExitStack, interface: Interface, sock: socket.socket, number: int, blocks: int) -> Ring:
    try:
        ring = Ring(interface, sock, number, blocks)
    except OSError as error:
        raise OxyctlError(f"no memory for packets of {interface.title}: {error.strerror}") from None
    stack.callback(ring.close)
    return ring


def _start(rings: Sequence[Ring], programs: dict[int, Program]) -> None:
    for ring in rings:
        try:
            ring.start(programs[ring.interface.link_type])
        except OSError as error:
            raise OxyctlError(f"cannot capture at {ring.interface.title}: {error.strerror}") from None


def _link_types(interfaces: Sequence[Interface]) -> set[int]:
    return {interface.link_type for interface in interfaces}


def _watch(stack: contextlib.ExitStack, lab: LabDirectory) -> int:
    """A descriptor that becomes readable when the lab ends; otherwise our sockets would keep its namespaces alive."""
    with contextlib.suppress(ProcessLookupError):
        if (state := lab.live_state()) is not None:
            fd = os.pidfd_open(state.pid)
            stack.callback(os.close, fd)
            if is_alive(state):
                return fd
    raise LabNotFound(f"lab '{lab.name}' has just ended")


def _sink(request: Request, head: Sequence[bytes], wake: int) -> Sink:
    if request.ring is not None:
        assert request.write is not None
        return RingSink(Path(request.write), *request.ring, head)
    if request.write is None:
        return sink_to(os.dup(sys.stdout.fileno()), "standard output", wake)
    if request.write == STDOUT:
        sink: Sink = sink_to(os.dup(sys.stdout.fileno()), "standard output", wake)
    else:
        sink = sink_to(create(Path(request.write)), request.write, wake)
    sink.write(head)
    return sink


def _where(request: Request) -> str:
    if request.write is None or request.write == STDOUT:
        return ""
    return f" to {request.write}"
