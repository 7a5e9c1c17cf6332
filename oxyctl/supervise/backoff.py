"""When to restart a program that has ended, by its node's policy, with exponential back-off. Pure."""

from __future__ import annotations

from oxyctl.topology.choices import Restart

FIRST_S, LAST_S, GROWTH = 0.1, 10.0, 2.0
STEADY_S = 10.0  # a program that ran this long starts again with the first pause


def is_wanted(policy: Restart, code: int) -> bool:
    """Whether to restart a program that ended with this exit code (negative: killed by this signal)."""
    return policy == "always" or (policy == "on-failure" and code != 0)


class Backoff:
    """The pauses before restarts of one node."""

    def __init__(self) -> None:
        self._pause_s = FIRST_S

    def next_s(self, ran_s: float) -> float:
        """Seconds to wait before the next start of a program that has just ended after `ran_s` seconds."""
        if ran_s >= STEADY_S:
            self._pause_s = FIRST_S
        pause_s, self._pause_s = self._pause_s, min(LAST_S, self._pause_s * GROWTH)
        return pause_s
