"""Any program, in a namespace of its own."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from oxyctl.topology.model import ErrorAt, Lab, Networks, Node
from oxyctl.topology.nodes.ready import Ready


class ProcessNode(Node, kw_only=True, frozen=True, tag="process"):
    """`command` runs in the directory of the lab file, with `env` added to the environment of `lab up`."""

    command: Annotated[list[str], Meta(min_length=1)]
    networks: Networks = field(default_factory=dict)
    ready: Ready | None = None  # None: it is ready once it runs

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for an invalid readiness probe."""
        if self.ready is not None:
            self.ready.check(lab, error_at)
