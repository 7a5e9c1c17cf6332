"""A limit on each tenant's connections in conntrack, so that no tenant fills it for all."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.flow.tenant import Tenant
from proxy.kernel import facts

PER_FREE_ENTRY = 64  # connections that a tenant may have for each free entry


class ConntrackLimit:
    """Counts connections from one `refresh` to the next, a few times a second."""

    def __init__(self, tenants: Mapping[str, Tenant]) -> None:
        self._tenants = tenants
        self._room = 0
        self._held: dict[str, int] = dict.fromkeys(tenants, 0)

    def refresh(self) -> None:
        """Read the room in the kernel's table, and the tenants' connections."""
        self._room = facts.conntrack_room()
        for name, tenant in self._tenants.items():
            self._held[name] = tenant.count

    def reserve(self, tenant: Tenant) -> bool:
        """Whether there is room for one more connection of this tenant. If so, it is counted."""
        held = self._held[tenant.name]
        if held >= PER_FREE_ENTRY * self._room:
            return False
        self._held[tenant.name] = held + 1
        self._room -= 1
        return True
