"""Shared by all checks: the nodes that they run from, and the validation of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from msgspec import field

from oxyctl.topology.model import Check, Complaint, Lab
from oxyctl.topology.quantities import Texts, texts
from proxy.settings import suggest


class FromNode(Check, kw_only=True, frozen=True):
    """A check that runs inside one node or several."""

    source: Texts = field(name="from")

    @property
    def sources(self) -> list[str]:
        """The nodes in the order of the file."""
        return texts(self.source)

    def validate(self, lab: Lab, complain: Complaint) -> None:
        """Raise `complain(...)` unless all nodes exist."""
        super().validate(lab, complain)
        for index, name in enumerate(self.sources):
            place = ("from",) if isinstance(self.source, str) else ("from", index)
            check_node(lab, complain, name, *place)
        if not self.sources:
            raise complain("at least one node is required", "from")


def checked(complain: Complaint, place: str, parse: Callable[[Any], Any], value: Any) -> Any:
    """Return `parse(value)`. Raise `complain(...)` at `place` if it raises ValueError or re.error."""
    try:
        return parse(value)
    except (ValueError, re.error) as error:
        raise complain(str(error), place) from None


def check_node(lab: Lab, complain: Complaint, name: str, *place: str | int) -> None:
    """Raise `complain(...)` unless `name` is a node."""
    if name not in lab.nodes:
        raise complain(f"unknown node '{name}'{suggest(name, lab.nodes)}", *place)


def check_host(lab: Lab, complain: Complaint, host: str, place: str) -> None:
    """Raise `complain(...)` unless `host` may be reachable: a name without dots or colons must be a node."""
    if not re.search(r"[.:]", host) and host != "localhost":
        check_node(lab, complain, host, place)
