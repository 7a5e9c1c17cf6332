"""TLS session secrets that the proxies of a lab write to files: included in a capture, so that it can be decrypted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from oxyctl.supervise.state import LabDirectory


class Secrets:
    """Reads what is appended to some files, and what they had before, since those sessions may still be open."""

    def __init__(self, files: Iterable[Path], add: Callable[[bytes], None]) -> None:
        self._offsets = dict.fromkeys(files, 0)
        self._add = add

    def poll(self) -> None:
        """Add new lines, complete ones only."""
        for path, offset in self._offsets.items():
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(offset)
                lines, newline, _ = file.read().rpartition(b"\n")
                if newline:
                    self._offsets[path] = offset + len(lines) + 1
                    self._add(lines + newline)


def files_of(lab: LabDirectory) -> list[Path]:
    """The files to which the proxies of a lab write secrets; a proxy that does not answer is skipped."""
    from proxy.control.client import ControlClient, ControlError

    plan = lab.read_plan()
    paths: list[str] = []
    for node in plan.nodes if plan is not None else ():
        if node.control is not None:
            with contextlib.suppress(ControlError):
                paths += ControlClient(str(node.control), timeout_s=2).status().key_logs.values()
    return [Path(each) for each in paths]
