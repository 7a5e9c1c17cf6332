"""The JSON envelope that every command prints its items in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SCHEMA = "oxyctl/1"


def print_envelope(kind: str, items: Iterable[Any], **more: Any) -> None:
    """`{"schema": "oxyctl/1", "kind": kind, ..., "items": [...]}`, with `more` beside the items."""
    import msgspec

    encoded = msgspec.json.encode({"schema": SCHEMA, "kind": kind, **more, "items": list(items)})
    print(msgspec.json.format(encoded, indent=2).decode())
