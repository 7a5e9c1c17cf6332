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
    question = Impair(link=check.link, settings=check.impairment, clear=check.clear)
    changes = await asyncio.to_thread(ask_impair, session.lab, question)
    actual = "; ".join(f"{change.name}: {change.detail}" for change in changes) or "already so"
    return Verdict(True, f"impair {check.summary()}", "the link to be so", actual)


async def tunnel(check: TunnelCheck, _: str, session: Session) -> Verdict:
    """Wait until both ends report the expected health."""
    wanted = [check.health] if isinstance(check.health, str) else check.health
    by = [f"the site's end in {check.by}"] * bool(check.by) + [f"the edge's in {check.edge}"] * bool(check.edge)
    tried, expected = f"the tunnel of {check.site}", ", ".join([" or ".join(wanted), *by])
    deadline = time.monotonic() + check.timeout_s
    while True:
        status = await asyncio.to_thread(ask_status, session.lab)
        found = next((each for each in status.tunnels if each.site == check.site), None)
        if found is None:
            return Verdict(False, tried, expected, "the running lab has no such site")
        is_met = _is_met(check, wanted, found)
        if is_met or time.monotonic() >= deadline:
            return Verdict(is_met, tried, expected, _describe(found))
        await asyncio.sleep(PAUSE_S)


def _is_met(check: TunnelCheck, wanted: Sequence[str], found: TunnelStatus) -> bool:
    is_carried_so = check.by in (None, found.by) and check.edge in (None, found.edge)
    return is_carried_so and found.health in wanted and found.proxy_health in wanted


def _describe(found: TunnelStatus) -> str:
    carried = f"its end in {found.by}" + (f", the edge's in {found.edge}" if found.edge else "")
    return f"{found.health or 'unknown'} as the site sees it, {found.proxy_health or 'unknown'} to the proxy; {carried}"
