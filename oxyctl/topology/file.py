"""Loads a lab file: reads, expands and validates it, and returns a `Lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from oxyctl.topology.checks import AnyCheck
from oxyctl.topology.expand import expand
from oxyctl.topology.expand_sites import expand_sites
from oxyctl.topology.model import Lab, Network, Part
from oxyctl.topology.nodes import AnyNode
from oxyctl.topology.validate import validate
from proxy.settings import Document, parse, read


class LabFile(Part, frozen=True):
    """A complete lab file. Without a `name`, the lab has the file's name."""

    nodes: Annotated[dict[str, AnyNode], Meta(min_length=1)]
    networks: dict[str, Network] = field(default_factory=dict)
    name: str | None = None
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind; `expand` copies them to the nodes
    checks: list[AnyCheck] = field(default_factory=list)


def load(path: str | Path, name: str | None = None) -> Lab:
    """The lab in the file `path`; `name` overrides its name. DocumentError: invalid, with file, line and column."""
    return _from_document(read(path), Path(path).resolve(), name)


def loads(text: str, name: str | None = None, file: str = "lab.yaml") -> Lab:
    """The lab in `text`, as if it were read from `file`."""
    return _from_document(parse(text, file), Path(file).resolve(), name)


def _from_document(document: Document, file: Path, name: str | None) -> Lab:
    document = expand_sites(expand(document))
    parsed = document.convert(LabFile)
    chosen = next(each for each in (name, parsed.name, file.stem) if each is not None)
    lab = Lab(chosen, file, parsed.networks, parsed.nodes, parsed.checks)
    validate(document, lab)
    return lab
