"""The connected on-ramp: a Unix SEQPACKET socket on which clients introduce themselves with a context datagram."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from proxy.context import MAX_CONTEXT_BYTES, TunnelAnswer, TunnelContext, checked, decode_context, encode
from proxy.device.seqpacket import enlarge_send_buffer, is_end_of_file
from proxy.errors import ProxyError
from proxy.flow.tenant import Network, Tenant
from proxy.hooks import HookRunner
from proxy.onramps.tunnel import Tunnel
from proxy.packet.plane import Plane
from proxy.poller import IN, Poller
from proxy.settings.model import ConnectedOnRamp
from proxy.settings.parts import DEFAULT_NETWORK
from proxy.verdict import ALLOW, Verdict
from proxy.wire import ip

log = logging.getLogger(__name__)

MAX_WAITING = 256  # clients that have connected but not introduced themselves
BACKLOG = 512
PAUSE_S = 1.0


class ConnectedRamp:
    """Accepts tunnels. A refused client receives the reason, and the refusal is counted."""

    def __init__(
        self,
        settings: ConnectedOnRamp,
        tenants: Mapping[str, Tenant],
        plane: Plane,
        poller: Poller,
        hooks: HookRunner,
        tuns: Mapping[bool, int],
        *,
        context_timeout_s: float,
        opened: Callable[[Tunnel], None],
        closed: Callable[[Tunnel], None],
        may_open: Callable[[TunnelContext], str | None] = lambda context: None,
    ) -> None:
        """`tuns`: the descriptors of the bridges' TUN devices, by whether they have offload. `may_open`: returns why
        the policy does not let a tunnel open, or None."""
        self._may_open = may_open
        self.settings, self.tenants, self.hooks = settings, tenants, hooks
        self.refused = 0
        self._plane, self._poller, self._tuns, self._timeout_s = plane, poller, tuns, context_timeout_s
        self._opened, self._closed = opened, closed
        self._waiting: set[_Introduction] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._count = 0
        self._listener = _listen(settings)
        poller.watch(self._listener.fileno(), IN, self._accept, self._crashed)

    def close(self) -> None:
        """Accept no further tunnels; open ones stay."""
        if self._retry is not None:
            self._retry.cancel()
        self._poller.forget(self._listener.fileno())
        self._listener.close()
        for introduction in tuple(self._waiting):
            introduction.refuse("the proxy is stopping")
        Path(self.settings.path).unlink(missing_ok=True)

    def introduced(self, introduction: _Introduction, data: bytes) -> None:
        """Decode the client's introduction, check it, ask the application, and answer."""
        if not self.hooks.has("packet_context"):
            self._understood(introduction, data, None)
            return

        async def run() -> None:
            self._understood(introduction, data, await self.hooks.fetch("packet_context", data, TunnelContext))

        self.hooks.spawn(run(), failed=lambda: introduction.refuse("the proxy failed"))

    def _understood(self, introduction: _Introduction, data: bytes, answer: Any) -> None:
        """Handle the introduction. `answer`: the application's result; if None, the default format is decoded."""
        if introduction.is_over:
            return
        if isinstance(answer, (str, Verdict)) and (refusal := _refusal(answer)):
            introduction.refuse(refusal)
            return
        try:
            context = checked(answer) if isinstance(answer, TunnelContext) else decode_context(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # RecursionError: nested 1,000 deep
            introduction.refuse(f"bad context: {error}")
            return
        self._introduced(introduction, context)

    def _introduced(self, introduction: _Introduction, context: TunnelContext[Any]) -> None:
        problem = self._problem(context) or self._may_open(context)
        if problem is not None:
            introduction.refuse(problem)
        elif not self.hooks.has("tunnel_open"):
            self._admit(introduction, context, ALLOW)
        else:
            self.hooks.ask_then("tunnel_open", context, lambda verdict: self._admit(introduction, context, verdict))

    def done(self, introduction: _Introduction, refused: str | None) -> None:
        """Forget a client whose tunnel is open, or was refused."""
        self._waiting.discard(introduction)
        if refused is not None:
            self.refused += 1
            log.info("tunnel refused: %s", refused)

    def _accept(self, events: int) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._pause()
                return
            sock.setblocking(False)
            introduction = _Introduction(self, sock, self._poller, self._timeout_s)
            self._waiting.add(introduction)
            if len(self._waiting) > MAX_WAITING:
                introduction.refuse("too many clients are waiting to introduce themselves")

    def _pause(self) -> None:
        """Pause accepting, as no descriptors are left, instead of retrying in a loop."""
        log.error("no descriptors left for a new tunnel; trying again in %g s", PAUSE_S)
        self._poller.change(self._listener.fileno(), 0)
        self._retry = asyncio.get_running_loop().call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._poller.change(self._listener.fileno(), IN)

    def _problem(self, context: TunnelContext[Any]) -> str | None:
        tenant = self.tenants.get(context.tenant)
        if tenant is None:
            return f"unknown tenant {context.tenant!r}"
        token = tenant.settings.token
        if token is not None and not hmac.compare_digest(token.encode(), (context.token or "").encode()):
            return "bad token"
        if len(tenant.carriers) >= tenant.settings.limits.tunnels:
            return f"tenant {tenant.name} has {len(tenant.carriers)} tunnels, which is its limit"
        network = tenant.networks.get(context.network or DEFAULT_NETWORK)
        if network is None:
            return f"tenant {tenant.name} has no network {context.network!r}"
        try:
            addresses = _addresses(context)
        except ValueError as error:
            return str(error)
        return _address_problem(network, addresses)

    def _admit(self, introduction: _Introduction, context: TunnelContext[Any], verdict: Verdict) -> None:
        if introduction.is_over:
            return
        problem = _refusal(verdict) or self._problem(
            context
        )  # again: another client may have been admitted while the application decided
        if problem is not None:
            introduction.refuse(problem)
            return
        sock = introduction.accept(TunnelAnswer(ok=True, mtu=context.mtu, offload=context.offload))
        if sock is None:
            return
        self._count += 1
        tunnel = Tunnel(
            f"{os.path.basename(self.settings.path)}-{self._count}", sock, context, self.tenants[context.tenant],
            _addresses(context), self._plane, self._poller, self._tuns[context.offload is not None], self._closed,
        )  # fmt: skip
        tunnel.tenant.attach(tunnel)
        self._opened(tunnel)

    def _crashed(self, error: BaseException) -> None:
        """Ignore that one client could not be accepted; the listener stays open."""


class _Introduction:
    """A client that has connected, and must introduce itself in its first datagram within the time limit."""

    def __init__(self, ramp: ConnectedRamp, sock: socket.socket, poller: Poller, timeout_s: float) -> None:
        self._ramp, self._sock, self._poller = ramp, sock, poller
        self.is_over = False
        self._timer = asyncio.get_running_loop().call_later(
            timeout_s, self.refuse, f"no context within {timeout_s:g} s"
        )
        poller.watch(sock.fileno(), IN, self._ready, lambda error: self.refuse("the proxy failed"))

    def refuse(self, reason: str) -> None:
        """Send the reason and close."""
        if not self.is_over:
            self._answer(TunnelAnswer(ok=False, error=reason))
            self._finish(reason)
            self._sock.close()

    def accept(self, answer: TunnelAnswer) -> socket.socket | None:
        """Send the answer. Returns the socket, or None if the client has hung up."""
        enlarge_send_buffer(self._sock)
        if not self._answer(answer):
            self._finish("the client hung up")
            self._sock.close()
            return None
        self._finish(None)
        return self._sock

    def _ready(self, events: int) -> None:
        data, _, flags, _ = self._sock.recvmsg(MAX_CONTEXT_BYTES)
        if flags & socket.MSG_TRUNC:
            self.refuse(f"the context is larger than {MAX_CONTEXT_BYTES} bytes")
            return
        if not data:
            self.refuse("the client hung up" if is_end_of_file(self._sock) else "the context is empty")
            return
        self._timer.cancel()  # the introduction was in time; the application's hook has its own timeout
        self._poller.forget(self._sock.fileno())  # the next datagrams are packets for the tunnel
        self._ramp.introduced(self, data)

    def _answer(self, answer: TunnelAnswer) -> bool:
        try:
            self._sock.send(encode(answer))
        except OSError:
            return False
        return True

    def _finish(self, refused: str | None) -> None:
        self.is_over = True
        self._timer.cancel()
        self._poller.forget(self._sock.fileno())
        self._ramp.done(self, refused)


def _refusal(answer: str | Verdict) -> str | None:
    """The reason, if the application refuses the client; otherwise None."""
    if isinstance(answer, str):
        return answer or "refused"
    return (answer.reason or "refused") if answer.is_denial else None


def _addresses(context: TunnelContext[Any]) -> frozenset[bytes]:
    addresses = frozenset(ipaddress.ip_address(text).packed for text in context.addresses)
    for address in addresses:
        if not ip.is_unicast(address):
            raise ValueError(f"{ipaddress.ip_address(address)} cannot be a client's address")
    return addresses


def _address_problem(network: Network, addresses: frozenset[bytes]) -> str | None:
    tenant = network.tenant
    prefixes = [ipaddress.ip_network(prefix) for prefix in tenant.settings.prefixes]
    for packed in addresses:
        address = ipaddress.ip_address(packed)
        if not any(address in prefix for prefix in prefixes):
            return f"{address} is in no prefix of tenant {tenant.name}"
        if (carrier := network.clients.get(packed)) is not None:
            return f"{address} is in use by tunnel {carrier.id}"
    return None


def _listen(settings: ConnectedOnRamp) -> socket.socket:
    """The listening socket at the configured path. A dead proxy's socket file is replaced, a live one's is not."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _remove_stale_socket(settings.path)
        old_mask = os.umask(0o777 & ~settings.mode)
        try:
            listener.bind(settings.path)
        finally:
            os.umask(old_mask)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ProxyError(f"on-ramp {settings.path}: {error.strerror or error}") from error
    return listener


def _remove_stale_socket(path: str) -> None:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
    raise OSError(errno.EADDRINUSE, "another proxy serves this path")
