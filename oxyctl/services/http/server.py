"""Listening for HTTP, in the clear and with TLS; a task per connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from oxyctl.services.certificates import Fault, server_context
from oxyctl.services.host import Host
from oxyctl.services.http.closing import READ_BYTES
from oxyctl.services.http.connection import HttpConnection
from oxyctl.services.http.h2_connection import PREFACE, Http2Connection
from oxyctl.services.service import TcpService


class HttpService(TcpService):
    """An HTTP server and the tasks that serve its connections."""

    def __init__(self, host: Host, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, host.listen(port))
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start to listen."""
        await self.serve(self._accept, tls=self._tls)

    async def stop(self) -> None:
        """Stop listening, abort open connections, wait for their tasks."""
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
            await self._serve_protocol(reader, writer)
            writer.close()
        except (OSError, TimeoutError):  # the client has disconnected, or TLS has failed
            writer.transport.abort()
        except BaseException:
            writer.transport.abort()
            raise
        finally:
            self.open.discard(writer.transport)

    async def _serve_protocol(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve HTTP/2 if TLS has negotiated it, or the client begins with its preface; otherwise HTTP/1.1."""
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        received = b"" if tls is not None else await _read_preface(reader)
        is_h2 = received == PREFACE if tls is None else tls.selected_alpn_protocol() == "h2"
        await (Http2Connection if is_h2 else HttpConnection)(self.host, reader, writer).serve(received)


async def _read_preface(reader: asyncio.StreamReader) -> bytes:
    """The first bytes of a client: the preface of HTTP/2, or enough to show that it is not one."""
    received = b""
    while PREFACE.startswith(received) and len(received) < len(PREFACE):
        data = await reader.read(len(PREFACE) - len(received))
        if not data:
            break
        received += data
    return received


async def start(host: Host, port: int) -> HttpService:
    """An HTTP server on `port`."""
    service = HttpService(host, port, None)
    await service.start()
    return service


async def start_tls(
    host: Host, port: int, *, fault: Fault | None = None, versions: Sequence[str] = ("h2", "http/1.1")
) -> HttpService:
    """An HTTPS server on `port`, with a certificate of the lab's authority, or one with a fault."""
    service = HttpService(host, port, server_context(host, versions, fault))
    await service.start()
    return service
