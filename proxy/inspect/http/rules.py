"""The policy phase `http`: facts for its conditions, computed on demand, and changes of headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from proxy.inspect.http.messages import Headers, RequestHead, ResponseHead, first, host_and_port
from proxy.policy import language as policy
from proxy.session.facts import TLSFacts
from proxy.verdict import HeaderChange

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Facts(policy.Facts):
    """The facts of one request, by Cloudflare Gateway's names, and of its response once that has arrived.

    A fact is computed when first looked up, since most rules name two or three; None if it is unknown.
    """

    __slots__ = ("request", "response", "tls")

    def __init__(self, request: RequestHead, response: ResponseHead | None, tls: TLSFacts | None) -> None:
        super().__init__()
        self.request, self.response, self.tls = request, response, tls

    def __missing__(self, name: str) -> Any:
        fact = _FACTS.get(name)
        value = self[name] = None if fact is None else fact(self)
        return value

    @property
    def host(self) -> str:
        """The request's host, without its port."""
        return host_and_port(self.request.authority)[0]

    @property
    def uri(self) -> str:
        """Path and query."""
        return self.request.path.decode("latin-1")

    def of_response(self, fact: Callable[[ResponseHead], Any]) -> Any:
        """A fact of the response; None before it has arrived."""
        return None if self.response is None else fact(self.response)


def _by_name(headers: Headers) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return {name: tuple(values) for name, values in found.items()}


def domains(host: str) -> tuple[str, ...]:
    """The host and its parent domains: `a.b.example`, `b.example`, `example`."""
    labels = host.split(".")
    return tuple(".".join(labels[index:]) for index in range(len(labels)))


def media_type(headers: Headers) -> str | None:
    """The media type of a body, without parameters; None without Content-Type."""
    value = first(headers, b"content-type")
    return None if value is None else value.partition(b";")[0].strip().lower().decode("latin-1")


_FACTS: dict[str, Callable[[Facts], Any]] = {
    "http.request.host": lambda f: f.host,
    "http.request.domains": lambda f: domains(f.host),
    "http.request.uri": lambda f: f.uri,
    "http.request.uri.path": lambda f: f.uri.partition("?")[0],
    "http.request.uri.query": lambda f: f.uri.partition("?")[2],
    "http.request.method": lambda f: f.request.method.decode("latin-1"),
    "http.request.version": lambda f: f"HTTP/{f.request.version}",
    "http.request.headers": lambda f: _by_name(f.request.headers),
    "http.conn.hostname": lambda f: f.tls.sni if f.tls is not None else f.host,
    "http.upload.mime": lambda f: media_type(f.request.headers),
    "http.upload.file.size": lambda f: f.request.length,
    "http.response.code": lambda f: f.of_response(lambda r: r.status),
    "http.response.headers": lambda f: f.of_response(lambda r: _by_name(r.headers)),
    "http.download.mime": lambda f: f.of_response(lambda r: media_type(r.headers)),
    "http.download.file.size": lambda f: f.of_response(lambda r: r.length),
}


def apply_changes(headers: Headers, changes: Sequence[HeaderChange]) -> Headers:
    """`headers` after `changes`; a change with an invalid name or value is ignored."""
    for change in changes:
        if not _TOKEN.fullmatch(change.name):
            continue
        name = change.name.encode("ascii")
        headers = [each for each in headers if each[0].lower() != name.lower()]
        if change.value is not None and change.value.isprintable():
            headers.append((name, change.value.encode("utf-8")))
    return headers
