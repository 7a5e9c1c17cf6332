"""Features of the running kernel that tests of kernel tunnels need, each tried as in `oxyctl doctor`."""

from __future__ import annotations

import os
from functools import cache

from oxyctl.doctor import features, offramp

NEEDED = ("GRE", "GRE over IPv6", "FOU", "GUE", "GUE over IPv6", "netem", "tbf", "flowtable", "/dev/net/tun")


@cache
def missing() -> frozenset[str]:
    """The features in NEEDED that this kernel lacks; `root` for a user without the right to try."""
    found = {trial.name: trial for trial in (*features.trials(), *offramp.trials())}
    lacking = {name for name in NEEDED if found[name].run().state != "ok"}
    return frozenset(lacking if os.geteuid() == 0 else lacking | {"root"})
