"""Hosts that are passed uninspected for a while, as earlier sessions have shown that inspecting them fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from proxy.session.messages import HostException

log = logging.getLogger(__name__)

MAX_EXCEPTIONS = 4_096  # of one tenant; the oldest give way

Key = tuple[str, str]  # host, address of the client or empty


class HostExceptions:
    """Those of all tenants. Every inspector has a copy."""

    def __init__(self, broadcast: Callable[[HostException], None]) -> None:
        """`broadcast` sends a message to all inspectors."""
        self._broadcast = broadcast
        self._found: dict[str, dict[Key, tuple[str, float]]] = {}  # by tenant

    def add(self, tenant: str, found: HostException, lasts_s: float, now: float) -> None:
        """Pass the host, for its client or all, for this time. It is not prolonged if found again."""
        exceptions, key = self._found.setdefault(tenant, {}), (found.host, found.client)
        if key in exceptions:
            return
        of = f" of {found.client}" if found.client else ""
        log.warning("tenant '%s': sessions%s with %s are not inspected for %.0f s: %s",
                    tenant, of, found.host, lasts_s, found.why)  # fmt: skip
        exceptions[key] = found.why, now + lasts_s
        self._broadcast(_message(tenant, key, found.why))
        if len(exceptions) > MAX_EXCEPTIONS:
            self._forget(tenant, next(iter(exceptions)))

    def expire(self, now: float) -> None:
        """Forget those whose time is over."""
        for tenant, exceptions in self._found.items():
            for key in [key for key, (_, until) in exceptions.items() if until <= now]:
                self._forget(tenant, key)

    def __iter__(self) -> Iterator[HostException]:
        """What a new inspector has to know."""
        for tenant, exceptions in self._found.items():
            for key, (why, _) in exceptions.items():
                yield _message(tenant, key, why)

    def _forget(self, tenant: str, key: Key) -> None:
        why, _ = self._found[tenant].pop(key)
        self._broadcast(_message(tenant, key, why, is_over=True))


def _message(tenant: str, key: Key, why: str, *, is_over: bool = False) -> HostException:
    host, client = key
    return HostException(0, host, why, client, tenant, is_over)
