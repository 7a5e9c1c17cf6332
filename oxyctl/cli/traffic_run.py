"""One run of `oxyctl traffic`: the generator inside the node, its progress here, and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING

from oxyctl.errors import OxyctlError, UsageError
from oxyctl.operate.run_inside import command_in
from oxyctl.render.traffic import progress_text
from oxyctl.supervise.state import LabDirectory
from oxyctl.traffic.client import COMMAND, GeneratorError, GeneratorProcess
from oxyctl.traffic.config import AnyTraffic
from oxyctl.traffic.tally import Progress, Report

if TYPE_CHECKING:
    from rich.status import Status


async def generate(lab: LabDirectory, node: str, traffic: AnyTraffic, *, quiet: bool) -> Report:
    """Run `traffic` in `node` and return the report, also after SIGINT or SIGTERM. OxyctlError, UsageError."""
    loop = asyncio.get_running_loop()
    async with GeneratorProcess(command_in(lab, node, COMMAND)) as generator:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, generator.stop)
        try:
            with _ProgressLine(quiet) as progress_line:
                report = await generator.run(traffic, progress_line.show)
        except GeneratorError as error:
            raise (UsageError if error.is_usage else OxyctlError)(f"node '{node}': {error}") from None
    report.node = node
    return report


class _ProgressLine(contextlib.AbstractContextManager["_ProgressLine"]):
    """Progress on standard error: a line that changes on a terminal, plain lines elsewhere, nothing when quiet."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._status: Status | None = None

    def show(self, progress: Progress) -> None:
        line = f"{progress.elapsed_s:6.1f} s  {progress_text(progress)}"
        if self._quiet:
            return
        if not sys.stderr.isatty():
            print(line, file=sys.stderr, flush=True)
            return
        if self._status is None:
            from rich.console import Console
            from rich.status import Status

            self._status = Status(line, console=Console(stderr=True))
            self._status.start()
        self._status.update(line)

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()
