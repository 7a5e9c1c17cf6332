"""Called by the regression tests instead of sshd: puts the bridge before the real sshd. Imports nothing of the project.

sshd -i ...   one session on standard input and output: through the bridge, which starts `sshd -i` itself
sshd ...      a server: it gets another port, and the bridge listens at the one that the tests know
sshd -t ...   and all other options: runs the real sshd
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading

REAL, BRIDGE = os.environ["OXY_SSHD"], os.environ["OXY_BRIDGE"]
SHIFT = 1_000  # added to the real server's port
CHUNK = 64 << 10


def main(arguments: list[str]) -> None:
    """Do what `sshd` would."""
    if "-i" in arguments:
        one_session(arguments)
    elif "-t" in arguments or "-T" in arguments or "-f" not in arguments:
        os.execv(REAL, [REAL, *arguments])
    else:
        serve(arguments)


def serve(arguments: list[str]) -> None:
    """Start the real server on another port, and let the bridge listen."""
    at = arguments.index("-f") + 1
    path = arguments[at]
    with open(path) as file:
        text = file.read()
    found = re.search(r"^\s*Port\s+(\d+)", text, re.MULTILINE)
    port = int(found[1]) if found else 22
    arguments[at] = f"{path}.origin"
    with open(arguments[at], "w") as file:
        file.write(re.sub(r"^\s*Port\s+\d+", f"Port {port + SHIFT}", text, flags=re.MULTILINE))
    tell({"listen": port, "port": port + SHIFT}).recv(1)
    os.execv(REAL, [REAL, *arguments])


def one_session(arguments: list[str]) -> None:
    """Copy bytes both ways until both sides have ended."""
    sock = tell({"command": [REAL, *arguments], "environment": dict(os.environ)})

    def up() -> None:
        while data := os.read(0, CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    threading.Thread(target=up, daemon=True).start()
    while data := sock.recv(CHUNK):
        while data:
            data = data[os.write(1, data) :]


def tell(what: dict[str, object]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(BRIDGE)
    sock.sendall(json.dumps(what).encode() + b"\n")
    return sock


if __name__ == "__main__":
    main(sys.argv[1:])
