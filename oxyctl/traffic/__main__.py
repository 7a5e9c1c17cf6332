"""Generate traffic: `python -m oxyctl.traffic`. Requests on standard input, events on standard output (`client`)."""

from __future__ import annotations

import asyncio
import signal
import sys

import msgspec

from oxyctl.traffic.client import Asked, Event
from oxyctl.traffic.failures import Unusable
from oxyctl.traffic.run import run


def tell(event: Event) -> None:
    """Print one line. If the parent process has ended, SIGPIPE or the end of standard input ends this process."""
    sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
    sys.stdout.buffer.flush()


async def answer(asked: Asked, stopped: asyncio.Event) -> None:
    """Carry out one request. Returns its report, or a sentence that explains why there is none."""
    number = asked.number
    assert asked.traffic is not None
    try:
        report = await run(asked.traffic, lambda progress: tell(Event(number=number, progress=progress)), stopped)
        tell(Event(number=number, report=report))
    except Unusable as error:
        tell(Event(number=number, unusable=str(error)))


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
                asked = msgspec.json.decode(line, type=Asked)
                if asked.traffic is None:
                    stopped.set()
                else:
                    group.create_task(answer(asked, stopped))
    finally:
        transport.close()


if __name__ == "__main__":
    asyncio.run(serve())
