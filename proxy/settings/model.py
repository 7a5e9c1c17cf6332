"""The structure of `proxy.yaml`: what may be written there, with defaults and units."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from proxy.settings.document import Document, read

Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


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
    prefixes: list[str] = msgspec.field(default_factory=lambda: ["0.0.0.0/0", "::/0"])
    limits: Limits = Limits()


class ConnectedOnRamp(_Part, frozen=True, tag_field="kind", tag="connected"):
    """Tunnels that connect to a Unix SEQPACKET socket and name their tenant in the first datagram."""

    path: str
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o600


OnRamp = ConnectedOnRamp


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
        onramps=[replace(ramp, path=str(base / ramp.path)) for ramp in settings.onramps],
    )


def _check(document: Document, settings: Settings) -> None:
    if not settings.tenants:
        raise document.error("at least one tenant is required", ("tenants",))
    if not settings.onramps:
        raise document.error("at least one on-ramp is required", ("onramps",))
    for name, tenant in settings.tenants.items():
        for index, prefix in enumerate(tenant.prefixes):
            try:
                ipaddress.ip_network(prefix)
            except ValueError as error:
                raise document.error(f"not a prefix: {error}", ("tenants", name, "prefixes", index)) from None
    if settings.hooks is not None and not all(settings.hooks.partition(":")):
        raise document.error(f"expected 'module:Class' (found {settings.hooks!r})", ("hooks",))
