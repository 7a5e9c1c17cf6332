"""File descriptors that flows hold: each tenant can always use its share, whatever the others hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from proxy.flow.tenant import Tenant

LOOKS = 64  # sessions that are asked whether they moved, for each one that goes


class Session(Protocol):
    """Something that may be closed when descriptors are scarce, and is reopened when needed."""

    def activity(self) -> int:
        """A counter that grows with everything that the session moves."""
        ...

    def evict(self) -> None:
        """Close the session and return its descriptors."""
        ...


class Account:
    """What one tenant holds."""

    __slots__ = ("held", "sessions")

    def __init__(self) -> None:
        self.held = 0
        self.sessions: OrderedDict[Session, int] = OrderedDict()  # with what each had moved; the longest idle first


class Descriptors:
    """How many descriptors there are, and who holds them.

    Half of them is reserved for tenants in equal shares; the other half is first come, first served.
    When they run out they are taken from the sessions of the tenant that holds most.
    """

    def __init__(self, limit: int, tenants: Iterable[Tenant] = ()) -> None:
        self.limit = self.free = limit
        self._accounts: dict[Tenant, Account] = {tenant: Account() for tenant in tenants}
        self._share = self._unused = 0  # of each tenant; what is left of all shares
        self._divide()

    def take(self, tenant: Tenant, count: int, session: Session | None = None) -> bool:
        """Take `count` more for the tenant, if it may have them. `session` gives them up when they run out."""
        account = self._accounts.get(tenant) or self._open(tenant)
        while not self._has_room(account, count):
            if (longest_idle := self._longest_idle(account)) is None:
                return False
            before = self.free
            longest_idle.evict()
            if self.free == before:  # otherwise this would never end
                return False
        self._move(account, count)
        if session is not None:
            account.sessions[session] = 0
        return True

    def give(self, tenant: Tenant, count: int, session: Session | None = None) -> None:
        """They are closed."""
        account = self._accounts[tenant]
        self._move(account, -count)
        if session is not None:
            account.sessions.pop(session, None)

    def held_by(self, tenant: Tenant) -> int:
        account = self._accounts.get(tenant)
        return account.held if account is not None else 0

    def _has_room(self, account: Account, count: int) -> bool:
        """Whether that many are free besides the unused shares of other tenants."""
        return self.free - self._unused + max(0, self._share - account.held) >= count

    def _longest_idle(self, own: Account) -> Session | None:
        """The session to close for the tenant with this account: one of its own, or of a tenant that holds more."""
        richer = [each for each in self._accounts.values() if each.sessions and (each is own or each.held > own.held)]
        if not richer:
            return None
        sessions = max(richer, key=lambda account: account.held).sessions
        for _ in range(LOOKS):  # a second chance for each that moved since it was looked at: no clock for each packet
            session, seen = next(iter(sessions.items()))
            moved = session.activity()
            if moved == seen:
                return session
            sessions[session] = moved
            sessions.move_to_end(session)
        return next(iter(sessions))

    def _move(self, account: Account, count: int) -> None:
        before = max(0, self._share - account.held)
        account.held += count
        self._unused += max(0, self._share - account.held) - before
        self.free -= count

    def _open(self, tenant: Tenant) -> Account:
        account = self._accounts[tenant] = Account()
        self._divide()
        return account

    def _divide(self) -> None:
        accounts = self._accounts.values()
        self._share = self.limit // (2 * max(1, len(accounts)))
        self._unused = sum(max(0, self._share - account.held) for account in accounts)
