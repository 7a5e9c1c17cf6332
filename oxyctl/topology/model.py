"""A lab: networks, nodes and checks. Each kind of node is in `nodes`, each kind of check in `checks`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, field

from oxyctl.net.impairment import Loss, Mtu, Said
from oxyctl.topology.quantities import Duration, seconds
from oxyctl.topology.words import Restart, Trust
from proxy.settings import DocumentError

Place = tuple[str | int, ...]  # in what the file says of a node
Complaint = Callable[..., DocumentError]  # complain(message, *place below the node or check, at_key=False)


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

    addresses: list[str] = field(default_factory=list)
    mtu: Mtu | None = None


# `[internet]`: an address in each subnet of it, chosen for the node; `{internet: [10.0.0.1]}`: these and no others
Networks = list[str] | dict[str, list[str] | Attachment]


class Network(Impaired, kw_only=True, frozen=True):
    """An Ethernet that nodes are attached to, with subnets of either family or both.

    What is done to frames is done on the link of each node: between two nodes they pass two links.
    """

    subnets: Annotated[list[str], Meta(min_length=1, max_length=8)]
    mtu: Mtu | None = None
    gateway: str | bool | None = None  # a node or an address; false: none; else the only router, if there is one


class StaticRoute(Part, frozen=True):
    """The way `to` a prefix, a network of the lab, or everything (`default`): by way of a node, or of an address."""

    to: str
    via: str


class Node(Part, frozen=True, tag_field="kind"):
    """One namespace of a lab and what runs there."""

    count: Annotated[int, Meta(ge=1, le=1000)] | None = None  # `expand` makes this many nodes of it
    routes: list[StaticRoute] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # by absolute path
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    restart: Restart = "never"  # when its program has ended by itself
    trust: Trust | None = None  # authorities that its programs trust beside the system's
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


class Check(Part, kw_only=True, frozen=True, tag_field="kind"):
    """Something that must be true. It is tried once, or with `retry_until` again and again for so long."""

    name: str | None = None
    timeout: Duration = 5  # of each attempt
    retry_until: Duration | None = None

    @property
    def kind(self) -> str:
        """The word in the lab file."""
        return str(self.__struct_config__.tag)

    @property
    def timeout_s(self) -> float:
        """Seconds."""
        return seconds(self.timeout)

    @property
    def sources(self) -> list[str]:
        """The nodes that it is tried from, each by itself; none for what is asked of a proxy."""
        return []

    def title(self) -> str:
        """Its name, or what it does in a few words."""
        return self.name or f"{self.kind} {self.summary()}"

    def summary(self) -> str:
        """What it does, in a few words."""
        raise NotImplementedError

    def validate(self, lab: Lab, complain: Complaint) -> None:
        """Raise what `complain` makes of the first thing that makes no sense."""
        for place in ("timeout", "retry_until"):
            if (value := getattr(self, place)) is not None:
                try:
                    seconds(value)
                except ValueError as error:
                    raise complain(str(error), place) from None


@dataclasses.dataclass(frozen=True)
class Lab:
    """A lab that makes sense: every name in it is known, every address has its place."""

    name: str
    file: Path
    networks: Mapping[str, Network]
    nodes: Mapping[str, Node]
    checks: Sequence[Check] = dataclasses.field(default_factory=list)

    @property
    def base(self) -> Path:
        """The directory that relative paths in the file start from."""
        return self.file.parent
