"""Any program of the user's, in a namespace of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from oxyctl.lab.steps import Process, Running
from oxyctl.nodes.base import Complaint, Networks, Node
from oxyctl.nodes.ready import Ready

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab
    from oxyctl.lab.plan import Draft


class ProcessNode(Node, kw_only=True, frozen=True, tag="process"):
    """`command` runs in the directory of the lab file, with `env` added to the environment of `lab up`."""

    command: Annotated[list[str], Meta(min_length=1)]
    networks: Networks = field(default_factory=dict)
    ready: Ready | None = None  # else it is ready when it runs

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """Its readiness can be asked for."""
        if self.ready is not None:
            self.ready.check(lab, complain)

    def plan(self, name: str, draft: Draft) -> None:
        """One namespace, one process."""
        draft.add_namespace(name)
        command, directory = self.command, str(draft.base)
        draft.processes.append(
            Process(name=name, node=name, command=command, directory=directory, environment=self.env)
        )
        probe = Running() if self.ready is None else self.ready.probe(name, draft)
        draft.add_node(name, self.kind, process=name, probe=probe)
