"""`exec` in many nodes at once: each with its own output and exit code, printed line by line or collected."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from oxyctl.operate.enter import FORWARDED, Invocation, enter_lab, exec_in_node, exit_code
from oxyctl.supervise.state import LabDirectory, State

CHUNK = 65_536
LineHandler = Callable[[str, int, bytes], None]  # the node, 1 (output) or 2 (errors), and a line with its end


@dataclass
class NodeRun:
    """A program in one node: its exit code and its output."""

    node: str
    exit_code: int = 0
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)


@dataclass
class _Child:
    run: NodeRun
    pid: int
    streams: dict[int, int]  # pipes from its output (1) and its errors (2)


def run_in_all(
    lab: LabDirectory, state: State, nodes: Sequence[str], invocation: Invocation, on_line: LineHandler
) -> list[NodeRun]:
    """Run `invocation` in all of `nodes` concurrently, without input. Returns the results in the order of `nodes`.

    The calling process enters the lab permanently. Signals that end a command are forwarded to the programs.
    """
    enter_lab(state)
    sys.stdout.flush()
    children: list[_Child] = []

    def forward(number: int, frame: object) -> None:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    children += [_fork(lab, NodeRun(node), invocation) for node in nodes]
    _collect(children, on_line)
    for child in children:
        child.run.exit_code = exit_code(os.waitpid(child.pid, 0)[1])
    return [child.run for child in children]


def print_line(node: str, stream: int, line: bytes) -> None:
    """Print a line to the same stream, with the node's name before it."""
    out = (sys.stdout if stream == 1 else sys.stderr).buffer
    out.write(f"{node} | ".encode() + line)
    out.flush()


def _fork(lab: LabDirectory, run: NodeRun, invocation: Invocation) -> _Child:
    pipes = {stream: os.pipe() for stream in (1, 2)}
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)  # signals of the terminal arrive once, through `forward`
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, (_, writer) in pipes.items():
            os.dup2(writer, stream)
        exec_in_node(lab, run.node, invocation)
    for _, writer in pipes.values():
        os.close(writer)
    return _Child(run, pid, {stream: reader for stream, (reader, _) in pipes.items()})


def _collect(children: Sequence[_Child], on_line: LineHandler) -> None:
    """Read all pipes until they are closed; an unterminated last line gets a line feed."""
    with selectors.DefaultSelector() as selector:
        for child in children:
            for stream, pipe in child.streams.items():
                selector.register(pipe, selectors.EVENT_READ, (child.run, stream, bytearray()))
        while selector.get_map():
            for key, _ in selector.select():
                chunk = os.read(key.fd, CHUNK)
                run, stream, pending = key.data
                _split_lines(run, stream, pending, chunk, on_line)
                if not chunk:
                    selector.unregister(key.fileobj)
                    os.close(key.fd)


def _split_lines(run: NodeRun, stream: int, pending: bytearray, chunk: bytes, on_line: LineHandler) -> None:
    (run.stdout if stream == 1 else run.stderr).extend(chunk)
    pending += chunk
    *lines, rest = pending.split(b"\n")
    pending[:] = rest
    for line in lines:
        on_line(run.node, stream, bytes(line) + b"\n")
    if not chunk and rest:
        on_line(run.node, stream, bytes(rest) + b"\n")
