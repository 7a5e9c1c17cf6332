"""All clients in one epoll loop. Connecting may block, so threads do it; only this thread moves packets."""

from __future__ import annotations

import collections
import contextlib
import heapq
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import msgspec

from oxyctl.agents.client import Client
from oxyctl.agents.config import Config
from oxyctl.agents.impaired_tunnel import ImpairedTunnel
from oxyctl.agents.pump import TunnelLost, download, resume, upload
from oxyctl.net.impairment import Impairment
from proxy.context import TunnelAnswer
from proxy.errors import ProxyError

FIRST_PAUSE_S, LAST_PAUSE_S, GROWTH = 0.02, 1.0, 1.5  # between two attempts to dial
DIALLERS = 8

Outcome = tuple[socket.socket, TunnelAnswer] | Exception


class Fleet:
    """The event loop. Each client's events go to standard output as JSON lines, and to standard error as text."""

    def __init__(self, clients: list[Client]) -> None:
        self._epoll = select.epoll()
        self._by_fd = {client.tun: client for client in clients}  # devices, and the tunnels that are connected
        self._pauses = dict.fromkeys(clients, FIRST_PAUSE_S)
        self._due = [(0.0, number, client) for number, client in enumerate(clients)]  # heap: when to dial, for whom
        self._attempts = len(clients)
        self._diallers = ThreadPoolExecutor(DIALLERS)
        self._outcomes: collections.deque[tuple[Client, Outcome]] = collections.deque()  # filled by the diallers
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._impaired: dict[Client, ImpairedTunnel] = {}
        self._reload_requested = False
        for client in clients:
            self._epoll.register(client.tun, 0)
            self._impair(client, client.config.impairment)

    def run(self, read: Callable[[], Config] | None = None) -> NoReturn:
        """Move packets forever. On SIGHUP, `read` the new configuration and apply it."""
        if read is not None:
            signal.signal(signal.SIGHUP, self._request_reload)
        while True:
            for fd, events in self._epoll.poll(self._next_due()):
                if fd == self._wake:
                    self._collect_outcomes()
                    if self._reload_requested and read is not None:
                        self._reload_requested = False
                        self._reload(read())
                elif (client := self._by_fd.get(fd)) is not None and client.tunnel is not None:
                    self._handle(client, fd, events)

    def _handle(self, client: Client, fd: int, events: int) -> None:
        try:
            if (impaired := self._impaired.get(client)) is not None:
                if fd == client.tun:
                    impaired.upload(time.monotonic())
                else:
                    impaired.download(time.monotonic())
                return
            if fd == client.tun:
                if not upload(client):
                    self._watch(client, is_full=True)
                return
            if events & select.EPOLLOUT and resume(client):
                self._watch(client, is_full=False)
            if events & ~select.EPOLLOUT:
                download(client)
        except TunnelLost as lost:
            self._lose(client, str(lost))

    def _watch(self, client: Client, *, is_full: bool) -> None:
        """Stop reading the device while the tunnel is full: what programs send waits in the kernel's queue."""
        assert client.tunnel is not None
        self._epoll.modify(client.tun, 0 if is_full else select.EPOLLIN)
        self._epoll.modify(client.tunnel, select.EPOLLIN | (select.EPOLLOUT if is_full else 0))

    def _next_due(self) -> float | None:
        """Do what is due; returns the seconds until something is due again, None if nothing is."""
        if not self._impaired and not self._due:
            return None
        now = time.monotonic()
        due = [when for impaired in self._impaired.values() if (when := impaired.write_due(now)) is not None]
        pause = self._dial_due()
        return min([max(0.0, when - now) for when in due] + ([] if pause is None else [pause]), default=None)

    def _request_reload(self, number: int, frame: object) -> None:
        self._reload_requested = True
        os.eventfd_write(self._wake, 1)

    def _reload(self, config: Config) -> None:
        """Serve the clients that `config` names and no others; those that stay keep their devices and tunnels."""
        configs = {each.node: each for each in config.clients}
        kept = {}
        for client in list(self._pauses):
            new = configs.get(client.name)
            if new is None or msgspec.structs.replace(client.config, impairment=new.impairment) != new:
                self._remove(client)
                continue
            kept[client.name] = client
            client.config = new
            self._impair(client, new.impairment)
        problems = {}
        for name in configs.keys() - kept.keys():
            try:
                self._add(Client(configs[name]))
            except OSError as error:
                problems[name] = f"cannot open TUN device {configs[name].interface}: {error}"
        print(json.dumps({"generation": config.generation, "problems": problems}), flush=True)

    def _add(self, client: Client) -> None:
        self._by_fd[client.tun] = client
        self._pauses[client] = FIRST_PAUSE_S
        self._epoll.register(client.tun, 0)
        self._impair(client, client.config.impairment)
        self._dial_later(client)

    def _remove(self, client: Client) -> None:
        """Stop serving `client`. The kernel removes its device together with the namespace."""
        del self._by_fd[client.tun], self._pauses[client]
        self._due = [entry for entry in self._due if entry[2] is not client]
        heapq.heapify(self._due)
        self._impaired.pop(client, None)
        if client.tunnel is not None:
            del self._by_fd[client.tunnel.fileno()]
            client.disconnect()
        with contextlib.suppress(OSError):
            self._epoll.unregister(client.tun)
        os.close(client.tun)

    def _impair(self, client: Client, impairment: Impairment) -> None:
        if not impairment.is_shaped and not impairment.down:
            if (impaired := self._impaired.pop(client, None)) is not None:
                impaired.write_due(float("inf"))
        elif (impaired := self._impaired.get(client)) is not None:
            impaired.change(impairment)
        else:
            self._impaired[client] = ImpairedTunnel(client, impairment)
            if client.tunnel is not None and client.waiting is not None:
                client.waiting = None  # impaired tunnels drop what has no room
                self._watch(client, is_full=False)

    def _dial_due(self) -> float | None:
        """Dial the clients that are due; returns the seconds until the next one is, None if none waits."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, _, client = heapq.heappop(self._due)
            self._diallers.submit(self._dial, client)
        return self._due[0][0] - now if self._due else None

    def _dial(self, client: Client) -> None:
        try:
            outcome: Outcome = client.dial()
        except (OSError, ProxyError, msgspec.MsgspecError) as error:
            outcome = error
        self._outcomes.append((client, outcome))
        os.eventfd_write(self._wake, 1)

    def _collect_outcomes(self) -> None:
        os.eventfd_read(self._wake)
        while self._outcomes:
            client, outcome = self._outcomes.popleft()
            if client not in self._pauses:  # removed in the meantime
                if isinstance(outcome, tuple):
                    outcome[0].close()
                continue
            if isinstance(outcome, tuple):
                self._accept(client, *outcome)
                continue
            if isinstance(outcome, ProxyError) and not outcome.retryable:
                _report(client, "refused", str(outcome))
                self._pauses[client] = LAST_PAUSE_S
            self._dial_later(client)

    def _accept(self, client: Client, tunnel: socket.socket, answer: TunnelAnswer) -> None:
        client.adopt(tunnel, answer)
        self._pauses[client] = FIRST_PAUSE_S
        self._by_fd[tunnel.fileno()] = client
        self._epoll.register(tunnel, select.EPOLLIN)
        self._watch(client, is_full=False)
        _report(client, "accepted", f"MTU {answer.mtu}, {answer.offload or 'no offload'}")

    def _lose(self, client: Client, reason: str) -> None:
        assert client.tunnel is not None
        self._epoll.modify(client.tun, 0)
        del self._by_fd[client.tunnel.fileno()]
        client.disconnect()
        _report(client, "lost", reason)
        self._dial_later(client)

    def _dial_later(self, client: Client) -> None:
        self._attempts += 1
        heapq.heappush(self._due, (time.monotonic() + self._pauses[client], self._attempts, client))
        self._pauses[client] = min(LAST_PAUSE_S, self._pauses[client] * GROWTH)


def _report(client: Client, event: str, detail: str) -> None:
    print(json.dumps({"node": client.name, "event": event, "detail": detail}), flush=True)
    print(f"{client.name}: tunnel {event}: {detail}", file=sys.stderr, flush=True)
