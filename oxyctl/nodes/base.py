"""What every kind of node has in common: the contract between a kind, the checks of a lab file, and the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import msgspec

from oxyctl.lab.steps import Restart
from oxyctl.net.impairment import Loss, Mtu, Said
from proxy.settings import DocumentError

if TYPE_CHECKING:
    from oxyctl.lab.model import Lab
    from oxyctl.lab.plan import Draft

Place = tuple[str | int, ...]  # in what the file says of a node
Complaint = Callable[..., DocumentError]  # complain(message, *place below the node, at_key=False)


class Part(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Something that a lab file may say."""


class Impaired(Part, frozen=True):
    """What is done to each frame of a link, in either direction."""

    rate: str | None = None
    delay: str | None = None
    jitter: str | None = None
    loss: Loss | None = None
    down: bool | None = None

    @property
    def said(self) -> Said:
        """The same by itself."""
        return Said(rate=self.rate, delay=self.delay, jitter=self.jitter, loss=self.loss, down=self.down)


class Attachment(Impaired, frozen=True):
    """A node's link to a network. What is not said here is as the network says."""

    addresses: list[str] = msgspec.field(default_factory=list)
    mtu: Mtu | None = None


# `[internet]`: an address in each subnet of it, chosen for the node; `{internet: [10.0.0.1]}`: these and no others
Networks = list[str] | dict[str, list[str] | Attachment]


class StaticRoute(Part, frozen=True):
    """The way `to` a prefix, a network of the lab, or everything (`default`): by way of a node, or of an address."""

    to: str
    via: str


class Node(Part, frozen=True, tag_field="kind"):
    """One namespace of a lab and what runs there."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None  # `expand` makes so many nodes of it
    routes: list[StaticRoute] = msgspec.field(default_factory=list)
    files: dict[str, str] = msgspec.field(default_factory=dict)  # by absolute path
    env: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    restart: Restart = "never"  # when its program has ended by itself
    resolver: bool = True  # whether port 53 of 127.0.0.1 answers for the lab's names

    @property
    def kind(self) -> str:
        """The word in the lab file."""
        return str(self.__struct_config__.tag)

    @property
    def attached(self) -> dict[str, list[str]]:
        """The networks that it is in, each with the addresses that the file gives it there."""
        networks: Networks = getattr(self, "networks", {})
        if isinstance(networks, list):
            return {name: [] for name in networks}
        return {name: each.addresses if isinstance(each, Attachment) else each for name, each in networks.items()}

    def attachment(self, network: str) -> Attachment:
        """What the file says of its link to `network`."""
        networks: Networks = getattr(self, "networks", {})
        each = networks[network] if isinstance(networks, dict) else []
        return each if isinstance(each, Attachment) else Attachment(addresses=each)

    def place_of(self, network: str) -> Place:
        """Where its link to `network` stands."""
        networks: Networks = getattr(self, "networks", {})
        return ("networks", networks.index(network) if isinstance(networks, list) else network)

    def addresses_place(self, network: str) -> Place:
        """Where the list of its addresses in `network` stands."""
        networks: Networks = getattr(self, "networks", {})
        said = networks[network] if isinstance(networks, dict) and network in networks else None
        return (*self.place_of(network), "addresses") if isinstance(said, Attachment) else self.place_of(network)

    def check(self, name: str, lab: Lab, complain: Complaint) -> None:
        """Raise what `complain` makes of the first thing that makes no sense."""

    def plan(self, name: str, draft: Draft) -> None:
        """Add to `draft` what the node `name` needs."""
        raise NotImplementedError
