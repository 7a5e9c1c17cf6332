"""Progress of a lab that is being built or changed: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.status import Status


NODE_EVENTS = {
    "ready": "is ready",
    "running": "is already running",
    "stopped": "was stopped",
    "killed": "was killed",
    "back": "has reconnected",
}


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Shows the events of one command."""

    def __init__(self, lab: str) -> None:
        self._lab, self._start = lab, time.monotonic()
        self._spinner: Status | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.status import Status

            self._spinner = Status(f"lab {self._lab}", console=Console(stderr=True))
            self._spinner.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._spinner is not None:
            self._spinner.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event of the supervisor."""
        match event["event"]:
            case "step":
                self._show_step(str(event["text"]))
            case "up":
                self._print(f"lab '{self._lab}' is up")
            case word if word in NODE_EVENTS:
                self._print(f"{event['node']} ({event['kind']}) {NODE_EVENTS[word]}")

    def _show_step(self, text: str) -> None:
        if self._spinner is not None:
            self._spinner.update(f"lab {self._lab}: {text}")

    def _print(self, text: str) -> None:
        line = f"{time.monotonic() - self._start:6.2f} s  {text}"
        if self._spinner is not None:
            self._spinner.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)
