"""A proxy that reads, origins with certificates of a root that it trusts, and programs that speak through it."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy.ca.authority import Authority
from tests.running import ORIGIN, PATIENCE_S, Stage, until

CONFIGURATION = """
node: edge
state: {directory}/state
inspectors: {inspectors}
tenants:
  acme:
    prefixes: [100.96.0.0/12, "fd00:96::/32"]
    level: {level}
    inspection: {{trust: [{directory}/roots.pem], system_trust: false{more}}}
onramps:
  - {{kind: connected, path: ramp.sock}}
timeouts: {{connect_s: 4, context_s: 2, sniff_s: 1, tls_s: 3, drain_s: 1}}
"""
NAMES = ("wiki.lab", "other.lab", "pinned.lab")


class ReadingStage(Stage):
    """`client_trust` is the tenant's CA, as its clients have it in a file; `roots` signs origins' certificates."""

    def __init__(
        self, directory: str, *, level: str = "tls", inspectors: int | str = 1, more: str = "",
        configuration: str = CONFIGURATION,
    ) -> None:  # fmt: skip
        self.roots = Authority.create("roots of the lab")
        Path(directory, "roots.pem").write_bytes(self.roots.certificate_pem)
        text = configuration.format(directory=directory, level=level, inspectors=inspectors, more=more)
        super().__init__(directory, text)

    @property
    def client_trust(self) -> str:
        """A file with the CA of tenant acme."""
        own = Path(self.directory, "state/ca/acme/authority.pem").read_bytes()
        path = Path(self.directory, "client.pem")
        path.write_bytes(own[own.index(b"-----BEGIN CERTIFICATE") :])
        return str(path)

    def leaf_files(self, name: str, authority: Authority | None = None) -> tuple[str, str]:
        """Files with the chain and the key of a certificate for `name`."""
        leaf = (authority or self.roots).mint(name)
        chain, key = Path(self.directory, f"{name}.pem"), Path(self.directory, f"{name}.key")
        chain.write_bytes(leaf.chain)
        key.write_bytes(leaf.key)
        return str(chain), str(key)

    def server_context(self, name: str = "wiki.lab", alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.leaf_files(name))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def flawed_context(self, name: str, *, self_signed: bool = False, days: int = 30) -> ssl.SSLContext:
        """A server's, with a certificate that has a flaw."""
        chain, key = flawed(name, self.roots, self_signed=self_signed, days=days)
        files = [Path(self.directory, f"flawed.{kind}") for kind in ("pem", "key")]
        for path, data in zip(files, (chain, key), strict=True):
            path.write_bytes(data)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)
        return context

    def live(self, **wanted: Any) -> list[Any]:
        """The records of live flows with these fields."""
        answer = self.control.flows([("all_tenants", "true"), ("scope", "live"), ("limit", "1000")])
        return [record for record in answer.items if all(getattr(record, k) == v for k, v in wanted.items())]

    def serve(self, serve: Callable[[Any], None], context: ssl.SSLContext | None = None, version: int = 4) -> int:
        """Serve each connection in a thread of its own, which ends when `serve` returns; the port."""
        listener = self.listen(version, backlog=128)
        listener.settimeout(None)

        def one(sock: Any) -> None:
            sock.settimeout(PATIENCE_S)
            with contextlib.suppress(OSError), sock:
                if context is None:
                    serve(sock)
                    return
                sock.getpeername()  # of one that was reset already `wrap_socket` forgets to close what it has made
                with context.wrap_socket(sock, server_side=True) as secured:
                    serve(secured)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=one, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        self._closing.callback(listener.shutdown, socket.SHUT_RDWR)
        return int(listener.getsockname()[1])

    def record(self, port: int, count: int = 1) -> Any:
        """The record of the ended flow to this port; of several, the last."""
        return until(lambda: _latest(self.ended(dst_port=port), count))

    def inspector_pids(self) -> list[int]:
        """The processes of its inspectors, in the order of their start."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in children if b"proxy.inspect" in Path(f"/proc/{each}/cmdline").read_bytes()]


def flawed(name: str, roots: Authority, *, self_signed: bool = False, days: int = 30) -> tuple[bytes, bytes]:
    """Chain and key, PEM: signed by itself, or valid until so many days from now, which may be past."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if self_signed else roots.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(until - datetime.timedelta(days=60))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    signer: Any = key if self_signed else serialization.load_pem_private_key(roots.key_pem, None)
    signed = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    return signed, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _latest(records: list[Any], count: int) -> Any:
    return max(records, key=lambda record: record.start) if len(records) >= count else None


def echo(sock: Any) -> None:
    """Send everything back, and end when the other side has."""
    while data := sock.recv(65_536):
        sock.sendall(data)
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(OSError):
            sock.unwrap()


def client_context(trust: str, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trust)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@contextlib.contextmanager
def speaking(
    laptop: Any, port: int, context: ssl.SSLContext, name: str = "wiki.lab", version: int = 4
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection from a client through the proxy."""
    raw = laptop.tcp(ORIGIN[version], port, PATIENCE_S)
    with context.wrap_socket(raw, server_hostname=name) as sock:
        yield sock


def run(laptop: Any, *words: str, given: str = "", patience_s: float = 30) -> subprocess.CompletedProcess[str]:
    """A program of the client's."""
    environment = {**os.environ, "LC_ALL": "C"}
    return laptop.run(
        subprocess.run, words, input=given, capture_output=True, text=True, timeout=patience_s, env=environment
    )
