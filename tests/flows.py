"""Tenants and flows for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.device.memory import MemoryTunnel
from proxy.flow.flow import Flow
from proxy.flow.tenant import Tenant
from proxy.settings.model import Limits, TenantSettings
from proxy.settings.sites import NetworkSettings
from tests.packets import CLIENT, ORIGIN, pack


def make_tenant(name: str = "acme", *, id: int | None = None, networks: tuple[str, ...] = (), **limits: Any) -> Tenant:
    return Tenant(
        name, TenantSettings(id=id, limits=Limits(**limits), networks={each: NetworkSettings() for each in networks})
    )


def make_tunnel(
    tenant: Tenant | None = None, *, addresses: Iterable[str] = tuple(CLIENT.values()), **options: Any
) -> MemoryTunnel:
    return MemoryTunnel(tenant or make_tenant(), addresses, **options)


def make_flow(
    tenant: Tenant | None = None,
    *,
    version: int = 4,
    protocol: Any = "tcp",
    source_port: int = 40_000,
    destination_port: int = 80,
    carrier: MemoryTunnel | None = None,
    now: float = 0.0,
    now_ns: int = 1_000_000,
) -> Flow:
    tenant = tenant or make_tenant()
    source, destination = pack(CLIENT[version]), pack(ORIGIN[version])
    key = source + destination + source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    carrier = carrier or make_tunnel(tenant)
    return Flow("f0", tenant, carrier, protocol, key, source, source_port, destination, destination_port, now, now_ns)
