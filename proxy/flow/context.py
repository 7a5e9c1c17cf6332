"""The application's view of a flow: its current record, and the application's own extension."""

from __future__ import annotations

from typing import Generic

from proxy.context import Extension
from proxy.flow.record import FlowRecord


class FlowContext(FlowRecord, Generic[Extension], kw_only=True):
    """A flow's record, and `extension`: the tunnel's, until a hook that decides about the flow assigns another."""

    extension: Extension | None = None
