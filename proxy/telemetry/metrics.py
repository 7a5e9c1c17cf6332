"""The status of a proxy as Prometheus text (0.0.4). All labels, such as tenant or reason, are bounded in number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from proxy.control.schema import Status, TunnelInfo
from proxy.telemetry.end_drops import EndDrops

Kind = Literal["counter", "gauge"]
Sample = tuple[Mapping[str, str], float]

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_TRAFFIC = {
    "client_packets": "IP packets that came from the tenant's tunnels.",
    "client_bytes": "Bytes of IP packets that came from the tenant's tunnels.",
    "origin_packets": "IP packets sent into the tenant's tunnels.",
    "origin_bytes": "Bytes of IP packets sent into the tenant's tunnels.",
}


_HEALTH = {"healthy": 0, "degraded": 1, "down": 2}


def render(status: Status, tunnels: Iterable[TunnelInfo] = (), end_drops: EndDrops | None = None) -> str:
    """The whole exposition, families in a fixed order. A drop without a tenant has an empty tenant label."""
    return "".join(
        [
            _family(
                "oxy_start_time_seconds",
                "gauge",
                "When the proxy started, in Unix time.",
                _value(status.started / 1e9),
            ),
            _family("oxy_draining", "gauge", "1 while the proxy drains.", _value(int(status.state == "draining"))),
            _family("oxy_tunnels", "gauge", "Open tunnels.", _by_tenant(status, "tunnels")),
            _family("oxy_flows", "gauge", "Live flows.", _by(status, "flows", "protocol")),
            _family("oxy_flows_started_total", "counter", "Flows started.", _by(status, "flows_started", "protocol")),
            _family(
                "oxy_flows_ended_total", "counter", "Flows ended, by reason.", _by(status, "flows_ended", "reason")
            ),
            *(
                _family(f"oxy_{field}_total", "counter", text, _by_tenant(status, field))
                for field, text in _TRAFFIC.items()
            ),
            _family("oxy_drops_total", "counter", "Packets dropped, by reason.", _drops(status)),
            *_health(tunnels),
            *_end_drops(end_drops or {}),
            _family("oxy_kernel_total", "counter", "Counters of the private namespace.", _kernel(status)),
            *_offramp(status),
            _family("oxy_inspector_sessions", "gauge", "Sessions that inspectors read.", _inspected(status)),
            _family("oxy_inspectors_died_total", "counter", "Inspectors that died.", _value(status.inspectors_died)),
            _family("oxy_records_stored", "gauge", "Records in the flow log.", _value(status.records.stored)),
            _family(
                "oxy_records_lost_total", "counter", "Records that could not be stored.", _value(status.records.lost)
            ),
            _family(
                "oxy_audit_lost_total",
                "counter",
                "Records missing in the audit log.",
                _value(status.records.audit_lost),
            ),
            _family(
                "oxy_spans_lost_total", "counter", "Spans that could not be sent.", _value(status.records.spans_lost)
            ),
        ]
    )


def _inspected(status: Status) -> Iterator[Sample]:
    for each in status.inspectors:
        yield {"inspector": str(each.number)}, each.sessions


def _family(name: str, kind: Kind, text: str, samples: Iterator[Sample]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{_labels(labels)} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _value(value: float) -> Iterator[Sample]:
    yield {}, value


def _by_tenant(status: Status, field: str) -> Iterator[Sample]:
    for tenant, counters in status.tenants.items():
        yield {"tenant": tenant}, getattr(counters, field)


def _by(status: Status, field: str, label: str) -> Iterator[Sample]:
    for tenant, counters in status.tenants.items():
        for value, count in getattr(counters, field).items():
            yield {"tenant": tenant, label: value}, count


def _drops(status: Status) -> Iterator[Sample]:
    yield from _by(status, "drops", "reason")
    for reason, total in status.drops.items():
        if rest := total - sum(tenant.drops.get(reason, 0) for tenant in status.tenants.values()):
            yield {"tenant": "", "reason": reason}, rest


def _health(tunnels: Iterable[TunnelInfo]) -> Iterator[str]:
    """Families of probed tunnels, by site and peer: these are configured, so their number is bounded."""
    probed = [({"tenant": t.tenant, "tunnel": t.id}, t) for t in tunnels if t.health is not None]
    if not probed:
        return
    texts = {
        "oxy_tunnel_health": "Health of a tunnel: 0 healthy, 1 degraded, 2 down.",
        "oxy_tunnel_rtt_seconds": "Round trip of the last probe that was answered.",
    }
    yield _family(
        "oxy_tunnel_health", "gauge", texts["oxy_tunnel_health"], ((own, _HEALTH[t.health or ""]) for own, t in probed)
    )
    yield _family(
        "oxy_tunnel_rtt_seconds",
        "gauge",
        texts["oxy_tunnel_rtt_seconds"],
        ((own, t.rtt_ms / 1e3) for own, t in probed if t.rtt_ms is not None),
    )
    samples = (
        ({**own, "result": result}, count)
        for own, t in probed
        for result, count in (("answered", t.probes_answered), ("lost", t.probes_lost))
    )
    yield _family("oxy_tunnel_probes_total", "counter", "Probes sent through a tunnel, by outcome.", samples)


def _end_drops(drops: EndDrops) -> Iterator[str]:
    """The family of tunnel ends carried by other programs, if there are any."""
    if drops:
        names = "tenant", "tunnel", "end", "reason"
        samples = ((dict(zip(names, key, strict=True)), count) for key, count in sorted(drops.items()))
        text = "Packets that an end of a tunnel carried by another program dropped, by reason."
        yield _family("oxy_tunnel_end_drops_total", "counter", text, samples)


def _offramp(status: Status) -> Iterator[str]:
    """Families of the kernel off-ramp, if it is in use."""
    own = status.kernel_offramp
    if own.state != "kernel":
        return
    text = "Connections in conntrack's table, of the whole network namespace."
    yield _family("oxy_conntrack_entries", "gauge", text, _value(own.conntrack_entries))
    yield _family("oxy_conntrack_max", "gauge", "Connections that conntrack has room for.", _value(own.conntrack_max))
    text = "Times that the nftables table was restored after another program had changed it."
    yield _family("oxy_kernel_table_repairs_total", "counter", text, _value(own.repairs))
    text = "Times that the kernel reported flows faster than the proxy read, so that reports were lost."
    yield _family("oxy_kernel_lost_total", "counter", text, _value(own.lost))


def _kernel(status: Status) -> Iterator[Sample]:
    for name, count in status.kernel.items():
        yield {"reason": name}, count
