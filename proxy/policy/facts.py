"""The facts by which rules judge: of a live flow, read on demand, or of a hypothetical one."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from proxy.context import TunnelContext, group_names
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.policy.fields import FIELDS, WEEKDAYS, domains
from proxy.policy.language import Facts, Field, Kind
from proxy.policy.model import FlowText
from proxy.policy.phases import Phase
from proxy.settings import suggest
from proxy.settings.parts import DEFAULT_NETWORK, endpoint


def tunnel_facts(
    context: TunnelContext, onramp: str, now: float, *, site: str | None = None, tunnel: str | None = None
) -> Facts:
    """Facts about a tunnel that is to be opened. `now`: Unix seconds; a prefix is represented by its first address."""
    addresses = (ipaddress.ip_network(each, strict=False).network_address for each in context.addresses)
    return ImaginedFacts(
        {
            "time.unix": now,
            "tenant": context.tenant,
            "net.vnet_id": context.network or DEFAULT_NETWORK,
            "net.onramp": onramp,
            "net.site": site,
            "net.tunnel": tunnel,
            "identity.user": context.user,
            "identity.email": _email(context.user),
            "identity.groups[*].name": group_names(context),
            "identity.groups[*].id": _group_ids(context),
            "device.name": context.device,
            "device_posture.checks.passed": _posture(context, "passed"),
            "device_posture.checks.failed": _posture(context, "failed"),
            "tunnel.addresses": tuple(each.packed for each in addresses),
        }
    )


class FlowFacts(Facts):
    """Facts of a live flow. Each is read from it once, when a rule uses it."""

    __slots__ = ("_flow",)

    def __init__(self, flow: Flow, now: float) -> None:
        """`now`: Unix seconds."""
        carrier = flow.carrier
        super().__init__(
            {
                "net.src.ip": flow.source,
                "net.dst.ip": flow.destination,
                "net.dst.port": flow.destination_port,
                "net.protocol": flow.protocol,
                "identity.user": carrier.user,
                "time.unix": now,
            }
        )
        self._flow = flow

    def __missing__(self, key: str) -> Any:
        read = _READERS.get(key)
        value = self[key] = _time_field(key, self["time.unix"]) if read is None else read(self._flow)
        return value

    def all(self, phase: Phase) -> dict[str, Any]:
        """All facts for a phase, as plain data for another process."""
        return {field.name: value for field in FIELDS[phase] if (value := self[field.name]) is not None}


def _email(user: str | None) -> str | None:
    return user if user is not None and "@" in user else None


def _context(flow: Flow) -> TunnelContext | None:
    """The context of the flow's tunnel; None for on-ramps without contexts."""
    return getattr(flow.carrier, "context", None)


def _group_ids(context: TunnelContext | None) -> tuple[str, ...]:
    groups = () if context is None else context.groups
    return tuple(each.id for each in groups if not isinstance(each, str) and each.id is not None)


def _posture(context: TunnelContext | None, which: Literal["passed", "failed"]) -> tuple[str, ...]:
    return () if context is None or context.posture is None else tuple(getattr(context.posture, which))


_READERS: dict[str, Callable[[Flow], Any]] = {
    "tenant": lambda flow: flow.tenant.name,
    "net.vnet_id": lambda flow: flow.carrier.network.name,
    "net.onramp": lambda flow: flow.onramp,
    "net.site": lambda flow: flow.carrier.site,
    "net.tunnel": lambda flow: flow.carrier.id,
    "identity.email": lambda flow: _email(flow.carrier.user),
    "identity.groups[*].name": lambda flow: group_names(_context(flow)),
    "identity.groups[*].id": lambda flow: _group_ids(_context(flow)),
    "device.name": lambda flow: flow.carrier.device,
    "device_posture.checks.passed": lambda flow: _posture(_context(flow), "passed"),
    "device_posture.checks.failed": lambda flow: _posture(_context(flow), "failed"),
    "net.src.port": lambda flow: flow.source_port,
    "net.route": lambda flow: flow.route,
    "net.dst.host": lambda flow: flow.dst_host,
    "net.offramp": lambda flow: flow.offramp,
}


def _time_field(key: str, unix: float) -> Any:
    """The value of a `time.…` field at that time; None for other fields."""
    if key == "time.hour":
        return int(unix // 3600 % 24)
    if key == "time.weekday":
        return WEEKDAYS[int(unix // 86_400 + 3) % 7]  # 1970 began on a Thursday
    return None


class ImaginedFacts(Facts):
    """Facts of a hypothetical flow."""

    __slots__ = ()

    def __missing__(self, key: str) -> Any:
        return _time_field(key, self["time.unix"]) if key != "time.unix" and "time.unix" in self else None


def imagine(description: FlowText, phase: Phase, now: float) -> ImaginedFacts:
    """The facts that `description` describes. ValueError (the fault, the key)."""
    if description.protocol not in PROTOCOL_NUMBERS:
        raise ValueError(
            f"unknown protocol '{description.protocol}'{suggest(description.protocol, PROTOCOL_NUMBERS)}", "protocol"
        )
    if description.port is not None and not 0 <= description.port < 65_536:
        raise ValueError(f"expected a port, 0 to 65535 (found {description.port})", "port")
    facts = ImaginedFacts({"time.unix": _unix_time(description, now), "net.protocol": description.protocol})
    facts.update(
        {
            "tenant": description.tenant,
            "net.vnet_id": description.network or "default",
            "net.onramp": description.onramp,
            "net.site": description.site,
            "identity.user": description.user,
            "identity.email": _email(description.user),
            "identity.groups[*].name": tuple(description.groups),
            "device.name": description.device,
            "device_posture.checks.passed": tuple(description.posture),
        }
    )
    for key, text in (("src", description.src), ("dst", description.dst)):
        if text is not None:
            address, port = _address(key, text)
            facts[f"net.{key}.ip"] = address
            facts[f"net.{key}.port"] = port
    if description.port is not None:
        facts["net.dst.port"] = description.port
    if description.host is not None:
        host = description.host.lower()
        facts.update(dict.fromkeys(("net.dst.host", "net.sni.host", "http.request.host", "dns.fqdn"), host))
        facts.update(dict.fromkeys(("net.sni.domains", "http.request.domains", "dns.domains"), domains(host)))
    for name, value in description.facts.items():
        known = FIELDS[phase].by_name
        if name not in known:
            raise ValueError(f"unknown field '{name}'{suggest(name, known)}", "facts")
        facts[name] = _value(known[name], value)
    return facts


def checked_facts(phase: Phase, facts: Mapping[str, Any]) -> Facts:
    """Facts from plain data, in which addresses may be text, and arrays lists."""
    known = FIELDS[phase].by_name
    return ImaginedFacts(
        {field.name: _value(field, value) for name, value in facts.items() if (field := known.get(name)) is not None}
    )


def _value(field: Field, value: Any) -> Any:
    if value is None or (field.is_map and isinstance(value, Mapping)):
        return value
    values = [value] if isinstance(value, str | bytes | int | float) else value
    message = f"expected {field.described} for {field.name} (found {value!r})"
    if not isinstance(values, list | tuple) or (not field.is_array and len(values) != 1):
        raise ValueError(message, "facts")
    if field.kind is Kind.ADDRESS:
        try:
            values = [each if isinstance(each, bytes) else ipaddress.ip_address(each).packed for each in values]
        except ValueError:
            raise ValueError(message, "facts") from None
    wanted = {Kind.ADDRESS: bytes, Kind.TEXT: str, Kind.NUMBER: (int, float), Kind.FLAG: bool}[field.kind]
    if not all(isinstance(each, wanted) for each in values):  # type: ignore[arg-type]
        raise ValueError(message, "facts")
    return tuple(values) if field.is_array else values[0]


def _address(key: str, text: str) -> tuple[bytes, int | None]:
    try:
        return ipaddress.ip_address(text).packed, None
    except ValueError:
        pass
    try:
        address, port = endpoint(text)
    except ValueError:
        raise ValueError(f"{key}: expected an address or address:port (found '{text}')", key) from None
    return address.packed, port


def _unix_time(description: FlowText, now: float) -> float:
    if description.time is None:
        return now
    try:
        moment = datetime.fromisoformat(description.time)
    except ValueError:
        raise ValueError(
            f"time: expected ISO 8601, such as 2026-11-28T09:30 (found '{description.time}')", "time"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
