"""`logs`: the output of a lab's programs in the order in which it was written, and what follows."""

from __future__ import annotations

import collections
import contextlib
import heapq
import os
import select
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from oxyctl.plan.steps import PlannedNode
from oxyctl.supervise.program_output import TIMES, older, times_of
from oxyctl.supervise.state import LabDirectory, find_node, is_alive

LOOK_MS = 100


class Line(NamedTuple):
    """One line: when it was written (Unix nanoseconds), by whom, and what."""

    ns: int
    name: str
    text: str


Naming = Callable[[str], tuple[str, str] | None]  # whose line it is and the text of it; None: not one to show


def print_logs(
    lab: LabDirectory, node: str | None, *, follow: bool, since_ns: int = 0, tail: int | None = None
) -> None:
    """Print the log of `node`, or all with the name before each line; with `follow`, go on until the lab has ended.

    `node` may also be a program of the lab's own, such as `impair`. NothingMatched when the lab has neither.

    Of the existing output, print only what was written after `since_ns`, and only its last `tail` lines.
    """
    sources = [_Source(*source) for source in _sources(lab, node)]
    past = heapq.merge(*(source.new_lines() for source in sources))
    wanted = (line for line in past if line.ns >= since_ns)
    _print(wanted if tail is None else iter(collections.deque(wanted, tail)), node)
    if follow:
        for _ in _looks(lab):
            _print(heapq.merge(*(source.new_lines() for source in sources)), node)
    _print(heapq.merge(*(source.rest() for source in sources)), node)


def _print(lines: Iterator[Line], node: str | None) -> None:
    for line in lines:
        sys.stdout.write(line.text + "\n" if node else f"{line.name} | {line.text}\n")
    sys.stdout.flush()


def _looks(lab: LabDirectory) -> Iterator[None]:
    """Every now and then as long as the lab lives, and once when it has ended."""
    state = lab.live_state()
    if state is not None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(state.pid)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            while is_alive(state) and not ended.poll(LOOK_MS):
                yield
            os.close(pidfd)
    yield


def _sources(lab: LabDirectory, node: str | None) -> Iterator[tuple[Path, Naming]]:
    logs, plan = lab.logs(), lab.read_plan()
    nodes = plan.nodes if plan else []
    if node is None:
        for name, log in logs.items():
            yield log, _shared(name, nodes)
    elif node in logs and node not in {planned.name for planned in nodes}:
        yield logs[node], _all(node)  # a program of the lab's own: `services`, `impair`, `supervisor`
    else:
        planned = find_node(lab, node)
        yield lab.log(planned.process), _only(node) if planned.process != node else _all(node)


def _all(name: str) -> Naming:
    return lambda text: (name, text)


def _only(node: str) -> Naming:
    """Of a process that serves many nodes: the lines that are about this one start with its name."""
    return lambda text: (node, text.partition(": ")[2]) if text.startswith(f"{node}: ") else None


def _shared(process: str, nodes: list[PlannedNode]) -> Naming:
    served = {node.name for node in nodes if node.process == process != node.name}

    def name(text: str) -> tuple[str, str]:
        node, colon, rest = text.partition(": ")
        return (node, rest) if colon and node in served else (process, text)

    return name


class _File:
    """One file of a log, read as far as it went; it may be renamed meanwhile."""

    def __init__(self, log: Path, times: Path) -> None:
        """OSError when there is none."""
        self._log = log.open("rb")
        self._times = times.open("rb") if times.exists() else None
        found = os.fstat(self._log.fileno())
        self.inode, self._ns, self._offset = found.st_ino, found.st_mtime_ns, 0
        self._marks: collections.deque[tuple[int, int]] = collections.deque()

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """What is new: lines with their ends, and at last perhaps the beginning of one."""
        if os.fstat(self._log.fileno()).st_size < self._offset:  # begun again
            self._offset = self._log.seek(0)
        data = self._log.read()
        if self._times is not None:
            fresh = self._times.read()
            self._marks.extend(TIMES.iter_unpack(fresh[: len(fresh) - len(fresh) % TIMES.size]))
        for piece in data.splitlines(keepends=True):
            while self._marks and self._marks[0][1] <= self._offset:
                self._ns = self._marks.popleft()[0]
            self._offset += len(piece)
            yield self._ns, piece

    def close(self) -> None:
        self._log.close()
        if self._times is not None:
            self._times.close()


class _Source:
    """One log, through all of its files."""

    def __init__(self, path: Path, name: Naming) -> None:
        self._path, self._name = path, name
        self._held = b""
        self._file = _open(older(path), older(times_of(path))) or _open(path, times_of(path))

    def new_lines(self) -> Iterator[Line]:
        """What was written since the last time."""
        for ns, piece in self._pieces():
            self._held += piece
            if self._held.endswith(b"\n"):
                yield from self._line(ns)

    def rest(self) -> Iterator[Line]:
        """What there is of a line that was never ended."""
        if self._held:
            yield from self._line(0)

    def _line(self, ns: int) -> Iterator[Line]:
        text, self._held = self._held.decode(errors="replace").rstrip("\n"), b""
        if (named := self._name(text)) is not None:
            yield Line(ns, *named)

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        if self._file is None:
            self._file = _open(self._path, times_of(self._path))
        while self._file is not None:
            is_latest = _inode(self._path) in (self._file.inode, None)
            yield from self._file.pieces()
            if is_latest:
                return
            self._file.close()
            self._file = _open(self._path, times_of(self._path))


def _open(log: Path, times: Path) -> _File | None:
    try:
        return _File(log, times)
    except OSError:
        return None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
