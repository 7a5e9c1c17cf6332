"""`logs`: the output of a lab's programs in the order in which it was written, optionally followed."""

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
from oxyctl.supervise.program_output import TIMESTAMP, rotated, timestamps_of
from oxyctl.supervise.state import LabDirectory, find_node, is_alive

POLL_MS = 100


class Line(NamedTuple):
    """One line: when it was written (Unix nanoseconds), the node or program, and the text."""

    ns: int
    name: str
    text: str


LineNamer = Callable[[str], tuple[str, str] | None]  # a line's name and text; None: the line is not shown


def print_logs(
    lab: LabDirectory, node: str | None, *, follow: bool, since_ns: int = 0, tail: int | None = None
) -> None:
    """Print the log of `node`, or all logs with names before lines; with `follow`, continue until the lab has ended.

    `node` may also be a program of the lab itself, such as `impair`. NothingMatched: the lab has neither.
    Of the existing output, print only lines written since `since_ns`, and only the last `tail` of them.
    """
    sources = [_Source(*source) for source in _sources(lab, node)]
    past = heapq.merge(*(source.new_lines() for source in sources))
    wanted = (line for line in past if line.ns >= since_ns)
    _print(wanted if tail is None else iter(collections.deque(wanted, tail)), node)
    if follow:
        for _ in _poll_until_ended(lab):
            _print(heapq.merge(*(source.new_lines() for source in sources)), node)
    _print(heapq.merge(*(source.rest() for source in sources)), node)


def _print(lines: Iterator[Line], node: str | None) -> None:
    for line in lines:
        sys.stdout.write(line.text + "\n" if node else f"{line.name} | {line.text}\n")
    sys.stdout.flush()


def _poll_until_ended(lab: LabDirectory) -> Iterator[None]:
    """Yield every POLL_MS while the lab is running, and once after it has ended."""
    state = lab.live_state()
    if state is not None:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(state.pid)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            while is_alive(state) and not ended.poll(POLL_MS):
                yield
            os.close(pidfd)
    yield


def _sources(lab: LabDirectory, node: str | None) -> Iterator[tuple[Path, LineNamer]]:
    logs, plan = lab.logs(), lab.read_plan()
    nodes = plan.nodes if plan else []
    if node is None:
        for name, log in logs.items():
            yield log, _by_prefix(name, nodes)
    elif node in logs and node not in {planned.name for planned in nodes}:
        yield logs[node], _named(node)  # a program of the lab itself: `services`, `impair`, `supervisor`
    else:
        planned = find_node(lab, node)
        yield lab.log(planned.process), _select_node(node) if planned.process != node else _named(node)


def _named(name: str) -> LineNamer:
    return lambda text: (name, text)


def _select_node(node: str) -> LineNamer:
    """Select the lines about one node in the log of a shared program, which start with its name."""
    return lambda text: (node, text.partition(": ")[2]) if text.startswith(f"{node}: ") else None


def _by_prefix(process: str, nodes: list[PlannedNode]) -> LineNamer:
    served = {node.name for node in nodes if node.process == process != node.name}

    def name(text: str) -> tuple[str, str]:
        node, colon, rest = text.partition(": ")
        return (node, rest) if colon and node in served else (process, text)

    return name


class _File:
    """One file of a log and the position up to which it has been read. It may be renamed meanwhile."""

    def __init__(self, log: Path, times: Path) -> None:
        """Open the files. OSError: the log does not exist."""
        self._log = log.open("rb")
        self._times = times.open("rb") if times.exists() else None
        stat = os.fstat(self._log.fileno())
        self.inode, self._ns, self._offset = stat.st_ino, stat.st_mtime_ns, 0
        self._marks: collections.deque[tuple[int, int]] = collections.deque()

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """New lines with their ends, each with its time; the last one may be incomplete."""
        if os.fstat(self._log.fileno()).st_size < self._offset:  # it was truncated
            self._offset = self._log.seek(0)
        data = self._log.read()
        if self._times is not None:
            fresh = self._times.read()
            self._marks.extend(TIMESTAMP.iter_unpack(fresh[: len(fresh) - len(fresh) % TIMESTAMP.size]))
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
    """One log, read across rotations."""

    def __init__(self, path: Path, name: LineNamer) -> None:
        self._path, self._name = path, name
        self._pending = b""
        self._file = _open(rotated(path), rotated(timestamps_of(path))) or _open(path, timestamps_of(path))

    def new_lines(self) -> Iterator[Line]:
        """The complete lines that were written since the last call."""
        for ns, piece in self._pieces():
            self._pending += piece
            if self._pending.endswith(b"\n"):
                yield from self._line(ns)

    def rest(self) -> Iterator[Line]:
        """The last line, if it is incomplete."""
        if self._pending:
            yield from self._line(0)

    def _line(self, ns: int) -> Iterator[Line]:
        text, self._pending = self._pending.decode(errors="replace").rstrip("\n"), b""
        if (named := self._name(text)) is not None:
            yield Line(ns, *named)

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        if self._file is None:
            self._file = _open(self._path, timestamps_of(self._path))
        while self._file is not None:
            is_latest = _inode(self._path) in (self._file.inode, None)
            yield from self._file.pieces()
            if is_latest:
                return
            self._file.close()
            self._file = _open(self._path, timestamps_of(self._path))


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
