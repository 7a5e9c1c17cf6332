"""Steps that change policies between checks; they are restored at the end of the run."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from oxyctl.checks.result import Verdict
from oxyctl.checks.session import Session
from oxyctl.render.units import count_text
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
    if not session.original_policies:
        session.at_end(restore)  # even if the run is interrupted
    session.original_policies.setdefault(path, (control, await asyncio.to_thread(path.read_text)))
    started = time.monotonic()
    reloaded = await asyncio.to_thread(_replace_policy, control, path, policy_text(check.policy), RESTORE_TIMEOUT_S)
    took_s = time.monotonic() - started
    is_met = took_s <= check.timeout_s and check.revokes in (None, reloaded.revoked)
    ended = "" if check.revokes is None else f", and {count_text(check.revokes, 'live flow')} to end"
    actual = (
        f"version {reloaded.version} after {took_s * 1000:.0f} ms, {count_text(reloaded.revoked, 'live flow')} ended"
    )
    return Verdict(
        is_met, f"policy {check.summary()}", f"it to be in force within {check.timeout_s:g} s{ended}", actual
    )


async def restore(session: Session) -> None:
    """Restore the policies from before the run. ControlError, OSError: it failed."""
    before, session.original_policies = session.original_policies, {}
    for path, (control, text) in before.items():
        await asyncio.to_thread(_replace_policy, control, path, text, RESTORE_TIMEOUT_S)


def _replace_policy(control: str, path: Path, text: str, timeout_s: float) -> Reloaded:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    os.replace(temporary, path)
    reloaded = ControlClient(control, timeout_s=timeout_s).reload()
    assert reloaded is not None  # validation has ensured that the proxy has policies
    return reloaded
