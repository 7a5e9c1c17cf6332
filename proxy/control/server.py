"""The server of the control API: a Unix socket that only its owner may open, and the connections to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat

from proxy.control.http11 import HttpConnection, HttpError, Request, Response
from proxy.control.routes import Routes
from proxy.control.schema import ProxyView
from proxy.errors import ProxyError

__all__ = ["ControlServer", "ProxyView"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
IDLE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 1.0
_BACKLOG = 64


class ControlServer:
    """Serves one proxy's control API on one socket, from `start` to `stop`."""

    def __init__(
        self,
        view: ProxyView,
        path: str,
        *,
        max_connections: int = MAX_CONNECTIONS,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self._path, self._max_connections, self._idle_timeout_s = path, max_connections, idle_timeout_s
        self._routes = Routes(view)
        self._connections: dict[asyncio.Task[None], HttpConnection] = {}
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Start to listen. The socket file of a dead proxy is replaced. ProxyError: a running one answers there."""
        listener = _bind(self._path)
        try:
            self._inode = _inode(self._path)
            self._server = await asyncio.start_unix_server(self._accept, sock=listener)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Close the socket, end watches, give current answers a second to finish, and disconnect the rest."""
        if self._server is None:
            return
        self._server.close()
        if self._inode == _inode(self._path):  # a successor may have replaced the file
            os.unlink(self._path)
        for watcher in self._routes.watchers:
            watcher.close()
        for task, connection in self._connections.items():
            connection.is_finishing = True
            if not connection.is_busy:
                task.cancel()
        tasks = set(self._connections)
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= 2 * self._max_connections:
            writer.transport.abort()
            return
        if len(self._connections) < self._max_connections:
            connection = HttpConnection(reader, writer, self._handle, self._idle_timeout_s)
        else:
            connection = HttpConnection(reader, writer, self._refuse_busy, min(5, self._idle_timeout_s))
            connection.is_finishing = True
        task = asyncio.create_task(connection.serve())
        self._connections[task] = connection
        task.add_done_callback(self._connection_ended)

    def _connection_ended(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("control: a connection failed", exc_info=error)

    async def _handle(self, request: Request) -> Response:
        try:
            return await self._routes(request)
        except HttpError:
            raise
        except Exception:
            log.exception("control: %s %s failed", request.method, request.path)
            raise HttpError(500, "the proxy failed to answer; its log says why") from None

    async def _refuse_busy(self, request: Request) -> Response:
        raise HttpError(503, f"{self._max_connections} clients are connected already")


def _bind(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            listener.bind(path)
        os.chmod(path, 0o600)  # before listen(): no client can have connected yet
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ProxyError(f"cannot listen on the control socket {path}: {error.strerror or error}") from error
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Delete the socket file of a dead proxy."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise ProxyError(f"cannot listen on the control socket {path}: a file that is not a socket is already there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return os.unlink(path)
        except BlockingIOError:
            pass  # the listen backlog is full, so it is running
    raise ProxyError(f"cannot listen on the control socket {path}: another proxy is listening there")


def _inode(path: str) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        return status.st_dev, status.st_ino
    return None
