"""A few fields, and facts of one flow, for tests of the language."""

from __future__ import annotations

from proxy.policy.language import Facts, Field, Fields, Kind

FIELDS = Fields(
    "network",
    [
        Field("net.src.ip", Kind.ADDRESS),
        Field("net.dst.ip", Kind.ADDRESS),
        Field("net.dst.port", Kind.NUMBER),
        Field("net.protocol", Kind.TEXT, choices=("tcp", "udp", "icmp")),
        Field("identity.email", Kind.TEXT),
        Field("identity.user", Kind.TEXT),
        Field("identity.groups[*].name", Kind.TEXT, is_array=True),
        Field("device_posture.checks.passed", Kind.TEXT, is_array=True),
        Field("dns.resolved_ips", Kind.ADDRESS, is_array=True),
        Field("http.request.headers", Kind.TEXT, is_map=True),
        Field("device.managed", Kind.FLAG),
        Field("size", Kind.NUMBER),
    ],
    {"http.request.host": "http"},
)

FACTS = Facts(
    {
        "net.src.ip": bytes([10, 1, 2, 3]),
        "net.dst.ip": bytes([192, 0, 2, 7]),
        "net.dst.port": 8443,
        "net.protocol": "tcp",
        "identity.email": "Bob@acme.example",
        "identity.groups[*].name": ("staff", "Developers"),
        "device_posture.checks.passed": ("disk", "firewall"),
        "dns.resolved_ips": (bytes([203, 0, 113, 1]), bytes([203, 0, 113, 2])),
        "http.request.headers": {"accept": ("text/html", "text/plain"), "x-path": ("/a%20b",)},
        "device.managed": True,
        "size": 12.5,
    }
)
