"""A lab: networks, nodes and checks. Each kind of node is in `nodes`, each kind of check in `checks`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, field

from oxyctl.net.impairment import ImpairmentSettings, Loss, Mtu
from oxyctl.topology.choices import Restart, Trust
from oxyctl.topology.quantities import Duration, seconds
from proxy.settings import DocumentError

KeyPath = tuple[str | int, ...]  # keys and indices that lead to a value in the file
ErrorAt = Callable[..., DocumentError]  # error_at(message, *key path below the node or check, at_key=False)


class Part(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A part of a lab file."""


class Impaired(Part, frozen=True):
    """The impairment of a link, applied to each frame in either direction."""

    rate: str | None = None
    delay: str | None = None
    jitter: str | None = None
    loss: Loss | None = None
    down: bool | None = None

    @property
    def impairment(self) -> ImpairmentSettings:
        """The impairment without other keys."""
        return ImpairmentSettings(rate=self.rate, delay=self.delay, jitter=self.jitter, loss=self.loss, down=self.down)


class Attachment(Impaired, frozen=True):
    """A node's link to a network. Settings that are missing here are the network's."""

    addresses: list[str] = field(default_factory=list)
    mtu: Mtu | None = None


# `[internet]`: one address of each of its subnets is chosen; `{internet: [10.0.0.1]}`: only the given ones
Networks = list[str] | dict[str, list[str] | Attachment]


class Network(Impaired, kw_only=True, frozen=True):
    """An Ethernet segment that nodes are attached to, with subnets of either family or both.

    Impairments apply to the link of each node: between two nodes frames pass two links.
    """

    subnets: Annotated[list[str], Meta(min_length=1, max_length=8)]
    mtu: Mtu | None = None
    gateway: str | bool | None = None  # a node or an address; false: none; by default the only router, if there is one


class StaticRoute(Part, frozen=True):
    """A route `to` a prefix, a network of the lab, or everything (`default`), via a node or an address."""

    to: str
    via: str


class Node(Part, frozen=True, tag_field="kind"):
    """A network namespace of the lab, and the programs in it."""

    count: Annotated[int, Meta(ge=1, le=1000)] | None = None  # `expand` makes this many nodes
    routes: list[StaticRoute] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # by absolute path
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    restart: Restart = "never"  # after its program has ended by itself
    trust: Trust | None = None  # authorities that its programs trust besides the system's
    resolver: bool = True  # whether port 53 of 127.0.0.1 answers queries for the lab's names

    @property
    def kind(self) -> str:
        """Its `kind` in the lab file."""
        return str(self.__struct_config__.tag)

    @property
    def attached(self) -> dict[str, list[str]]:
        """The networks of the node, each with the node's addresses there that are in the file."""
        networks: Networks = getattr(self, "networks", {})
        if isinstance(networks, list):
            return {name: [] for name in networks}
        return {name: each.addresses if isinstance(each, Attachment) else each for name, each in networks.items()}

    def attachment(self, network: str) -> Attachment:
        """The settings of its link to `network` in the file."""
        networks: Networks = getattr(self, "networks", {})
        each = networks[network] if isinstance(networks, dict) else []
        return each if isinstance(each, Attachment) else Attachment(addresses=each)

    def key_path_of(self, network: str) -> KeyPath:
        """The place of its link to `network` in the file."""
        networks: Networks = getattr(self, "networks", {})
        return ("networks", networks.index(network) if isinstance(networks, list) else network)

    def addresses_key_path(self, network: str) -> KeyPath:
        """The place of the list of its addresses in `network` in the file."""
        networks: Networks = getattr(self, "networks", {})
        setting = networks[network] if isinstance(networks, dict) and network in networks else None
        return (
            (*self.key_path_of(network), "addresses") if isinstance(setting, Attachment) else self.key_path_of(network)
        )

    def check(self, name: str, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for the first error."""


class Check(Part, kw_only=True, frozen=True, tag_field="kind"):
    """A condition that must be true. It is checked once, or again for at most `retry_until` after it has failed."""

    name: str | None = None
    timeout: Duration = 5  # of each attempt
    retry_until: Duration | None = None

    @property
    def kind(self) -> str:
        """Its `kind` in the lab file."""
        return str(self.__struct_config__.tag)

    @property
    def timeout_s(self) -> float:
        """Time limit of one attempt, in seconds."""
        return seconds(self.timeout)

    @property
    def sources(self) -> list[str]:
        """The nodes that the check runs from, one by one; none for checks of a proxy's records."""
        return []

    def title(self) -> str:
        """Its name, or a summary of what it does."""
        return self.name or f"{self.kind} {self.summary()}"

    def summary(self) -> str:
        """What the check does, in a few words."""
        raise NotImplementedError

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` for the first error."""
        for key_path in ("timeout", "retry_until"):
            if (value := getattr(self, key_path)) is not None:
                try:
                    seconds(value)
                except ValueError as error:
                    raise error_at(str(error), key_path) from None


@dataclasses.dataclass(frozen=True)
class Lab:
    """A valid lab: every name in it is known, every address belongs to its network."""

    name: str
    file: Path
    networks: Mapping[str, Network]
    nodes: Mapping[str, Node]
    checks: Sequence[Check] = dataclasses.field(default_factory=list)

    @property
    def base(self) -> Path:
        """The directory to which paths in the file are relative."""
        return self.file.parent
