"""A step between checks that stops, starts or kills nodes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from oxyctl.topology.checks.base import check_node
from oxyctl.topology.choices import Action
from oxyctl.topology.model import Check, ErrorAt, Lab
from oxyctl.topology.nodes.router import RouterNode
from oxyctl.topology.quantities import Duration, texts


class NodeCheck(Check, kw_only=True, frozen=True, tag="node"):
    """A step between checks, which runs alone. At the end of the run its nodes run as they did before."""

    do: Action
    node: str | Annotated[list[str], Meta(min_length=1)]
    timeout: Duration = 60

    @property
    def nodes(self) -> list[str]:
        """The nodes in the order of the file."""
        return texts(self.node)

    def summary(self) -> str:
        """The action and its nodes."""
        return f"{self.do} {' '.join(self.nodes)}"

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` unless all nodes exist, are listed once, and run a program."""
        super().validate(lab, error_at)
        for index, name in enumerate(self.nodes):
            key_path = ("node",) if isinstance(self.node, str) else ("node", index)
            check_node(lab, error_at, name, *key_path)
            if name in self.nodes[:index]:
                raise error_at(f"node '{name}' is listed twice", *key_path)
            if isinstance(lab.nodes[name], RouterNode):
                raise error_at(f"node '{name}' is a router: it has no program to {self.do}", *key_path)
