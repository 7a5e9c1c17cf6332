"""Steps and checks about links: impairing a link, and the health of a site's tunnel."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from oxyctl.net.impairment import PARSERS, ImpairmentSettings, Loss
from oxyctl.topology.checks.base import parsed
from oxyctl.topology.model import Check, ErrorAt, Lab
from oxyctl.topology.nodes.site import SiteNode
from oxyctl.topology.nodes.warp import WarpNode
from oxyctl.topology.quantities import Duration
from proxy.settings import suggest

TUNNEL = "tunnel"
Health = Literal["healthy", "degraded", "down"]


class ImpairCheck(Check, kw_only=True, frozen=True, tag="impair"):
    """A step between checks: impairs links until another step changes them. It runs alone."""

    link: str
    rate: str | None = None
    delay: str | None = None
    jitter: str | None = None
    loss: Loss | None = None
    down: bool | None = None
    clear: bool = False
    timeout: Duration = 20

    @property
    def impairment(self) -> ImpairmentSettings:
        """The impairment."""
        return ImpairmentSettings(rate=self.rate, delay=self.delay, jitter=self.jitter, loss=self.loss, down=self.down)

    def summary(self) -> str:
        """The link and its impairment."""
        words = [f"{name} {value}" for name in PARSERS if (value := getattr(self, name)) is not None]
        state = [] if self.down is None else ["down" if self.down else "up"]
        return " ".join([self.link, *(["clear"] if self.clear else []), *state, *words])

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` unless the link exists and the step changes it."""
        super().validate(lab, error_at)
        known = [*lab.networks, *(f"{name}:{network}" for name, node in lab.nodes.items() for network in node.attached)]
        known += [f"{name}:{TUNNEL}" for name, node in lab.nodes.items() if isinstance(node, WarpNode)]
        if self.link not in known:
            raise error_at(f"unknown link '{self.link}'{suggest(self.link, known)}", "link")
        if self.impairment == ImpairmentSettings() and not self.clear:
            raise error_at("one of rate, delay, jitter, loss, down and clear is required")
        for name, parse in PARSERS.items():
            if (value := getattr(self, name)) is not None:
                parsed(error_at, name, parse, value)


class TunnelCheck(Check, kw_only=True, frozen=True, tag="tunnel"):
    """The tunnel of a site has this health as seen from both ends; checked repeatedly until its `timeout`."""

    site: str
    health: Health | Annotated[list[Health], Meta(min_length=1)] = "healthy"
    by: Literal["kernel", "user space"] | None = None
    edge: Literal["kernel", "user space"] | None = None
    timeout: Duration = 10

    def summary(self) -> str:
        """The name of the site."""
        return self.site

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` unless the node is a site."""
        super().validate(lab, error_at)
        sites = [name for name, node in lab.nodes.items() if isinstance(node, SiteNode)]
        if self.site not in sites:
            fault = f"node '{self.site}' is not a site" if self.site in lab.nodes else f"unknown site '{self.site}'"
            raise error_at(fault + suggest(self.site, sites), "site")
