"""Generate traffic: `python -m oxyctl.traffic`. Requests on standard input, events on standard output (`client`)."""

from __future__ import annotations

import asyncio
import signal
import sys

import msgspec

from oxyctl.traffic.client import Event, Request
from oxyctl.traffic.failures import Unusable
from oxyctl.traffic.run import run


def emit(event: Event) -> None:
    """Print one line. If the parent process has ended, SIGPIPE or the end of standard input ends this process."""
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


async def handle(request: Request, stopped: asyncio.Event) -> None:
    """Carry out one request. Returns its report, or a sentence that explains why there is none."""
    number = request.number
    assert request.traffic is not None
    try:
        report = await run(request.traffic, lambda progress: emit(Event(number=number, progress=progress)), stopped)
        emit(Event(number=number, report=report))
    except Unusable as error:
        emit(Event(number=number, unusable=str(error)))


async def serve() -> None:
    """Serve until standard input ends and all is answered. SIGINT, SIGTERM, a request without traffic: end at once."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    reader = asyncio.StreamReader(limit=16 << 20)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        async with asyncio.TaskGroup() as group:
            async for line in reader:
                request = msgspec.json.decode(line, type=Request)
                if request.traffic is None:
                    stopped.set()
                else:
                    group.create_task(handle(request, stopped))
    finally:
        transport.close()


if __name__ == "__main__":
    asyncio.run(serve())
