"""The supervisor's socket: reads one request, carries it out, and answers. `operate.ask` is the client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from oxyctl.errors import ExitCode, OxyctlError
from oxyctl.supervise.changes import Changes
from oxyctl.supervise.node_lifecycle import NodeLifecycle
from oxyctl.supervise.requests import Apply, Failure, Impair, Nodes, Notify, Request, Status
from oxyctl.supervise.status import LabStatus


class Control:
    """Answers requests about one lab. `status` returns its status for `oxyctl lab status`."""

    def __init__(self, status: Callable[[], Awaitable[LabStatus]], changes: Changes, nodes: NodeLifecycle) -> None:
        self._status, self._changes, self._nodes = status, changes, nodes

    async def answer(self, reader: asyncio.StreamReader, notify: Notify) -> bytes:
        """Carry out the request from `reader`; return the answer without a newline. Events before it go to `notify`."""
        try:
            result = await self._answer(await reader.readline(), notify)
        except OxyctlError as error:
            result = Failure(error=str(error), exit_code=ExitCode(error.exit_code))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            result = Failure(error=str(error), exit_code=ExitCode.FAILED)
        return msgspec.json.encode(result)

    async def _answer(self, line: bytes, notify: Notify) -> Any:
        request: Request = msgspec.json.decode(line, type=Request) if line.strip() else Status()
        match request:
            case Status():
                return await self._status()
            case Impair():
                return await self._changes.impair(request)
            case Apply():
                return await self._changes.apply(request)
            case Nodes():
                return await self._nodes.handle(request, notify)
