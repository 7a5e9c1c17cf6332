"""Responses that violate HTTP in a chosen way, to test how inspectors and clients react."""

from __future__ import annotations

from typing import Literal

from oxyctl.services.http.messages import Header

ANSWERS: dict[str, bytes] = {
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfewer than was said",
    "long": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore than was said",
    "cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "reset": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "framings": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "garbage": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}
_LENGTHS = {"short": 100, "long": 4}
Ending = Literal["stream", "reset", "connection"]


class Broken(Exception):
    """Send these bytes and close the connection; `reset`: with RST."""

    def __init__(self, kind: str) -> None:
        super().__init__("broken on purpose")
        self.kind, self.answer = kind, ANSWERS[kind]


def h2_response(kind: str) -> tuple[list[Header], bytes, Ending]:
    """The same fault in HTTP/2: fields (none: no response), body, and how it ends.

    Faults that HTTP/2 does not have, such as two framings, become a stream or connection that breaks off.
    """
    if kind in _LENGTHS:
        data = ANSWERS[kind].partition(b"\r\n\r\n")[2]
        return [("content-length", str(_LENGTHS[kind]))], data, "stream"
    if kind == "header":
        return (
            [(f"x-long-{number}", "x" * 2048) for number in range(512)],
            b"",
            "stream",
        )  # hpack is slow with long ones
    if kind in ("cut", "reset"):
        return [("content-type", "text/plain")], b"hello", "reset" if kind == "reset" else "connection"
    return [], b"", "connection" if kind in ("garbage", "nothing") else "reset"
