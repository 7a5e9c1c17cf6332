"""The client of `python -m oxyctl.traffic`: starts it in a node, and follows its progress."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence

import msgspec

from oxyctl.traffic.config import AnyTraffic
from oxyctl.traffic.tally import Progress, Report

COMMAND = [sys.executable, "-P", "-m", "oxyctl.traffic"]
_LIMIT = 16 << 20  # of a line: a report may carry the text of a response


class Request(msgspec.Struct, kw_only=True):
    """A line to the generator; without traffic, it asks the generator to end at once."""

    number: int = 0
    traffic: AnyTraffic | None = None


class Event(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line from the generator about the request with this number: progress, a report or an error."""

    number: int
    progress: Progress | None = None
    report: Report | None = None
    unusable: str | None = None


class GeneratorError(Exception):
    """There is no report, for the reason in `str()`. `is_usage`: the request is invalid at that node."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


class GeneratorProcess(contextlib.AbstractAsyncContextManager["GeneratorProcess"]):
    """One running generator, for any number of requests at once."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        """`command` is COMMAND, or a command that runs it somewhere else."""
        self._command = command
        self._waiting: dict[int, tuple[asyncio.Future[Report], Callable[[Progress], None] | None]] = {}
        self._last_number = 0

    async def __aenter__(self) -> GeneratorProcess:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=pipe, stdout=pipe, stderr=pipe, limit=_LIMIT
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self.stop()
        self._process.stdin.close()
        await self._reading
        await self._process.wait()

    async def run(self, traffic: AnyTraffic, on_progress: Callable[[Progress], None] | None = None) -> Report:
        """Run `traffic` and return its report; progress is passed on each second. GeneratorError."""
        self._last_number += 1
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_number] = future, on_progress
        if self._reading.done():
            raise GeneratorError("the generator has ended")
        self._write(Request(number=self._last_number, traffic=traffic))
        return await future

    def stop(self) -> None:
        """End all current requests, with the reports so far."""
        with contextlib.suppress(OSError):
            self._write(Request())

    def _write(self, request: Request) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(request) + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        stderr = asyncio.create_task(self._process.stderr.read())
        async for line in self._process.stdout:
            self._handle_event(msgspec.json.decode(line, type=Event))
        message = (await stderr).decode(errors="replace").strip()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(GeneratorError(f"the generator ended: {message or 'it printed nothing'}"))

    def _handle_event(self, event: Event) -> None:
        future, on_progress = self._waiting[event.number]
        if event.progress is not None:
            if on_progress is not None:
                on_progress(event.progress)
            return
        del self._waiting[event.number]
        if future.done():
            return
        if event.report is not None:
            future.set_result(event.report)
        else:
            future.set_exception(GeneratorError(str(event.unusable), is_usage=True))
