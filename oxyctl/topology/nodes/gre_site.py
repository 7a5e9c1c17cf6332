"""A site behind a GRE tunnel (RFC 2784, RFC 2890), which ends in the proxy's namespace, at its edge."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from oxyctl.topology.nodes.site import By, SiteNode


class GreSiteNode(SiteNode, kw_only=True, frozen=True, tag="gre-site"):
    """`edge`: what carries the other end of the tunnel; the same as `tunnel` by default."""

    key: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] | None = None
    checksum: bool = False
    edge: By | None = None
