"""Host keys in DNS: what a resolver has validated is believed, if the resolver is."""

from __future__ import annotations

import asyncio
import socket
import threading

import dns.flags
import dns.message
import dns.rrset
import pytest
from dns.asyncresolver import Resolver

from proxy.stream.sshfp import digests, is_trusted

DIGEST = "ab" * 32
ZONE = {
    ("7.2.0.192.in-addr.arpa.", "PTR"): "db.example.",
    ("db.example.", "SSHFP"): f"4 2 {DIGEST}",
    ("8.2.0.192.in-addr.arpa.", "PTR"): "old.example.",
    ("old.example.", "SSHFP"): f"4 1 {'ab' * 20}",
}


@pytest.fixture
def server():
    """A resolver on loopback: gives its port, and a set of flags that it puts on its answers."""
    said = {dns.flags.AD}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=serve, args=(sock, said), daemon=True)
        thread.start()
        yield sock.getsockname()[1], said
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", sock.getsockname())
        thread.join()


def serve(sock, said):
    while True:
        data, peer = sock.recvfrom(4_096)
        if not data:
            return
        query = dns.message.from_wire(data)
        question = query.question[0]
        answer = dns.message.make_response(query)
        for flag in said:
            answer.flags |= flag
        kind = dns.rdatatype.to_text(question.rdtype)
        if (found := ZONE.get((question.name.to_text(), kind))) is not None:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, found))
        sock.sendto(answer.to_wire(), peer)


def ask(port, address):
    resolver = Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    return asyncio.run(digests(address, resolver))


def test_what_is_validated_is_found_by_the_address(server):
    assert ask(server[0], "192.0.2.7") == [bytes.fromhex(DIGEST)]


def test_what_is_not_validated_says_nothing(server):
    server[1].clear()
    assert ask(server[0], "192.0.2.7") == []


def test_sha1_and_names_without_keys_say_nothing(server):
    assert ask(server[0], "192.0.2.8") == []
    assert ask(server[0], "192.0.2.9") == []


@pytest.mark.parametrize(
    ("text", "believed"),
    [
        ("nameserver 127.0.0.53\n", True),
        ("nameserver ::1\nnameserver 127.0.0.1\n", True),
        ("nameserver 192.0.2.1\n", False),
        ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", False),
        ("nameserver 192.0.2.1\noptions edns0 trust-ad\n", True),
        ("# options trust-ad\nnameserver 192.0.2.1\n", False),
        ("nameserver what\n", False),
    ],
)
def test_resolvers_elsewhere_are_believed_only_when_the_administrator_says_so(text, believed):
    assert is_trusted(text) is believed
