"""The fields that rules of each phase may use."""

from __future__ import annotations

from proxy.flow.flow import PROTOCOL_NUMBERS
from proxy.policy.language import Field, Fields, Kind
from proxy.policy.phases import Phase

TEXT, NUMBER, ADDRESS, FLAG = Kind.TEXT, Kind.NUMBER, Kind.ADDRESS, Kind.FLAG
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_WHO = (
    Field("tenant", TEXT, "the tenant's name"),
    Field("net.vnet_id", TEXT, "the virtual network of the tenant"),
    Field("net.onramp", TEXT, "kind of on-ramp: connected, gue, tun, interface, ..."),
    Field("net.site", TEXT, "name of the site that the tunnel belongs to"),
    Field("net.tunnel", TEXT, "the tunnel's name"),
    Field("identity.user", TEXT, "the user, from the tunnel's context"),
    Field("identity.email", TEXT, "the user, if it is an e-mail address"),
    Field("identity.groups[*].name", TEXT, "names of the user's groups", is_array=True),
    Field("identity.groups[*].id", TEXT, "identifiers of the user's groups", is_array=True),
    Field("device.name", TEXT, "the device, from the tunnel's context"),
    Field("device_posture.checks.passed", TEXT, "posture checks that the device passed", is_array=True),
    Field("device_posture.checks.failed", TEXT, "posture checks that the device failed", is_array=True),
    Field("time.unix", NUMBER, "seconds since 1970"),
    Field("time.hour", NUMBER, "hour of the day, 0 to 23, UTC"),
    Field("time.weekday", TEXT, "day of the week, UTC", choices=WEEKDAYS),
)
_TUNNEL = (Field("tunnel.addresses", ADDRESS, "addresses that the tunnel asks for", is_array=True),)
_NET = (
    Field("net.src.ip", ADDRESS, "address of the client"),
    Field("net.src.port", NUMBER, "port of the client; for an echo request, its identifier"),
    Field("net.dst.ip", ADDRESS, "destination address, as the client sent it"),
    Field("net.dst.port", NUMBER, "destination port"),
    Field("net.protocol", TEXT, "protocol of the IP packet", choices=tuple(PROTOCOL_NUMBERS)),
    Field("net.dst.host", TEXT, "name of the destination, if known"),
    Field("net.route", TEXT, "the matching route, as in flow records"),
)
_EGRESS = (Field("net.offramp", TEXT, "the off-ramp that it would take: tunnel, kernel, socket"),)
_DNS = (
    Field("dns.fqdn", TEXT, "the name in the query, in lower case, without the final dot"),
    Field("dns.domains", TEXT, "that name and all its parent domains", is_array=True),
    Field("dns.query_rtype", TEXT, "type of the query: A, AAAA, HTTPS, ..."),
    Field("dns.src_ip", ADDRESS, "address of the client that asks"),
    Field("dns.resolved_ips", ADDRESS, "addresses in the answer", is_array=True),
)
_TLS = (
    Field("net.sni.host", TEXT, "the server name of the ClientHello"),
    Field("net.sni.domains", TEXT, "that name and all its parent domains", is_array=True),
    Field("net.protocol.detection", TEXT, "protocol that the first bytes look like: tls, http, ssh, ..."),
    Field("tls.version", TEXT, "the highest version that the client offers"),
    Field("tls.alpn", TEXT, "protocols that the client offers", is_array=True),
    Field("tls.ja4", TEXT, "JA4 fingerprint of the ClientHello"),
)
_SSH = (
    Field("ssh.user", TEXT, "user name at the origin"),
    Field("ssh.principal", TEXT, "the identity that was authenticated"),
    Field("ssh.channel", TEXT, "kind of channel: shell, exec, sftp, subsystem, direct-tcpip, tcpip-forward, ..."),
    Field("ssh.command", TEXT, "command of an exec channel"),
    Field("ssh.subsystem", TEXT, "name of the subsystem: sftp, netconf, ..."),
    Field("ssh.forward.host", TEXT, "destination host of a port forward"),
    Field("ssh.forward.port", NUMBER, "destination port of a port forward"),
    Field("ssh.reason", TEXT, "the reason for the session that the user gave"),
)
_HTTP = (
    Field("http.request.host", TEXT, "host of the request, in lower case, without the port"),
    Field("http.request.domains", TEXT, "that name and all its parent domains", is_array=True),
    Field("http.request.uri", TEXT, "path and query"),
    Field("http.request.uri.path", TEXT, "the path only"),
    Field("http.request.uri.query", TEXT, "the query, without the question mark"),
    Field("http.request.method", TEXT, "method: GET, POST, ..."),
    Field("http.request.version", TEXT, "version: HTTP/1.1, HTTP/2"),
    Field("http.request.headers", TEXT, "fields of the request, by name in lower case", is_map=True),
    Field("http.conn.hostname", TEXT, "host that the connection is made to"),
    Field("http.upload.mime", TEXT, "media type of the request's body"),
    Field("http.upload.file.size", NUMBER, "size of the request's body in bytes"),
    Field("http.download.mime", TEXT, "media type of the response's body"),
    Field("http.download.file.size", NUMBER, "size of the response's body in bytes"),
    Field("http.response.code", NUMBER, "status of the response"),
    Field("http.response.headers", TEXT, "fields of the response, by name in lower case", is_map=True),
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
