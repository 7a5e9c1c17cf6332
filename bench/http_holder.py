"""Holds TLS connections: `python -m bench.http_holder TRUST COUNT SECONDS` in the client's namespace.

Each requests 1 KiB once and is then idle. Prints `{"done": ..., "failed": ...}`. For each line on standard input, every
connection sends one more request, and the number of responses is printed. It ends with standard input.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import ssl
import sys
import time

from bench.http_origin import HOST
from bench.topology import ORIGIN_ADDRESS

REQUEST = f"GET /1k HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
BODY_BYTES = 1024
PATIENCE_S = 10.0  # for one connection's SYN to be answered
AT_ONCE = 50  # connections being opened


class Connection:
    """One connection. `is_whole`: the response to its last request is complete."""

    def __init__(self, context: ssl.SSLContext) -> None:
        sock = socket.create_connection((ORIGIN_ADDRESS, 443), PATIENCE_S)
        sock.setblocking(False)
        self.sock = context.wrap_socket(sock, server_hostname=HOST, do_handshake_on_connect=False)
        self._is_shaken = False
        self._got = b""

    @property
    def is_whole(self) -> bool:
        head, end, body = self._got.partition(b"\r\n\r\n")
        return bool(end) and head.startswith(b"HTTP/1.1 200") and len(body) == BODY_BYTES

    def ask(self) -> None:
        """Send a request, which fits into the socket's buffer."""
        self._got = b""
        self.sock.send(REQUEST)

    def ready(self) -> int:
        """The events that it waits for next; 0: none. OSError: it broke."""
        try:
            if not self._is_shaken:
                self.sock.do_handshake()
                self._is_shaken = True
                self.ask()
            while not self.is_whole:
                data = self.sock.recv(65_536)
                if not data:
                    raise ConnectionError("it was closed")
                self._got += data
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        return 0


def main(trust: str, count: int, seconds: float) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    context = ssl.create_default_context(cafile=trust)
    connections = _open(context, count, time.monotonic() + seconds)
    _say(len(connections), count - len(connections))
    for _ in sys.stdin:
        _say(*_ask(connections, time.monotonic() + seconds))


def _open(context: ssl.SSLContext, count: int, deadline: float) -> list[Connection]:
    opened: list[Connection] = []
    selector, begun, waiting = selectors.DefaultSelector(), 0, 0
    while (begun < count or waiting) and time.monotonic() < deadline:
        while begun < count and waiting < AT_ONCE:
            connection = Connection(context)
            selector.register(connection.sock, selectors.EVENT_WRITE, connection)
            begun, waiting = begun + 1, waiting + 1
        ended, answered = _turn(selector)
        waiting -= ended
        opened += answered
    return opened


def _ask(connections: list[Connection], deadline: float) -> tuple[int, int]:
    selector, waiting, done = selectors.DefaultSelector(), 0, 0
    for connection in connections:
        connection.ask()
        selector.register(connection.sock, selectors.EVENT_READ, connection)
        waiting += 1
    while waiting and time.monotonic() < deadline:
        ended, answered = _turn(selector)
        waiting -= ended
        done += len(answered)
    return done, len(connections) - done


def _turn(selector: selectors.BaseSelector) -> tuple[int, list[Connection]]:
    """The number of connections that have ended, and those that ended well."""
    ended, answered = 0, []
    for key, _ in selector.select(1.0):
        try:
            wanted = key.data.ready()
        except OSError:
            wanted = -1
        if wanted > 0:
            selector.modify(key.fileobj, wanted, key.data)
        else:
            selector.unregister(key.fileobj)
            ended += 1
            if wanted == 0:
                answered.append(key.data)
    return ended, answered


def _say(done: int, failed: int) -> None:
    print(json.dumps({"done": done, "failed": failed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
