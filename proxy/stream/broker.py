"""The broker: gives inspectors, which have no rights of their own, the certificates and connections they ask for."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec

from proxy.ca.store import RENEW_S, Authorities
from proxy.errors import ProxyError
from proxy.flow.flow import Flow, address_text
from proxy.offramps import sockets
from proxy.poller import ERROR, HANGUP, ONCE, OUT, Poller
from proxy.session.messages import (
    Configure,
    DialRequest,
    FingerprintsAnswer,
    FingerprintsRequest,
    LeafAnswer,
    LeafRequest,
    TenantRules,
)
from proxy.settings import Settings
from proxy.settings.inspection import Inspection
from proxy.stream.key_logs import KeyLogs
from proxy.stream.ssh_broker import SSHBroker
from proxy.stream.sshfp import digests

Dialled = Callable[[socket.socket | None, str], None]  # the connected socket, or None and the reason

MAX_PEM = 4 << 20


class Broker:
    """Answers the requests of inspectors."""

    def __init__(
        self,
        poller: Poller,
        loop: asyncio.AbstractEventLoop,
        authorities: Authorities,
        tenants: Mapping[str, Inspection],
        settings: Settings,
    ) -> None:
        """Raises ProxyError if roots cannot be read."""
        self.authorities, self._tenants = authorities, tenants
        self._poller, self._loop, self._connect_s = poller, loop, settings.timeouts.connect_s
        self.ssh = SSHBroker(settings.state)
        self.key_logs = KeyLogs(tenants)
        rules = {name: self._rules(name, inspection) for name, inspection in tenants.items()}
        timeouts = settings.timeouts
        self.configuration = Configure(rules, sniff_s=timeouts.sniff_s, handshake_s=timeouts.tls_s)
        self._lookups: set[asyncio.Task[None]] = set()

    def leaf(self, tenant: str, message: LeafRequest) -> LeafAnswer:
        """The requested certificate, or the reason why there is none."""
        try:
            leaf = self.authorities.leaf(tenant, message.name, untrusted=message.untrusted)
        except (ProxyError, ValueError) as error:
            return LeafAnswer(message.request, error=str(error))
        return LeafAnswer(message.request, leaf.chain, leaf.key, renew_at=leaf.not_after - RENEW_S)

    def renew_ssh(self, tenant: str) -> None:
        """Put the tenant's current SSH keys into the next configuration of inspectors. Raises ProxyError."""
        inspection = self._tenants[tenant]
        assert inspection.ssh is not None
        rules = msgspec.structs.replace(self.configuration.tenants[tenant], ssh=self.ssh.rules(tenant, inspection.ssh))
        tenants = {**self.configuration.tenants, tenant: rules}
        self.configuration = msgspec.structs.replace(self.configuration, tenants=tenants)

    def dial(self, flow: Flow, message: DialRequest, then: Dialled) -> None:
        """Connect to the flow's own origin, or to the named one, from a socket of the host.

        Flows into a tunnel are refused: they keep the client's address and port, which allow one connection only, and a
        socket of the host would be in another network.
        """
        if flow.egress is not None:
            then(None, "a flow into a tunnel has a single connection")
            return
        if message.host is None:
            self._connect(flow, *flow.target, then)
            return
        host, port = message.host, message.port
        try:
            address = ip_address(host).packed
        except ValueError:
            self._start(self._look_up(flow, host, port, then))
        else:
            self._connect(flow, address, port, then)

    def fingerprints(
        self, flow: Flow, message: FingerprintsRequest, then: Callable[[FingerprintsAnswer], None]
    ) -> None:
        """Look up the SSHFP fingerprints of the origin's host keys in DNS."""

        async def ask() -> None:
            then(FingerprintsAnswer(message.request, await digests(address_text(flow.target[0]))))

        self._start(ask())

    def _start(self, lookup: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(lookup)
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _look_up(self, flow: Flow, host: str, port: int, then: Dialled) -> None:
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            then(None, f"{host}: {error.strerror or error}")
            return
        for family, _, _, _, where in found:
            if family in (socket.AF_INET, socket.AF_INET6):
                self._connect(flow, ip_address(where[0]).packed, port, then)
                return
        then(None, f"{host} has no address")

    def _rules(self, tenant: str, inspection: Inspection) -> TenantRules:
        rules, ssh = _rules(tenant, inspection), inspection.ssh
        return rules if ssh is None else msgspec.structs.replace(rules, ssh=self.ssh.rules(tenant, ssh))

    def _connect(self, flow: Flow, address: bytes, port: int, then: Dialled) -> None:
        try:
            sock, code = sockets.dial_tcp(address, port, flow.tenant.settings.egress)
        except OSError as error:
            then(None, error.strerror or str(error))
            return
        if code == 0:
            then(sock, "")
        elif code == errno.EINPROGRESS:
            _Connecting(self._poller, self._loop, sock, self._connect_s, then)
        else:
            sock.close()
            then(None, os.strerror(code))


class _Connecting:
    """One connection being established."""

    def __init__(
        self, poller: Poller, loop: asyncio.AbstractEventLoop, sock: socket.socket, timeout_s: float, then: Dialled
    ) -> None:
        self._poller, self._sock, self._then = poller, sock, then
        self._timer = loop.call_later(timeout_s, self._finish, errno.ETIMEDOUT)
        poller.watch(sock.fileno(), OUT | ONCE, self._ready, self._crashed)

    def _ready(self, events: int) -> None:
        self._finish(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & (ERROR | HANGUP) else 0)

    def _crashed(self, error: BaseException) -> None:
        self._finish(errno.EIO)

    def _finish(self, code: int) -> None:
        self._timer.cancel()
        if self._sock.fileno() < 0:
            return
        self._poller.forget(self._sock.fileno())
        if code:
            self._sock.close()
            self._then(None, os.strerror(code))
        else:
            self._then(self._sock, "")


def _rules(tenant: str, inspection: Inspection) -> TenantRules:
    roots = "".join(_pem(tenant, "trust", path, "CERTIFICATE") for path in inspection.trust)
    crl = "".join(_pem(tenant, "crl", path, "X509 CRL") for path in inspection.crl)
    return TenantRules(
        minimum=inspection.minimum,
        bad_certificate=inspection.bad_certificate,
        roots=roots,
        system_trust=inspection.system_trust,
        crl=crl,
        client_certificates=inspection.client_certificates,
        logs_keys=inspection.key_log is not None,
        learn_pinned=inspection.learn_pinned,
        pinned_s=inspection.pinned_s,
        alt_svc=inspection.alt_svc,
    )


def _pem(tenant: str, key: str, path: str, label: str) -> str:
    """The text of a PEM file that contains at least one `label`."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProxyError(f"tenant '{tenant}': inspection.{key}: {path}: {error}") from error
    if f"-----BEGIN {label}-----" not in text or len(text) > MAX_PEM:
        raise ProxyError(
            f"tenant '{tenant}': inspection.{key}: no PEM {label} in {path}, or more than {MAX_PEM >> 20} MiB"
        )
    return text
