"""The fields that rules of each phase may use."""

from __future__ import annotations

from proxy.flow.flow import PROTOCOL_NUMBERS
from proxy.policy.language import Field, Fields, Kind
from proxy.policy.phases import Phase

TEXT, NUMBER, ADDRESS, FLAG = Kind.TEXT, Kind.NUMBER, Kind.ADDRESS, Kind.FLAG
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_WHO = (
    Field("tenant", TEXT, "the tenant's name"),
    Field("net.vnet_id", TEXT, "the virtual network"),
    Field("net.onramp", TEXT, "the kind of on-ramp: connected, gue, tun, interface, ..."),
    Field("net.site", TEXT, "the site whose tunnel it is"),
    Field("net.tunnel", TEXT, "the tunnel's name"),
    Field("identity.user", TEXT, "the user, as the tunnel's context names it"),
    Field("identity.email", TEXT, "the same, where it is an e-mail address"),
    Field("identity.groups[*].name", TEXT, "the user's groups", is_array=True),
    Field("identity.groups[*].id", TEXT, "their identifiers", is_array=True),
    Field("device.name", TEXT, "the device, as the tunnel's context names it"),
    Field("device_posture.checks.passed", TEXT, "checks that the device has passed", is_array=True),
    Field("device_posture.checks.failed", TEXT, "checks that it has failed", is_array=True),
    Field("time.unix", NUMBER, "seconds since 1970"),
    Field("time.hour", NUMBER, "0 to 23, UTC"),
    Field("time.weekday", TEXT, "UTC", choices=WEEKDAYS),
)
_TUNNEL = (Field("tunnel.addresses", ADDRESS, "what the tunnel claims as its own", is_array=True),)
_NET = (
    Field("net.src.ip", ADDRESS, "the client"),
    Field("net.src.port", NUMBER, "its port; of an echo request the identifier"),
    Field("net.dst.ip", ADDRESS, "what the client asked for"),
    Field("net.dst.port", NUMBER, "its port"),
    Field("net.protocol", TEXT, "of the IP packet", choices=tuple(PROTOCOL_NUMBERS)),
    Field("net.dst.host", TEXT, "the destination's name, when it is known"),
    Field("net.route", TEXT, "the route that leads there, as records name it"),
)
_EGRESS = (Field("net.offramp", TEXT, "where it would leave: tunnel, kernel, socket"),)
_DNS = (
    Field("dns.fqdn", TEXT, "the name that is asked for, in lower case, without its last dot"),
    Field("dns.domains", TEXT, "that name and every name above it", is_array=True),
    Field("dns.query_rtype", TEXT, "A, AAAA, HTTPS, ..."),
    Field("dns.src_ip", ADDRESS, "who asks"),
    Field("dns.resolved_ips", ADDRESS, "the answer's addresses", is_array=True),
)
_TLS = (
    Field("net.sni.host", TEXT, "the server name of the ClientHello"),
    Field("net.sni.domains", TEXT, "that name and every name above it", is_array=True),
    Field("net.protocol.detection", TEXT, "what the first bytes look like: tls, http, ssh, ..."),
    Field("tls.version", TEXT, "the highest version that the client offers"),
    Field("tls.alpn", TEXT, "what the client offers", is_array=True),
    Field("tls.ja4", TEXT, "the fingerprint of the ClientHello"),
)
_SSH = (
    Field("ssh.user", TEXT, "the user name at the server"),
    Field("ssh.principal", TEXT, "who has proved to be there"),
    Field("ssh.channel", TEXT, "shell, exec, sftp, subsystem, direct-tcpip, tcpip-forward, ..."),
    Field("ssh.command", TEXT, "of an exec channel"),
    Field("ssh.subsystem", TEXT, "of a subsystem channel: sftp, netconf, ..."),
    Field("ssh.forward.host", TEXT, "where a forwarding leads"),
    Field("ssh.forward.port", NUMBER, "its port"),
    Field("ssh.reason", TEXT, "why the session is wanted, in the user's words"),
)
_HTTP = (
    Field("http.request.host", TEXT, "in lower case, without the port"),
    Field("http.request.domains", TEXT, "that name and every name above it", is_array=True),
    Field("http.request.uri", TEXT, "path and query"),
    Field("http.request.uri.path", TEXT, "the path alone"),
    Field("http.request.uri.query", TEXT, "what follows the question mark"),
    Field("http.request.method", TEXT, "GET, POST, ..."),
    Field("http.request.version", TEXT, "HTTP/1.1, HTTP/2"),
    Field("http.request.headers", TEXT, "by name in lower case", is_map=True),
    Field("http.conn.hostname", TEXT, "the host that the connection goes to"),
    Field("http.upload.mime", TEXT, "of the request's body"),
    Field("http.upload.file.size", NUMBER, "bytes"),
    Field("http.download.mime", TEXT, "of the response's body"),
    Field("http.download.file.size", NUMBER, "bytes"),
    Field("http.response.code", NUMBER, "once the answer is here"),
    Field("http.response.headers", TEXT, "by name in lower case", is_map=True),
)

_BY_PHASE: dict[Phase, tuple[tuple[Field, ...], ...]] = {
    "tunnel": (_WHO, _TUNNEL),
    "dns": (_WHO, _DNS),
    "network": (_WHO, _NET),
    "egress": (_WHO, _NET, _EGRESS),
    "tls": (_WHO, _NET, _TLS),
    "ssh": (_WHO, _NET, _SSH),
    "http": (_WHO, _NET, _TLS, _HTTP),
}


def _fields() -> dict[Phase, Fields]:
    groups = {phase: [field for group in parts for field in group] for phase, parts in _BY_PHASE.items()}
    homes: dict[str, list[str]] = {}
    for phase, fields in groups.items():
        for field in fields:
            homes.setdefault(field.name, []).append(phase)
    return {
        phase: Fields(
            phase,
            fields,
            {name: ", ".join(phases) for name, phases in homes.items() if phase not in phases},
        )
        for phase, fields in groups.items()
    }


FIELDS: dict[Phase, Fields] = _fields()


def domains(host: str) -> tuple[str, ...]:
    """The name and all its parent domains: for `a.b.example` itself, `b.example` and `example`."""
    labels = host.lower().rstrip(".").split(".")
    return tuple(".".join(labels[start:]) for start in range(len(labels)))
