"""Each example of an application does what its first line says."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import pytest

from examples.audit import AuditLog
from examples.authorise import AskService
from examples.billing import Billing
from examples.context_format import SignedToken, token
from examples.hooks import NoPlainHttp
from examples.routing import ByDepartment
from proxy.hooks import load_hooks
from proxy.testing import Refused, Rehearsal

NAMES = [
    "hooks:NoPlainHttp", "levels:StreamsOfGuests", "authorise:AskService", "audit:AuditLog", "billing:Billing",
    "routing:ByDepartment", "context_format:SignedToken",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_is_loaded_by_the_name_in_its_first_lines(name):
    load_hooks(f"examples.{name}")


class Service:
    """An authorisation service: allows what `answers` has, by port."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.partition("Content-Length: ")[2].split()[0])
        asked = json.loads(await reader.readexactly(size))
        self.asked.append(asked)
        writer.write(self.answers[asked["dst_port"]])
        await writer.drain()
        writer.close()


ALLOW = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 0\r\n\r\n"
DENY = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 15\r\n\r\nnot this server"
BROKEN = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


def test_authorise_asks_the_service_and_fails_closed():
    hooks = AskService("http://127.0.0.1:1/authorise")
    service = Service({443: ALLOW, 22: DENY, 25: BROKEN})
    with Rehearsal(hooks) as rehearsal:
        client = rehearsal.tunnel(user="bob@acme.example")
        out = client.tcp("203.0.113.5", 443)
        assert (out.record.close_reason, out.verdict) == ("proxy_error", "error")
        hooks.service = hooks.service._replace(netloc=f"127.0.0.1:{rehearsal.run(service.start())}")
        allowed, denied, broken = (client.tcp("203.0.113.5", port) for port in (443, 22, 25))
        assert (allowed.verdict, denied.verdict, broken.verdict) == ("allowed", "denied", "error")
        assert (denied.answers, denied.decisions[-1].reason) == (["TCP RA"], "not this server")
        assert service.asked[0] == {
            "tenant": "acme", "user": "bob@acme.example", "device": None, "protocol": "tcp", "src": "100.96.0.1",
            "dst": "203.0.113.5", "dst_port": 443,
        }  # fmt: skip
        service.answers[443] = DENY
        rehearsal.advance(61)
        assert allowed.record.close_reason == "policy_revoked"
        rehearsal.run(service.stop())


def test_audit_log_says_who_decided(tmp_path):
    path = tmp_path / "audit.jsonl"

    class Both(AuditLog, NoPlainHttp):
        async def tunnel_open(self, context):
            await AuditLog.tunnel_open(self, context)

        async def flow_end(self, flow):
            await AuditLog.flow_end(self, flow)

    with Rehearsal(Both(path)) as rehearsal:
        client = rehearsal.tunnel(user="bob")
        client.tcp("203.0.113.5", 80)
        client.udp("203.0.113.5", 53)
        rehearsal.hang_up(client)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["tunnel_open", "flow", "flow", "tunnel_close"]
    assert [(line["dst"], line["verdict"], line["ended"]) for line in lines[1:3]] == [
        ("203.0.113.5:80", "denied", "denied"),
        ("203.0.113.5:53", "allowed", "tunnel_closed"),
    ]
    assert lines[1]["decisions"][0]["reason"] == "plain HTTP is not allowed"


def test_billing_counts_each_byte_once_while_flows_live():
    with Rehearsal(billing := Billing()) as rehearsal:
        with pytest.raises(Refused, match="nobody pays"):
            rehearsal.tunnel()
        client = rehearsal.tunnel(user="bob")
        flow = client.udp("203.0.113.5", 53, b"x" * 72)
        rehearsal.advance(2)
        account = billing.accounts["bob"]
        assert (account.settled_bytes, account.flows) == (100, 0)
        flow.accept()
        rehearsal.advance(2)
        assert account.settled_bytes == 134
        flow.close()
        assert (account.settled_bytes, account.flows) == (134, 1)


def test_routing_decides_the_way():
    with Rehearsal(ByDepartment(), sites={"berlin": ["10.2.0.0/16"]}) as rehearsal:
        finance = rehearsal.tunnel(addresses=["100.96.8.7"])
        others = rehearsal.tunnel()
        ways = [client.tcp("198.51.100.1", port) for client in (finance, others) for port in (443, 80)]
        assert [flow.record.offramp_tunnel for flow in ways] == ["berlin", "internet", "internet", "internet"]
        wiki = others.tcp("203.0.113.80", 80)
        assert (wiki.record.origin, wiki.verdict) == ("203.0.113.90:8080", "redirected")


GOOD = {"tenant": "acme", "addresses": ["100.96.0.9"], "sub": "ann", "role": "admin", "exp": time.time() + 3600}


def test_context_format_of_ones_own():
    with Rehearsal(SignedToken(b"key")) as rehearsal:
        client = rehearsal.tunnel(token(b"key", **GOOD))
        assert (client.tunnel.user, client.tunnel.extension.role) == ("ann", "admin")
        usual = rehearsal.tunnel(msgspec.json.encode({"tenant": "acme", "addresses": ["100.96.0.10"]}))
        assert (usual.tunnel.user, usual.tunnel.extension) == (None, None)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (token(b"other", **GOOD), "signature is not good"),
        (token(b"key", **{**GOOD, "exp": 1}), "has expired"),
        (token(b"key", tenant="acme"), "cannot be read: 'role'"),
        (b"OX2 .", "signature is not good"),
    ],
)
def test_bad_tokens_are_refused_with_a_reason(datagram, reason):
    with Rehearsal(SignedToken(b"key")) as rehearsal, pytest.raises(Refused, match=reason):
        rehearsal.tunnel(datagram)
