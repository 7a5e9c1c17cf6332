"""Steps that impair links, and checks of sites' tunnels, both by requests to the supervisor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from oxyctl.checks.result import Verdict
from oxyctl.checks.session import Session
from oxyctl.operate.ask import ask_impair, ask_status
from oxyctl.supervise.requests import Impair
from oxyctl.supervise.site_status import TunnelStatus
from oxyctl.topology.checks import ImpairCheck, TunnelCheck

PAUSE_S = 0.1


async def impair(check: ImpairCheck, _: str, session: Session) -> Verdict:
    """Impair links. OxyctlError: it failed."""
    request = Impair(link=check.link, settings=check.impairment, clear=check.clear)
    changes = await asyncio.to_thread(ask_impair, session.lab, request)
    actual = "; ".join(f"{change.name}: {change.detail}" for change in changes) or "no change"
    return Verdict(True, f"impair {check.summary()}", "the link to be impaired as given", actual)


async def tunnel(check: TunnelCheck, _: str, session: Session) -> Verdict:
    """Wait until both ends report the expected health."""
    expected_health = [check.health] if isinstance(check.health, str) else check.health
    by = [f"the site's end in {check.by}"] * bool(check.by) + [f"the edge's in {check.edge}"] * bool(check.edge)
    tried, expected = f"the tunnel of {check.site}", ", ".join([" or ".join(expected_health), *by])
    deadline = time.monotonic() + check.timeout_s
    while True:
        status = await asyncio.to_thread(ask_status, session.lab)
        tunnel_status = next((each for each in status.tunnels if each.site == check.site), None)
        if tunnel_status is None:
            return Verdict(False, tried, expected, "the running lab has no such site")
        is_met = _is_met(check, expected_health, tunnel_status)
        if is_met or time.monotonic() >= deadline:
            return Verdict(is_met, tried, expected, _describe(tunnel_status))
        await asyncio.sleep(PAUSE_S)


def _is_met(check: TunnelCheck, expected_health: Sequence[str], tunnel_status: TunnelStatus) -> bool:
    has_carriers = check.by in (None, tunnel_status.by) and check.edge in (None, tunnel_status.edge)
    return has_carriers and tunnel_status.health in expected_health and tunnel_status.proxy_health in expected_health


def _describe(tunnel_status: TunnelStatus) -> str:
    carried = f"its end in {tunnel_status.by}" + (f", the edge's in {tunnel_status.edge}" if tunnel_status.edge else "")
    site, proxy = tunnel_status.health or "unknown", tunnel_status.proxy_health or "unknown"
    return f"{site} seen by the site, {proxy} seen by the proxy; {carried}"
