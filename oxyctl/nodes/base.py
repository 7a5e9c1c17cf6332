"""What every kind of node has in common: the contract between a kind, the checks of a lab file, and the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from proxy.settings import DocumentError

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab
    from oxyctl.lab.plan import Draft

# `[internet]`: an address in each subnet of it, chosen for the node; `{internet: [10.0.0.1]}`: these and no others
Networks = list[str] | dict[str, list[str]]
Complaint = Callable[..., DocumentError]  # complain(message, *place below the node, at_key=False)


class Part(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Something that a lab file may say."""


class Node(Part, frozen=True, tag_field="kind"):
    """One namespace of a lab and what runs there."""

    @property
    def kind(self) -> str:
        """The word in the lab file."""
        return str(self.__struct_config__.tag)

    @property
    def attached(self) -> dict[str, list[str]]:
        """The networks that it is in, each with the addresses that the file gives it there."""
        networks: Networks = getattr(self, "networks", {})
        return networks if isinstance(networks, dict) else {name: [] for name in networks}

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """Raise what `complain` makes of the first thing that makes no sense."""

    def plan(self, name: str, draft: Draft) -> None:
        """Add to `draft` what the node `name` needs."""
        raise NotImplementedError
