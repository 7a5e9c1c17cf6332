"""The resources that every node has; the package's docstring is their table."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from oxyctl.services.http import broken, content
from oxyctl.services.http.messages import Header, Refused, Request, Response, byte_range, json, text

BINARY: Header = ("Content-Type", "application/octet-stream")
MAX_HASHED_BYTES = 64 << 30
MAX_DRIPS = 1_000_000
MAX_DELAY_S = 3600.0
READ = ("GET", "HEAD")
WRITE = ("POST", "PUT")

Resource = Callable[[Request, str, str], Awaitable[Response]]  # (request, node, the path after its name)


async def page(request: Request, node: str, _rest: str) -> Response:
    """Addresses of both ends, so that a proxy's addresses can be seen from the far end."""
    details = {
        "node": node,
        "client": request.client[0],
        "client_port": request.client[1],
        "server": request.server[0],
        "server_port": request.server[1],
        "scheme": request.scheme,
        "method": request.method,
        "path": request.target,
        "version": request.version,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    if "application/json" in (request.header("accept") or ""):
        return json(details)
    return text("".join(f"{name:<12} {value}\n" for name, value in details.items()))


async def numbered_bytes(request: Request, _node: str, rest: str) -> Response:
    """N bytes, or with `.sha256` their SHA-256."""
    number, dot, suffix = rest.partition(".")
    size = _parse_count(number, content.MAX_BYTES)
    if dot:
        if suffix != "sha256":
            raise Refused(404)
        if size > MAX_HASHED_BYTES:
            raise Refused(400, f"digests are limited to {MAX_HASHED_BYTES} bytes")
        return text(await content.sha256(size) + "\n")
    requested = byte_range(request.header("range"), size)
    start, stop = requested or (0, size)
    headers = [BINARY, ("Accept-Ranges", "bytes")]
    if requested:
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    return Response(206 if requested else 200, headers, content.pieces(start, stop), stop - start)


async def headers(request: Request, _node: str, _rest: str) -> Response:
    """The request's headers as they arrived, repeated ones included."""
    return json({"headers": request.headers})


async def status(_request: Request, _node: str, rest: str) -> Response:
    """An empty response with the requested status."""
    code = _parse_count(rest, 599)
    if code < 200:
        raise Refused(400, "a final status is 200 to 599")
    return Response(code)


async def delay(_request: Request, _node: str, rest: str) -> Response:
    """A response after this many seconds."""
    seconds = _seconds(rest)
    await asyncio.sleep(seconds)
    return text(f"after {seconds:g} s\n")


async def drip(request: Request, _node: str, rest: str) -> Response:
    """A slow body: one byte at a time."""
    count, interval = _parse_count(rest, MAX_DRIPS), _seconds(request.query.get("interval", "0.1"))

    async def drops() -> AsyncIterator[bytes]:
        for number in range(count):
            if number:
                await asyncio.sleep(interval)
            yield b"."

    return Response(200, [BINARY], drops(), count)


async def events(request: Request, _node: str, rest: str) -> Response:
    """Server-sent events: `id` and `data` are numbers from 1."""
    count, interval = _parse_count(rest, MAX_DRIPS), _seconds(request.query.get("interval", "0.1"))

    async def stream() -> AsyncIterator[bytes]:
        for number in range(1, count + 1):
            if number > 1:
                await asyncio.sleep(interval)
            yield f"id: {number}\ndata: {number}\n\n".encode()

    return Response(200, [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")], stream())


async def broken_answer(_request: Request, _node: str, rest: str) -> Response:
    """A response that violates the protocol."""
    if rest not in broken.ANSWERS:
        raise Refused(404, f"expected one of {', '.join(broken.ANSWERS)}")
    raise broken.Broken(rest)


async def echo(request: Request, _node: str, _rest: str) -> Response:
    """The request's body, sent back while it arrives."""
    length = request.header("content-length")
    kind = request.header("content-type") or BINARY[1]
    return Response(200, [("Content-Type", kind)], request.body, int(length) if length else None)


async def sink(request: Request, _node: str, _rest: str) -> Response:
    """The size and digest of the request's body."""
    digest = None if request.query.get("sha256") == "no" else hashlib.sha256()
    count = 0
    async for piece in request.body:
        count += len(piece)
        if digest is not None:
            digest.update(piece)
    return json({"bytes": count, "sha256": digest and digest.hexdigest()})


RESOURCES: dict[str, tuple[tuple[str, ...] | None, Resource]] = {  # first segment: (methods, None for any; resource)
    "": (None, page),
    "bytes": (READ, numbered_bytes),
    "headers": (None, headers),
    "status": (None, status),
    "delay": (None, delay),
    "drip": (READ, drip),
    "events": (READ, events),
    "broken": (READ, broken_answer),
    "echo": (WRITE, echo),
    "sink": (WRITE, sink),
}


async def find(request: Request, node: str) -> Response:
    """The resource at the path. Refused with 404 or 405."""
    name, _, rest = request.path.removeprefix("/").partition("/")
    if name not in RESOURCES:
        raise Refused(404, f"{node} has no {request.path}")
    methods, resource = RESOURCES[name]
    if methods is not None and request.method not in methods:
        raise Refused(405, f"{request.method} is not allowed for {request.path}", [("Allow", ", ".join(methods))])
    return await resource(request, node, rest)


def _parse_count(number: str, largest: int) -> int:
    if not (number.isascii() and number.isdigit() and len(number) < 16 and int(number) <= largest):
        raise Refused(400, f"expected a number from 0 to {largest}, not '{number}'")
    return int(number)


def _seconds(number: str) -> float:
    try:
        seconds = float(number)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_DELAY_S:
        raise Refused(400, f"expected seconds from 0 to {MAX_DELAY_S:g}, not '{number}'")
    return seconds
