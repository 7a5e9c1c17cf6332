"""Secrets of TLS sessions that the proxies of a lab write down: they go into a capture, so that it can be read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from oxyctl.supervise.state import LabDirectory


class Secrets:
    """Reads what is appended to some files. What was there before is of sessions that may still go on."""

    def __init__(self, files: Iterable[Path], add: Callable[[bytes], None]) -> None:
        self._offsets = dict.fromkeys(files, 0)
        self._add = add

    def look(self) -> None:
        """Add what is new, whole lines only."""
        for path, offset in self._offsets.items():
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(offset)
                lines, newline, _ = file.read().rpartition(b"\n")
                if newline:
                    self._offsets[path] = offset + len(lines) + 1
                    self._add(lines + newline)


def files_of(lab: LabDirectory) -> list[Path]:
    """Where the proxies of a lab write secrets down; of one that does not answer nothing is known."""
    from proxy.control.client import ControlClient, ControlError

    plan = lab.read_plan()
    found: list[str] = []
    for node in plan.nodes if plan is not None else ():
        if node.control is not None:
            with contextlib.suppress(ControlError):
                found += ControlClient(str(node.control), timeout_s=2).status().key_logs.values()
    return [Path(each) for each in found]
