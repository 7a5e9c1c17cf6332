"""Values that lab files, plans and requests to a running lab have in common."""

from __future__ import annotations

from typing import Literal

Restart = Literal["always", "on-failure", "never"]  # when a program that ended by itself is started again
Trust = Literal["lab-ca", "tenant-ca"]  # authorities besides the system's; "tenant-ca" includes the lab's
Action = Literal["stop", "start", "restart", "kill"]  # what can be done to the programs of a node
