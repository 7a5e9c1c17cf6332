"""All ends of tunnels in one epoll loop: packets, probes, configuration changes, and requests for counters."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

from oxyctl.agents.sites.config import Config, TunnelConfig
from oxyctl.agents.sites.tunnel import Sockets, Tunnel, identity_of
from oxyctl.net.sockets import shortened

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ANSWER_TIMEOUT_S = 1.0  # time that a client has to read the counters


class Loop:
    """The event loop. Events go to standard output as JSON lines, and to standard error as text."""

    def __init__(self, read: Callable[[], Config]) -> None:
        self._read = read
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._sockets = Sockets(self._watch, self._unwatch)
        self._tunnels: dict[tuple[str, str], Tunnel] = {}
        self._listener: tuple[str, socket.socket] | None = None  # the socket that serves the counters, and its path
        self._stop_requested = self._reload_requested = False

    def run(self) -> None:
        """Move packets until SIGTERM, SIGINT, or the end of standard input if that is a pipe. SIGHUP reloads."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._request_stop)
        signal.signal(signal.SIGHUP, self._request_reload)
        self._watch(wake, lambda: bool(os.read(wake, 4096)))
        if _is_pipe(sys.stdin.fileno()):
            self._watch(sys.stdin.fileno(), self._read_input)
        try:
            self._reload()
            while not self._stop_requested:
                for fd, _ in self._epoll.poll(self._probe_due()):
                    if (handle := self._handlers.get(fd)) is not None:
                        handle()
                if self._reload_requested:
                    self._reload_requested = False
                    self._reload()
        finally:
            self._close()
            signal.set_wakeup_fd(-1)
            for fd in (wake, woken):
                os.close(fd)

    def _request_stop(self, number: int, frame: object) -> None:
        self._stop_requested = True

    def _request_reload(self, number: int, frame: object) -> None:
        self._reload_requested = True

    def _read_input(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._stop_requested = True

    def _watch(self, fd: int, handle: Callable[[], Any]) -> None:
        self._handlers[fd] = handle
        self._epoll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def _probe_due(self) -> float | None:
        """Send the probes that are due; returns the seconds until the next one, None if there are no probes."""
        now, times = time.monotonic(), []
        for tunnel in self._tunnels.values():
            if (prober := tunnel.prober) is not None:
                prober.probe(now)
                times.append(prober.next_due())
        return max(0.0, min(times) - now) if times else None

    def _reload(self) -> None:
        """Serve exactly the ends in the configuration; those that have not changed stay open."""
        config = self._read()
        configs = {each.name: each for each in config.tunnels}
        for name, tunnel in list(self._tunnels.items()):
            if (each := configs.get(name)) is None or not tunnel.matches(each) or not _has_current_namespace(tunnel):
                self._close_tunnel(self._tunnels.pop(name))
            else:
                tunnel.adopt(each)
        self._sockets.close_unused()
        problems = {}
        for name, each in configs.items():
            if name not in self._tunnels and (problem := self._open(each)):
                problems[each.node] = problem
        with contextlib.suppress(OSError):
            self._listen(config.status)
        print(json.dumps({"generation": config.generation, "problems": problems}), flush=True)

    def _open(self, config: TunnelConfig) -> str | None:
        """Open one end. Returns the error, or None."""
        try:
            tunnel = Tunnel(config, self._sockets, lambda health: self._report(config, "health", **health))
        except OSError as error:
            detail = error.strerror or str(error)
            self._report(config, "refused", detail=f"cannot open the tunnel: {detail}")
            return detail
        self._tunnels[config.name] = tunnel
        if tunnel.device is not None:
            self._watch(tunnel.device.fd, lambda: self._receive(tunnel))
        if tunnel.prober is not None:
            self._watch(tunnel.prober.fd, tunnel.prober.receive)
        self._report(config, "open")
        return None

    def _receive(self, tunnel: Tunnel) -> None:
        assert tunnel.device is not None
        try:
            tunnel.device.receive()
        except OSError as error:  # it was removed: its descriptor would always be ready
            self._unwatch(tunnel.device.fd)
            self._report(tunnel.config, "lost", detail=f"device {tunnel.config.device}: {error.strerror}")

    def _close_tunnel(self, tunnel: Tunnel) -> None:
        if tunnel.device is not None and tunnel.device.fd in self._handlers:
            self._unwatch(tunnel.device.fd)
        if tunnel.prober is not None:
            self._unwatch(tunnel.prober.fd)
        tunnel.close()

    def _report(self, config: TunnelConfig, event: str, **details: Any) -> None:
        print(json.dumps({"node": config.node, "end": config.end, "event": event, **details}), flush=True)
        text = " ".join(f"{key} {value}" for key, value in details.items())
        print(f"{config.node}: {config.end}: {event} {text}".rstrip(), file=sys.stderr, flush=True)

    def _listen(self, path: str | None) -> None:
        """Serve the counters at the Unix socket `path`. Raises OSError."""
        if self._listener is not None:
            if self._listener[0] == path:
                return
            self._close_listener()
        if path is None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            with shortened(path) as short:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(short)  # left by a process that was killed
                sock.bind(short)
            sock.listen()
        except OSError as error:
            sock.close()
            print(f"cannot listen on {path}: {error.strerror}", file=sys.stderr, flush=True)
            raise
        self._listener = path, sock
        self._watch(sock.fileno(), self._answer)

    def _answer(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener[1].accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(ANSWER_TIMEOUT_S)
            connection.sendall(json.dumps(self.status()).encode())

    def status(self) -> dict[str, Any]:
        """The counters of each end, and by namespace the drops of packets that belong to none."""
        return {
            "tunnels": [tunnel.status() for tunnel in self._tunnels.values()],
            "drops": {netns: dict(drops) for netns, drops in self._sockets.drops.items() if drops},
        }

    def _close_listener(self) -> None:
        assert self._listener is not None
        path, sock = self._listener
        self._unwatch(sock.fileno())
        sock.close()
        self._listener = None
        with contextlib.suppress(OSError), shortened(path) as short:
            os.unlink(short)

    def _close(self) -> None:
        for tunnel in self._tunnels.values():
            self._close_tunnel(tunnel)
        self._tunnels.clear()
        self._sockets.close_unused()
        if self._listener is not None:
            self._close_listener()
        self._epoll.close()


def _has_current_namespace(tunnel: Tunnel) -> bool:
    """Whether its node still has the namespace that the tunnel was opened in."""
    try:
        return identity_of(tunnel.config.netns) == tunnel.namespace
    except OSError:
        return False


def _is_pipe(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
