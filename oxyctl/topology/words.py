"""Constants that lab files, plans and requests to a running lab have in common."""

from __future__ import annotations

from typing import Literal

Restart = Literal["always", "on-failure", "never"]  # whether a program that ended by itself is started again
Trust = Literal["lab-ca", "tenant-ca"]  # whose certificates beside the system's; who trusts a tenant's trusts the lab's
Action = Literal["stop", "start", "restart", "kill"]  # what can be done to the programs of a node
