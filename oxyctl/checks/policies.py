"""Steps that change policies between checks; they are restored at the end of the run."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from oxyctl.checks.result import Verdict
from oxyctl.checks.session import Session
from oxyctl.supervise.state import control_socket
from oxyctl.topology.checks import PolicyCheck
from oxyctl.topology.policies import policy_path, policy_text
from proxy.control.client import ControlClient
from proxy.policy.answers import Reloaded

RESTORE_TIMEOUT_S = 60


async def policy(check: PolicyCheck, _: str, session: Session) -> Verdict:
    """Replace a policy; check that it is in force in time and has ended the expected number of flows."""
    control = str(control_socket(session.lab.name, check.proxy))
    path = Path(control).parent / policy_path(check.tenant)
    if not session.policies_before:
        session.at_end(restore)  # even if the run is interrupted
    session.policies_before.setdefault(path, (control, await asyncio.to_thread(path.read_text)))
    began = time.monotonic()
    found = await asyncio.to_thread(_put, control, path, policy_text(check.policy), RESTORE_TIMEOUT_S)
    took_s = time.monotonic() - began
    is_met = took_s <= check.timeout_s and check.revokes in (None, found.revoked)
    ended = "" if check.revokes is None else f", and {check.revokes} live flows to end"
    actual = f"version {found.version} after {took_s * 1000:.0f} ms, {found.revoked} live flows ended"
    return Verdict(
        is_met, f"policy {check.summary()}", f"it to be in force within {check.timeout_s:g} s{ended}", actual
    )


async def restore(session: Session) -> None:
    """Restore the policies from before the run. ControlError, OSError: it failed."""
    before, session.policies_before = session.policies_before, {}
    for path, (control, text) in before.items():
        await asyncio.to_thread(_put, control, path, text, RESTORE_TIMEOUT_S)


def _put(control: str, path: Path, text: str, timeout_s: float) -> Reloaded:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)
    found = ControlClient(control, timeout_s=timeout_s).reload()
    assert found is not None  # validation has ensured that the proxy has policies
    return found
