"""Answers that break HTTP/1.1, byte by byte: what an inspector, or a client, makes of them can be seen in a lab."""

from __future__ import annotations

ANSWERS: dict[str, bytes] = {
    "short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfewer than was said",
    "long": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore than was said",
    "cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "framings": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "garbage": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n",
    "nothing": b"",
}


class Broken(Exception):
    """Send these bytes, and close."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("broken on purpose")
        self.answer = answer
