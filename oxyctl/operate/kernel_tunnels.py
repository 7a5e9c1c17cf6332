"""Which tunnels this kernel supports, determined by creating them in temporary namespaces."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from oxyctl.doctor.finding import Outcome
from oxyctl.doctor.modules import module_fix
from oxyctl.doctor.sandbox import in_sandbox
from oxyctl.errors import OxyctlError
from oxyctl.net.tunnels import try_tunnel
from oxyctl.plan.site_tunnels import kernel_kind
from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import GreSiteNode, SiteNode
from oxyctl.topology.sites import sites_of

MODULES = {"gre": "ip_gre", "ip6gre": "ip6_gre", "gue": "fou", "gue6": "fou6"}
LABELS = {"gre": "GRE", "ip6gre": "GRE over IPv6", "gue": "GUE", "gue6": "GUE over IPv6"}


def kernel_kinds(kinds: Iterable[str]) -> frozenset[str]:
    """The `kinds` of tunnels that the kernel supports."""
    return frozenset(kind for kind in set(kinds) if unsupported_reason(kind) is None)


def unsupported_reason(kind: str) -> str | None:
    """Why the kernel does not support tunnels of `kind`; None: it does."""
    try:
        in_sandbox(partial(_try, kind))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _try(kind: str) -> Outcome:
    try_tunnel(kind)
    return Outcome("ok")


def supported_kinds_for(lab: Lab) -> frozenset[str]:
    """The supported kinds among those that sites of `lab` may use. OxyctlError: a site requires an unsupported kind."""
    sites = sites_of(lab)
    kinds = {name: kernel_kind(lab, name) for name, site in sites.items() if _may_use_kernel(site)}
    supported = kernel_kinds(kinds.values())
    for name, kind in kinds.items():
        if kind not in supported and "kernel" in _settings(sites[name]):
            fix = module_fix(MODULES[kind])
            hint = f"; try: {fix}" if fix else "; or use `tunnel: auto`, which falls back to an agent"
            raise OxyctlError(
                f"node '{name}': this kernel does not support {LABELS[kind]} ({unsupported_reason(kind)}){hint}"
            )
    return supported


def _may_use_kernel(site: SiteNode) -> bool:
    return bool({"kernel", "auto"} & _settings(site))


def _settings(site: SiteNode) -> set[str]:
    edge = site.edge if isinstance(site, GreSiteNode) else None
    return {site.tunnel, edge or site.tunnel}
