"""The control API's paths for SSH: host keys, channels to watch or end, recordings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import IO

import msgspec

from proxy.control.http11 import HttpError
from proxy.control.schema import HostKey, ProxyView, Recording, Screen, SSHView
from proxy.control.ssh_schema import is_channel
from proxy.session.messages import TerminalOutput

CHUNK_BYTES = 64 << 10
MAX_QUEUED = 1_000  # messages; a slower watcher misses some
GRACE_S = 1.0
ENDED = "an administrator has ended it"
_kills: set[asyncio.Task[None]] = set()
_encode = msgspec.json.Encoder().encode


def host_keys(view: ProxyView, tenant: str | None) -> list[HostKey]:
    """The host keys of one tenant or of all."""
    return _ssh(view).host_keys(tenant)


def rotate(view: ProxyView, tenant: str) -> HostKey:
    """Rotate the host key of this tenant, and return the new one. Raises HttpError if it has none."""
    if not _ssh(view).host_keys(tenant):
        raise HttpError(404, f"no tenant '{tenant}' whose SSH sessions are inspected")
    return _ssh(view).rotate(tenant)


def end_session(view: ProxyView, identifier: str, tenant: str | None) -> None:
    """End an open channel, or the session of a flow with all its channels. Raises HttpError if there is none."""
    if not _ssh(view).end_channel(identifier, tenant, ENDED):
        raise HttpError(404, f"no live SSH session has the id {identifier}")
    if not is_channel(identifier):
        task = asyncio.get_running_loop().create_task(_kill_after_grace(view, identifier, tenant))
        _kills.add(task)
        task.add_done_callback(_kills.discard)


async def _kill_after_grace(view: ProxyView, flow_id: str, tenant: str | None) -> None:
    """Cut the session off if it has not ended soon after the message."""
    await asyncio.sleep(GRACE_S)
    await view.kill(flow_id, tenant)


def recordings(view: ProxyView, pairs: list[tuple[str, str]], tenant: str | None) -> list[Recording]:
    """The recordings of the channel or flow that the parameter `id` names."""
    return _ssh(view).recordings(dict(pairs).get("id", ""), tenant)


def recording(view: ProxyView, name: str, tenant: str | None) -> AsyncGenerator[bytes, None]:
    """The file, as far as it has been written. Raises HttpError if there is none."""
    path = _ssh(view).recording(name, tenant)
    if path is None:
        raise HttpError(404, f"no recording {name}")
    try:
        return _chunks(path.open("rb"))
    except OSError as error:
        raise HttpError(500, f"the recording cannot be read: {error.strerror}") from None


async def _chunks(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    with file:
        while data := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield data


class ScreenWatcher:
    """Turns the output of a terminal into lines of JSON (`Screen`), until the channel ends."""

    def __init__(self, view: ProxyView, channel_id: str, tenant: str | None) -> None:
        """Raises HttpError if no live session has such a channel."""
        self._queue: asyncio.Queue[TerminalOutput | None] = asyncio.Queue(MAX_QUEUED)
        self._lost = 0
        unwatch = _ssh(view).watch_channel(channel_id, tenant, self._put)
        if unwatch is None:
            raise HttpError(404, f"no live session has a channel {channel_id}")
        self.unwatch = unwatch

    def close(self) -> None:
        """End the watch because the proxy is stopping."""
        self._put(None)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """One line per message."""
        while (message := await self._queue.get()) is not None:
            screen = Screen(message.events, message.size, message.lost + self._lost, message.is_over)
            self._lost = 0
            yield _encode(screen) + b"\n"
            if message.is_over:
                return

    def _put(self, message: TerminalOutput | None) -> None:
        if self._queue.full():
            dropped = self._queue.get_nowait()
            self._lost += 0 if dropped is None else dropped.lost + sum(len(data) for _, _, data in dropped.events)
        self._queue.put_nowait(message)


def _ssh(view: ProxyView) -> SSHView:
    if view.ssh is None:
        raise HttpError(404, "this proxy does not inspect SSH sessions")
    return view.ssh
