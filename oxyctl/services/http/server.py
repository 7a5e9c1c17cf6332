"""Listening for HTTP, in the clear and with TLS; a task per connection."""

from __future__ import annotations

import asyncio
import ssl

from oxyctl.services.certificates import server_context
from oxyctl.services.host import Host
from oxyctl.services.http.connection import READ_BYTES, HttpConnection
from oxyctl.services.service import TcpService


class HttpService(TcpService):
    """An HTTP server and the tasks that serve its connections."""

    def __init__(self, host: Host, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, host.listen(port))
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        await self.serve(self._accept, tls=self._tls)

    async def stop(self) -> None:
        """Stop listening, cut what is open, wait for its tasks."""
        await super().stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self) -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(READ_BYTES), self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve_connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(writer.transport, asyncio.Transport)
        self.open.add(writer.transport)
        try:
            await HttpConnection(self.host, reader, writer).serve()
            writer.close()
        except (OSError, TimeoutError):  # the client has gone, or its TLS went wrong
            writer.transport.abort()
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            self.open.discard(writer.transport)


async def start(host: Host, port: int) -> HttpService:
    """An HTTP server on `port`."""
    service = HttpService(host, port, None)
    await service.start()
    return service


async def start_tls(host: Host, port: int) -> HttpService:
    """An HTTPS server on `port`, with a certificate of the lab's authority."""
    service = HttpService(host, port, server_context(host))
    await service.start()
    return service
