"""A site that sends GUE (draft-ietf-intarea-gue) straight to the proxy's UDP port."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from oxyctl.topology.model import Complaint, Lab
from oxyctl.topology.nodes.site import SiteNode
from proxy.settings.sites import MAX_TOKEN_BYTES


class GueSiteNode(SiteNode, kw_only=True, frozen=True, tag="gue-site"):
    """With `context` each packet says whose it is; without, its outer source alone does. The kernel's GUE has none."""

    context: bool | None = None  # user space has one, the kernel none
    version: Literal[0, 1] = 0
    token: Annotated[str, Meta(min_length=1)] | None = None

    @property
    def needs_user_space(self) -> bool:
        """Whether the file asks for what the kernel's GUE cannot do."""
        return bool(self.context) or self.token is not None or self.version == 1

    @property
    def may_have_context(self) -> bool:
        """Whether an end in user space sends one."""
        return self.context is not False and self.version == 0

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """A token stands in a context, a context in a header, and neither in what the kernel sends."""
        super().check(name, lab, complain)
        if self.version == 1 and (self.context or self.token is not None):
            raise complain("version 1 has no header that a context could stand in", "version")
        if self.token is not None and self.context is False:
            raise complain("a token stands in a context, and this site has none", "token")
        if self.token is not None and len(self.token.encode()) > MAX_TOKEN_BYTES:
            raise complain(f"a token has at most {MAX_TOKEN_BYTES} bytes", "token")
        if self.tunnel == "kernel" and self.needs_user_space:
            what = "version 1" if self.version == 1 else "a context"
            raise complain(f"the kernel's GUE does not send {what}", "tunnel")
