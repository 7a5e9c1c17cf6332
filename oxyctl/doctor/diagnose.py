"""Turns the error of a lab that failed to start into a suggested fix."""

from __future__ import annotations

import re

from oxyctl.doctor import features, limits
from oxyctl.doctor.finding import Finding, Trial

# Texts of errors, and the trials that find the reason. The first match decides.
SYMPTOMS = (
    (r"user namespace|new namespaces|unshare|setns", ("namespaces", "AppArmor")),
    (r"/dev/net/tun|TUNSETIFF|tun device", ("/dev/net/tun",)),
    (r"^bridge |bridge link|Unknown device type|link .*: ", ("bridge", "veth")),
    (r"ipv6|address fd|address fe|Address family not supported", ("IPv6",)),
    (r"Too many open files", ("open files",)),
    (r"run directory", ("run directory",)),
)


def diagnose(error: object) -> str | None:
    """What this machine lacks, and the command that fixes it, if that caused `error`; otherwise None.

    `error`: an exception or its text. Tries again what seems to be missing, in children that leave nothing behind.
    """
    text = str(error)
    for pattern, names in SYMPTOMS:
        if re.search(pattern, text, re.IGNORECASE | re.MULTILINE):
            findings = [trial.run() for trial in _trials() if trial.name in names]
            return "\n".join(filter(None, map(_explain, findings))) or None
    return None


def _trials() -> list[Trial]:
    return [*limits.trials(), *features.trials()]


def _explain(finding: Finding) -> str | None:
    if finding.state == "ok":
        return None
    detail = f" ({finding.detail})" if finding.detail else ""
    fix = f"; try: {finding.fix}" if finding.fix else ""
    state = "cannot be used" if finding.state == "missing" else finding.state
    return f"hint: {finding.name}: {state}{detail}{fix}; `oxyctl doctor` shows details"
