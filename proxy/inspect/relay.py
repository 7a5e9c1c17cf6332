"""Relays bytes between two streams unread: contents of terminated TLS for which there is no reader."""

from __future__ import annotations

from proxy.inspect.stream import SessionView, Side, Stream

HIGH_WATER = 256 << 10  # bytes queued for one side above which the other is paused


class Relay:
    """A handler that forwards everything: bytes, FINs and resets."""

    def __init__(self, view: SessionView) -> None:
        assert view.origin is not None
        self._view = view
        self._streams: dict[Side, Stream] = {Side.CLIENT: view.client, Side.ORIGIN: view.origin}
        self._ended: list[Side] = []

    def start(self) -> None:
        for stream in self._streams.values():
            stream.resume()

    def received(self, side: Side, data: bytes) -> None:
        peer = self._streams[other(side)]
        peer.write(data)
        if peer.queued > HIGH_WATER:
            self._streams[side].pause()

    def ended(self, side: Side) -> None:
        self._ended.append(side)
        self._streams[other(side)].end()
        if len(self._ended) == 2:
            self._finish(self._ended[0])

    def broken(self, side: Side, error: OSError) -> None:
        if side in self._ended:  # this side had sent its end, and expects no answer
            self._streams[other(side)].end()
            self._finish(side)
            return
        self._streams[other(side)].abort()
        if side is Side.CLIENT:
            self._view.finish("client_reset", "client")
        else:
            self._view.finish("origin_reset", "origin")

    def _finish(self, first: Side) -> None:
        if first is Side.CLIENT:
            self._view.finish("client_closed", "client")
        else:
            self._view.finish("origin_closed", "origin")

    def drained(self, side: Side) -> None:
        self._streams[other(side)].resume()

    def expired(self, now: float) -> None:
        """Never called: it sets no timer."""

    def drain(self) -> None:
        """Nothing to do: an unknown protocol has no polite end."""


def other(side: Side) -> Side:
    """The opposite side."""
    return Side.ORIGIN if side is Side.CLIENT else Side.CLIENT
