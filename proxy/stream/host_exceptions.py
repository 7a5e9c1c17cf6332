"""Hosts that are passed uninspected for a while, as earlier sessions have shown that inspecting them fails."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator

from proxy.session.messages import HostException

log = logging.getLogger(__name__)

MAX_EXCEPTIONS = 4_096  # of all tenants; the oldest give way

Key = tuple[str, str, str]  # tenant, host, address of the client or empty


class HostExceptions:
    """Those of all tenants. Every inspector has a copy."""

    def __init__(self, broadcast: Callable[[HostException], None]) -> None:
        """`broadcast` sends a message to all inspectors."""
        self._broadcast = broadcast
        self._found: dict[Key, tuple[str, float]] = {}

    def add(self, tenant: str, found: HostException, lasts_s: float, now: float) -> None:
        """Pass the host, for its client or all, for this time. It is not prolonged if found again."""
        key = tenant, found.host, found.client
        if key in self._found:
            return
        of = f" of {found.client}" if found.client else ""
        log.warning("tenant '%s': sessions%s with %s are not inspected for %.0f s: %s",
                    tenant, of, found.host, lasts_s, found.why)  # fmt: skip
        self._found[key] = found.why, now + lasts_s
        self._broadcast(_message(key, found.why))
        if len(self._found) > MAX_EXCEPTIONS:
            self._forget(next(iter(self._found)))

    def expire(self, now: float) -> None:
        """Forget those whose time is over."""
        for key, (_, until) in list(self._found.items()):
            if until <= now:
                self._forget(key)

    def __iter__(self) -> Iterator[HostException]:
        """What a new inspector has to know."""
        return itertools.starmap(_message, [(key, why) for key, (why, _) in self._found.items()])

    def _forget(self, key: Key) -> None:
        why, _ = self._found.pop(key)
        self._broadcast(_message(key, why, is_over=True))


def _message(key: Key, why: str, *, is_over: bool = False) -> HostException:
    tenant, host, client = key
    return HostException(0, host, why, client, tenant, is_over)
