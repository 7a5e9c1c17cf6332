"""The phases in which policies are judged."""

from __future__ import annotations

from typing import Literal, get_args

Phase = Literal["tunnel", "dns", "network", "egress", "tls", "ssh", "http"]
PHASES: tuple[Phase, ...] = get_args(Phase)  # in the order in which they are judged
