"""The structure of `proxy.yaml`: what may be written there, with defaults and units."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from proxy.settings.document import Document, Place, read, suggest

Seconds = Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)]  # ten years: infinity is a mistake
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


EVERYWHERE = ("0.0.0.0/0", "::/0")


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A mapping with known keys only."""


class Limits(_Part, frozen=True):
    """What one tenant may hold at once."""

    flows: Count = 20_000
    new_flows_per_s: Count = 5_000
    tunnels: Count = 1_000
    bytes_held: Count = 64 << 20  # queued for its tunnels and waiting for reassembly


class TenantSettings(_Part, frozen=True):
    """One customer. Without `token` any token is accepted: for labs, and sockets that only the right people reach."""

    token: str | None = None
    # what its tunnels may claim as their own addresses
    prefixes: list[str] = msgspec.field(default_factory=lambda: list(EVERYWHERE))
    limits: Limits = Limits()
    # the interface that its sockets leave by, whatever the routes say: tenants may have origins of the same address
    egress: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$")] | None = None


class ConnectedOnRamp(_Part, frozen=True, tag_field="kind", tag="connected"):
    """Tunnels that connect to a Unix SEQPACKET socket and name their tenant in the first datagram."""

    path: str
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o600


class TunOnRamp(_Part, frozen=True, tag_field="kind", tag="tun"):
    """A TUN device that the proxy opens: whatever is routed into it belongs to one tenant."""

    device: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]
    tenant: Name
    addresses: list[str] = []  # of the device, with prefix lengths
    sources: list[str] = msgspec.field(default_factory=lambda: list(EVERYWHERE))  # who may send through it
    mtu: Annotated[int, Meta(ge=1280, le=65_535)] = 1500
    offload: bool = True
    user: str | None = None


OnRamp = ConnectedOnRamp | TunOnRamp


class Timeouts(_Part, frozen=True):
    """TCP follows public services (connect 30 s, idle 8 h); UDP follows RFC 4787 REQ-5 and conntrack."""

    context_s: Seconds = 5
    connect_s: Seconds = 30
    tcp_idle_s: Seconds = 8 * 3600
    tcp_half_closed_s: Seconds = 3600
    udp_unreplied_s: Seconds = 30
    udp_idle_s: Seconds = 120
    dns_idle_s: Seconds = 10
    icmp_idle_s: Seconds = 30
    fragments_s: Seconds = 15


class Records(_Part, frozen=True):
    """Where ended flows are kept, and for how long."""

    path: str = "flows.db"
    max_age_s: Seconds = 7 * 86_400
    max_rows: Count = 1_000_000
    update_every_s: Seconds = 30


class Bridge(_Part, frozen=True):
    """The private namespace in which the kernel's TCP serves us."""

    mtu: Annotated[int, Meta(ge=1280, le=65_535)] = 1500
    backlog: Count = 4096


class Settings(_Part, frozen=True):
    """Everything that `python -m proxy proxy.yaml` needs to know. Relative paths are relative to the file."""

    tenants: dict[Name, TenantSettings]
    onramps: list[OnRamp]
    node: str | None = None  # the name in records; the host's by default
    control: str = "control.sock"
    hooks: str | None = None  # "module:Class" of a proxy.hooks.Hooks
    timeouts: Timeouts = Timeouts()
    records: Records = Records()
    bridge: Bridge = Bridge()


def load(path: str | Path) -> Settings:
    """The settings in the file `path`, paths made absolute; DocumentError with file, line and column of a mistake."""
    document = read(path)
    settings = document.convert(Settings)
    _check(document, settings)
    base = Path(path).resolve().parent
    replace = msgspec.structs.replace
    return replace(
        settings,
        control=str(base / settings.control),
        records=replace(settings.records, path=str(base / settings.records.path)),
        onramps=[
            replace(ramp, path=str(base / ramp.path)) if isinstance(ramp, ConnectedOnRamp) else ramp
            for ramp in settings.onramps
        ],
    )


def _check(document: Document, settings: Settings) -> None:
    if not settings.tenants:
        raise document.error("at least one tenant is required", ("tenants",))
    if not settings.onramps:
        raise document.error("at least one on-ramp is required", ("onramps",))
    for name, tenant in settings.tenants.items():
        for index, prefix in enumerate(tenant.prefixes):
            _check_prefix(document, prefix, ("tenants", name, "prefixes", index))
    for number, ramp in enumerate(settings.onramps):
        if isinstance(ramp, TunOnRamp):
            _check_tun(document, settings, ramp, ("onramps", number))
    if settings.hooks is not None and not all(settings.hooks.partition(":")):
        raise document.error(f"expected 'module:Class' (found {settings.hooks!r})", ("hooks",))


def _check_tun(document: Document, settings: Settings, ramp: TunOnRamp, place: Place) -> None:
    if ramp.tenant not in settings.tenants:
        message = f"unknown tenant '{ramp.tenant}'{suggest(ramp.tenant, settings.tenants)}"
        raise document.error(message, (*place, "tenant"))
    for index, prefix in enumerate(ramp.sources):
        _check_prefix(document, prefix, (*place, "sources", index))
    for index, address in enumerate(ramp.addresses):
        try:
            ipaddress.ip_interface(address)
        except ValueError as error:
            raise document.error(
                f"not an address with its prefix length: {error}", (*place, "addresses", index)
            ) from None


def _check_prefix(document: Document, prefix: str, place: Place) -> None:
    try:
        ipaddress.ip_network(prefix)
    except ValueError as error:
        raise document.error(f"not a prefix: {error}", place) from None
