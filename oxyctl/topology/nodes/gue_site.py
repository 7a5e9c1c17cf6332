"""A site that sends GUE (draft-ietf-intarea-gue) straight to the proxy's UDP port."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from oxyctl.topology.model import ErrorAt, Lab
from oxyctl.topology.nodes.site import SiteNode
from proxy.settings.sites import MAX_TOKEN_BYTES


class GueSiteNode(SiteNode, kw_only=True, frozen=True, tag="gue-site"):
    """With `context` each packet names its tenant and site; without, its outer source identifies them."""

    context: bool | None = None  # by default user space sends one; the kernel cannot
    version: Literal[0, 1] = 0
    token: Annotated[str, Meta(min_length=1)] | None = None

    @property
    def needs_user_space(self) -> bool:
        """Whether the file requires something that the kernel's GUE cannot do."""
        return bool(self.context) or self.token is not None or self.version == 1

    @property
    def may_have_context(self) -> bool:
        """Whether a tunnel end in user space sends a context."""
        return self.context is not False and self.version == 0

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for a context or token that the tunnel cannot send."""
        super().check(name, lab, error_at)
        if self.version == 1 and (self.context or self.token is not None):
            raise error_at("version 1 has no header for a context", "version")
        if self.token is not None and self.context is False:
            raise error_at("a token is part of a context, and this site sends none", "token")
        if self.token is not None and len(self.token.encode()) > MAX_TOKEN_BYTES:
            raise error_at(f"a token has at most {MAX_TOKEN_BYTES} bytes", "token")
        if self.tunnel == "kernel" and self.needs_user_space:
            what = "version 1" if self.version == 1 else "a context"
            raise error_at(f"the kernel's GUE does not send {what}", "tunnel")
