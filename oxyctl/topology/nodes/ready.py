"""`ready:` of a program: the probe that determines when it is ready."""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from oxyctl.topology.model import ErrorAt, Lab, Part
from oxyctl.topology.quantities import seconds
from proxy.settings import suggest


class Ready(Part, kw_only=True, frozen=True):
    """Exactly one probe; without `timeout` the lab's time-out applies."""

    tcp: Annotated[int, Meta(ge=1, le=65_535)] | None = None  # a connection is accepted on any address of the node
    http: str | None = None  # GET is answered with 200 to 399
    exec: Annotated[list[str], Meta(min_length=1)] | None = None  # ends with exit code 0, run inside the node
    timeout: float | str | None = None

    def check(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` unless exactly one valid probe is given."""
        given = [key for key in ("tcp", "http", "exec") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise error_at(f"one of tcp, http and exec is required (found {found})", "ready")
        try:
            if self.timeout is not None:
                seconds(self.timeout)
        except ValueError as error:
            raise error_at(str(error), "ready", "timeout") from None
        if self.http is not None:
            self._check_url(self.http, lab, error_at)

    def _check_url(self, url: str, lab: Lab, error_at: ErrorAt) -> None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError as error:
            raise error_at(f"not a URL: {error}", "ready", "http") from None
        if parts.scheme != "http" or not host:
            raise error_at(f"not a URL that starts with http:// (found {url!r})", "ready", "http")
        if host != "localhost" and host not in lab.nodes and not _is_address(host):
            raise error_at(f"unknown node '{host}'{suggest(host, lab.nodes)}", "ready", "http")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
