"""`ready:` of a program: what it must do before the lab counts it as ready."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from oxyctl.lab.steps import Exec, Http, Port, Probe
from oxyctl.nodes.base import Complaint, Part
from proxy.settings import suggest

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab
    from oxyctl.lab.plan import Draft

LOCAL = ["127.0.0.1", "::1"]
HTTP_PORT = 80


class Ready(Part, kw_only=True, frozen=True):
    """One of the three; without `timeout` the lab's own decides."""

    tcp: Annotated[int, Meta(ge=1, le=65_535)] | None = None  # accepted on any address of the node
    http: str | None = None  # GET is answered with 200 to 399
    exec: Annotated[list[str], Meta(min_length=1)] | None = None  # ends with exit code 0, run inside the node
    timeout: float | str | None = None

    def check(self, lab: Lab, complain: Complaint) -> None:
        """Exactly one is given, and it can be asked."""
        from oxyctl.lab.checks.base import seconds

        given = [key for key in ("tcp", "http", "exec") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise complain(f"one of tcp, http and exec is required (found {found})", "ready")
        try:
            if self.timeout is not None:
                seconds(self.timeout)
        except ValueError as error:
            raise complain(str(error), "ready", "timeout") from None
        if self.http is not None:
            self._check_url(self.http, lab, complain)

    def _check_url(self, url: str, lab: Lab, complain: Complaint) -> None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError as error:
            raise complain(f"not a URL: {error}", "ready", "http") from None
        if parts.scheme != "http" or not host:
            raise complain(f"not a URL that starts with http:// (found {url!r})", "ready", "http")
        if host != "localhost" and host not in lab.nodes and not _is_address(host):
            raise complain(f"unknown node '{host}'{suggest(host, lab.nodes)}", "ready", "http")

    def probe(self, node: str, draft: Draft) -> Probe:
        """The same as a step."""
        from oxyctl.lab.checks.base import seconds

        timeout_s = None if self.timeout is None else seconds(self.timeout)
        if self.tcp is not None:
            return Port(addresses=[*LOCAL, *draft.addresses(node)], port=self.tcp, timeout_s=timeout_s)
        if self.exec is not None:
            environment = draft.lab.nodes[node].env
            return Exec(command=self.exec, directory=str(draft.base), environment=environment, timeout_s=timeout_s)
        parts = urlsplit(self.http or "")
        host = parts.hostname or ""
        known = {"localhost": LOCAL} | {name: draft.addresses(name) for name in draft.lab.nodes}
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return Http(
            addresses=known.get(host, [host]),
            port=parts.port or HTTP_PORT,
            host=parts.netloc,
            path=path,
            timeout_s=timeout_s,
        )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
