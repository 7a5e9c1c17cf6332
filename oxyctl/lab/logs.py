"""`logs`: what the programs of a lab wrote, and what they go on writing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from oxyctl.lab.state import LabDirectory, find_node

POLL_S = 0.2


def print_logs(lab: LabDirectory, node: str | None, follow: bool) -> None:
    """Print the log of `node`, or all with the program's name before each line; with `follow`, go on."""
    sources = [_Source(*source) for source in _sources(lab, node)]
    while True:
        for source in sources:
            for line in source.new_lines():
                sys.stdout.write(line)
        sys.stdout.flush()
        if not follow or lab.live_state() is None:
            return
        time.sleep(POLL_S)


def _sources(lab: LabDirectory, node: str | None) -> Iterator[tuple[Path, Callable[[str], str | None]]]:
    if node is None:
        for log in sorted(lab.log("any").parent.glob("*.log")):
            yield log, lambda line, name=log.stem: f"{name} | {line}"  # type: ignore[misc]
        return
    process = find_node(lab, node).process
    if process == node:
        yield lab.log(process), lambda line: line
    else:  # shared by many nodes: the lines that are about this one start with its name
        yield lab.log(process), lambda line: line.partition(": ")[2] if line.startswith(f"{node}: ") else None


class _Source:
    """One log, read as far as it went; one that was cut back is read from its start."""

    def __init__(self, path: Path, show: Callable[[str], str | None]) -> None:
        self._path, self._show = path, show
        self._offset = 0
        self._held = b""

    def new_lines(self) -> Iterator[str]:
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(self._offset if size >= self._offset else 0)
                *lines, self._held = (self._held + file.read()).split(b"\n")
                self._offset = file.tell()
        except OSError:
            return
        for line in lines:
            if (shown := self._show(line.decode(errors="replace") + "\n")) is not None:
                yield shown
