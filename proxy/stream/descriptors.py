"""File descriptors that flows hold. Each tenant can always use its share, however many the others hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from proxy.flow.tenant import Tenant

MAX_EVICTION_CHECKS = 64  # sessions checked for activity per eviction


class Session(Protocol):
    """Something that may be closed when descriptors run out, and reopened when needed."""

    def activity(self) -> int:
        """A counter that grows with all the traffic of the session."""
        ...

    def evict(self) -> None:
        """Close the session and give back its descriptors."""
        ...


class Account:
    """Descriptors and sessions of one tenant."""

    __slots__ = ("held", "sessions")

    def __init__(self) -> None:
        self.held = 0
        self.sessions: OrderedDict[Session, int] = OrderedDict()  # and the last known activity; the longest idle first


class Descriptors:
    """The number of descriptors, and who holds them.

    Half of them is reserved for tenants in equal shares; the other half is first come, first served. When they run out,
    sessions of the tenant that holds most are evicted.
    """

    def __init__(self, limit: int, tenants: Iterable[Tenant] = ()) -> None:
        self.limit = self.free = limit
        self._accounts: dict[Tenant, Account] = {tenant: Account() for tenant in tenants}
        self._share = self._reserved = 0  # the share of each tenant; the total left of all shares
        self._set_shares()

    def take(self, tenant: Tenant, count: int, session: Session | None = None) -> bool:
        """Take `count` more for the tenant; False if it may not. `session` may be evicted when descriptors run out."""
        account = self._accounts.get(tenant) or self._open(tenant)
        while not self._has_room(account, count):
            if (longest_idle := self._longest_idle(account)) is None:
                return False
            before = self.free
            longest_idle.evict()
            if self.free == before:  # an eviction that frees nothing would loop forever
                return False
        self._charge(account, count)
        if session is not None:
            account.sessions[session] = 0
        return True

    def give(self, tenant: Tenant, count: int, session: Session | None = None) -> None:
        """Return `count` descriptors, which are closed."""
        account = self._accounts[tenant]
        self._charge(account, -count)
        if session is not None:
            account.sessions.pop(session, None)

    def held_by(self, tenant: Tenant) -> int:
        account = self._accounts.get(tenant)
        return account.held if account is not None else 0

    def _has_room(self, account: Account, count: int) -> bool:
        """Whether `count` are free besides the unused shares of other tenants."""
        return self.free - self._reserved + max(0, self._share - account.held) >= count

    def _longest_idle(self, own: Account) -> Session | None:
        """The session to evict for the tenant with this account: one of its own, or of a tenant that holds more."""
        candidates = [
            each for each in self._accounts.values() if each.sessions and (each is own or each.held > own.held)
        ]
        if not candidates:
            return None
        sessions = max(candidates, key=lambda account: account.held).sessions
        for _ in range(MAX_EVICTION_CHECKS):
            # A second chance for each that was active since the last check, without reading the clock for each packet.
            session, last_activity = next(iter(sessions.items()))
            activity = session.activity()
            if activity == last_activity:
                return session
            sessions[session] = activity
            sessions.move_to_end(session)
        return next(iter(sessions))

    def _charge(self, account: Account, count: int) -> None:
        before = max(0, self._share - account.held)
        account.held += count
        self._reserved += max(0, self._share - account.held) - before
        self.free -= count

    def _open(self, tenant: Tenant) -> Account:
        account = self._accounts[tenant] = Account()
        self._set_shares()
        return account

    def _set_shares(self) -> None:
        accounts = self._accounts.values()
        self._share = self.limit // (2 * max(1, len(accounts)))
        self._reserved = sum(max(0, self._share - account.held) for account in accounts)
