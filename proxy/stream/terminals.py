"""Watchers of SSH channels' terminals: one request per channel to the inspector, however many watch it."""

from __future__ import annotations

from collections.abc import Callable

from proxy.session.channel import Channel
from proxy.session.messages import TerminalOutput, WatchChannel

Watch = Callable[[TerminalOutput], None]


class Terminals:
    """The watchers of all channels. A new one sees output from then on."""

    def __init__(self) -> None:
        self._watches: dict[tuple[int, str], list[Watch]] = {}
        self._sizes: dict[tuple[int, str], tuple[int, int]] = {}

    def watch(self, session: int, inspector: Channel, channel: str, watch: Watch) -> Callable[[], None]:
        """Call `watch` with what the terminal shows, until it ends or the returned function is called."""
        key = session, channel
        watches = self._watches.setdefault(key, [])
        watches.append(watch)
        if len(watches) == 1:
            inspector.send(WatchChannel(session, channel, is_wanted=True))
        elif key in self._sizes:
            watch(TerminalOutput(session, channel, size=self._sizes[key]))

        def unwatch() -> None:
            if watch in watches:
                watches.remove(watch)
                if not watches and self._watches.pop(key, None) is not None:
                    self._sizes.pop(key, None)
                    inspector.send(WatchChannel(session, channel, is_wanted=False))

        return unwatch

    def shown(self, message: TerminalOutput) -> None:
        """Pass terminal output from an inspector to the watchers."""
        key = message.session, message.channel
        if message.size is not None and key in self._watches:
            self._sizes[key] = message.size
        for watch in [*self._watches.get(key, ())]:
            watch(message)
        if message.is_over:
            self._forget(key)

    def ended(self, session: int) -> None:
        """End the watches of a session that has ended."""
        if not self._watches:
            return
        for key in [key for key in self._watches if key[0] == session]:
            self.shown(TerminalOutput(*key, is_over=True))

    def _forget(self, key: tuple[int, str]) -> None:
        self._watches.pop(key, None)
        self._sizes.pop(key, None)
