"""What the running kernel has of what the tests of kernel tunnels need: each thing tried, as `oxyctl doctor` does."""

from __future__ import annotations

import os
from functools import cache

from oxyctl.doctor.features import trials

NEEDED = ("GRE", "GRE over IPv6", "FOU", "GUE", "GUE over IPv6", "netem", "tbf", "/dev/net/tun")


@cache
def missing() -> frozenset[str]:
    """Those of NEEDED that this kernel cannot do; `root` for a user who may not try."""
    found = {trial.name: trial for trial in trials()}
    lacking = {name for name in NEEDED if found[name].run().state != "ok"}
    return frozenset(lacking if os.geteuid() == 0 else lacking | {"root"})
