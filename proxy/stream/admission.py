"""Whether a flow may be, and how: who is asked between its first packet and its path."""

from __future__ import annotations

from typing import Protocol

from proxy.flow.flow import Flow
from proxy.verdict import Ruling


class Judge(Protocol):
    """A policy. It is asked once for each flow, before any hook, and again when its answer has expired."""

    def judge(self, flow: Flow) -> Ruling:
        """The verdict on the flow as it stands, with the decisions that led to it. It must not wait."""
        ...
