"""Programs that serve many nodes or links: told by a file that has changed and SIGHUP, answering with a report."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from oxyctl.errors import OxyctlError
from oxyctl.lab.processes import Program
from oxyctl.lab.state import write_atomically

TIMEOUT_S = 10.0


async def reload(program: Program, path: Path, content: bytes | None, generation: int) -> dict[str, Any]:
    """The report of `program` on the configuration number `generation`, which `content` is, to be written to `path`.

    None: it was there when the program was started. OxyctlError when the program ends or says nothing.
    """
    if content is not None:
        write_atomically(path, content)
        os.kill(program.pid, signal.SIGHUP)
    answer = asyncio.ensure_future(_answer(program, generation))
    futures: set[asyncio.Future[Any]] = {answer, program.exited}
    try:
        await asyncio.wait(futures, timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            report: dict[str, Any] = answer.result()
            return report
    finally:
        answer.cancel()
    what = program.describe_exit() if not program.is_running else f"did not answer within {TIMEOUT_S:g} s"
    raise OxyctlError(f"{program.name} {what}; see `oxyctl lab logs {program.name}`")


async def _answer(program: Program, generation: int) -> dict[str, Any]:
    while True:
        news = program.reported
        for report in reversed(program.reports):
            if report.get("generation") == generation:
                _forget(program, generation)
                return dict(report)
        await news.wait()


def _forget(program: Program, generation: int) -> None:
    """Answers to earlier questions: nobody asks for them again. The last word on services is the only one."""
    last = program.reports[-1]
    program.reports[:] = [
        report
        for report in program.reports
        if report is last
        or (report.get("generation", generation) >= generation and not ("services" in report and "services" in last))
    ]
