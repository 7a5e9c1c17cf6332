"""Chooses the response to a request, whatever the version of HTTP."""

from __future__ import annotations

import logging
import urllib.parse
from asyncio import StreamWriter
from email.utils import formatdate

from oxyctl.services.host import Host
from oxyctl.services.http import files, grpc, resources
from oxyctl.services.http.messages import Header, Refused, Request, Response
from oxyctl.services.service import log, peer_name

BODILESS = (204, 304)


async def answer(request: Request, host: Host) -> Response:
    """The response: for a gRPC call its echo, otherwise a file below `root`, a resource, or an error."""
    try:
        if grpc.is_call(request):
            return grpc.echo(request)
        if host.root is not None and (file := files.find(request, host.root)) is not None:
            return file
        return await resources.find(request, host.name)
    except Refused as refused:
        return refused.response()


def split_target(target: str) -> tuple[str, dict[str, str]]:
    """Return the decoded path and the query of a request target. Refused: the target is invalid."""
    try:
        split = urllib.parse.urlsplit("//host" + target if target.startswith("/") else target)
    except ValueError as error:
        raise Refused(400, str(error)) from None
    return urllib.parse.unquote(split.path) or "/", dict(urllib.parse.parse_qsl(split.query))


def header_fields(response: Response) -> list[Header]:
    """The response's own fields, and those of every response."""
    fields = [("Date", formatdate(usegmt=True)), ("Server", "oxyctl"), *response.headers]
    if response.length is not None and response.status not in BODILESS:
        fields.append(("Content-Length", str(response.length)))
    return fields


def log_request(host: Host, request: Request, status: int, writer: StreamWriter) -> None:
    """Log the request, if requests are logged."""
    if log.isEnabledFor(logging.DEBUG):
        peer = peer_name(writer.transport)
        log.debug("%s %s %s %s %s: %d", host.name, request.scheme, peer, request.method, request.target, status)
