"""Shared by all checks: the nodes that they run from, and the validation of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from msgspec import field

from oxyctl.topology.model import Check, ErrorAt, Lab
from oxyctl.topology.quantities import Texts, texts
from proxy.settings import suggest


class FromNode(Check, kw_only=True, frozen=True):
    """A check that runs inside one node or several."""

    source: Texts = field(name="from")

    @property
    def sources(self) -> list[str]:
        """The nodes in the order of the file."""
        return texts(self.source)

    def validate(self, lab: Lab, error_at: ErrorAt) -> None:
        """Raise `error_at(...)` unless all nodes exist."""
        super().validate(lab, error_at)
        for index, name in enumerate(self.sources):
            key_path = ("from",) if isinstance(self.source, str) else ("from", index)
            check_node(lab, error_at, name, *key_path)
        if not self.sources:
            raise error_at("at least one node is required", "from")


def parsed(error_at: ErrorAt, key_path: str, parse: Callable[[Any], Any], value: Any) -> Any:
    """Return `parse(value)`. Raise `error_at(...)` at `key_path` if it raises ValueError or re.error."""
    try:
        return parse(value)
    except (ValueError, re.error) as error:
        raise error_at(str(error), key_path) from None


def check_node(lab: Lab, error_at: ErrorAt, name: str, *key_path: str | int) -> None:
    """Raise `error_at(...)` unless `name` is a node."""
    if name not in lab.nodes:
        raise error_at(f"unknown node '{name}'{suggest(name, lab.nodes)}", *key_path)


def check_host(lab: Lab, error_at: ErrorAt, host: str, key_path: str) -> None:
    """Raise `error_at(...)` unless `host` may be reachable: a name without dots or colons must be a node."""
    if not re.search(r"[.:]", host) and host != "localhost":
        check_node(lab, error_at, host, key_path)
