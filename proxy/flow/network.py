"""Virtual networks: what tunnels of one tenant may reach each other, and where their routes and tables stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.flow.tenant import Carrier, Tenant
    from proxy.packet.routes import RouteTable

_ADDRESS_BYTES = {12: 4, 36: 16, 10: 4, 34: 16, 8: 4, 32: 16}  # with ports, with an echo identifier, or without either


class Network:
    """One virtual network of a tenant. The same prefix may exist in several: they share no table."""

    def __init__(self, name: str, tenant: Tenant) -> None:
        self.name, self.tenant = name, tenant
        self.routes: RouteTable | None = None  # None: everything leaves the proxy
        self.exits: dict[int, Carrier] = {}  # into the kernel's forwarding, by bytes of virtio-net header
        self.is_own: Callable[[bytes], bool] = lambda address: False  # an address of the host's
        self.clients: dict[bytes, Carrier] = {}  # connected tunnels, by each address that is theirs alone
        self.sites: dict[str, list[Carrier]] = {}  # a tunnel to each peer, by the site's name

    def __repr__(self) -> str:
        return f"<network {self.name} of {self.tenant.name}>"

    def attach(self, carrier: Carrier) -> None:
        """Let routes lead to a tunnel that is open now."""
        for address in carrier.owned:
            self.clients[address] = carrier
        if carrier.site is not None:
            self.sites.setdefault(carrier.site, []).append(carrier)

    def detach(self, carrier: Carrier) -> None:
        """No route leads to it any more."""
        for address in carrier.owned:
            if self.clients.get(address) is carrier:
                del self.clients[address]
        if carrier in (peers := self.sites.get(carrier.site or "", [])):
            peers.remove(carrier)


def reverse_key(key: bytes) -> bytes:
    """A flow's key as it stands in packets of the opposite direction; an echo identifier is the same in both."""
    half = _ADDRESS_BYTES[len(key)]
    tail = key[2 * half :]
    return key[half : 2 * half] + key[:half] + tail[2:] + tail[:2]
