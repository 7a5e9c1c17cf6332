"""What a lab file may say: networks, and the nodes in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from oxyctl.lab.checks import AnyCheck
from oxyctl.net.impairment import Mtu
from oxyctl.nodes import AnyNode
from oxyctl.nodes.base import Impaired, Part
from proxy.settings import Document, parse, read


class Network(Impaired, kw_only=True, frozen=True):
    """An Ethernet that nodes are attached to, with subnets of either family or both.

    What is done to frames is done on the link of each node: between two nodes they pass two links.
    """

    subnets: Annotated[list[str], Meta(min_length=1, max_length=8)]
    mtu: Mtu | None = None
    gateway: str | bool | None = None  # a node or an address; false: none; else the only router, if there is one


class LabFile(Part, frozen=True):
    """The whole of a lab file. `name` is the file's own unless it says another."""

    nodes: Annotated[dict[str, AnyNode], Meta(min_length=1)]
    networks: dict[str, Network] = field(default_factory=dict)
    name: str | None = None
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind; `expand` gives them to the nodes
    checks: list[AnyCheck] = field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Lab:
    """A lab that makes sense: every name in it is known, every address has its place."""

    name: str
    file: Path
    networks: dict[str, Network]
    nodes: dict[str, AnyNode]
    checks: list[AnyCheck] = dataclasses.field(default_factory=list)

    @property
    def base(self) -> Path:
        """The directory that relative paths in the file start from."""
        return self.file.parent


def load(path: str | Path, name: str | None = None) -> Lab:
    """The lab in the file `path`, called `name` if that is given; DocumentError with file, line and column."""
    return _from_document(read(path), Path(path).resolve(), name)


def loads(text: str, name: str | None = None, file: str = "lab.yaml") -> Lab:
    """The same from `text`, as if it stood in `file`."""
    return _from_document(parse(text, file), Path(file).resolve(), name)


def _from_document(document: Document, file: Path, name: str | None) -> Lab:
    from oxyctl.lab.expand import expand
    from oxyctl.lab.grow import grow
    from oxyctl.lab.validate import validate

    document = grow(expand(document))
    said = document.convert(LabFile)
    chosen = next(each for each in (name, said.name, file.stem) if each is not None)
    lab = Lab(chosen, file, said.networks, said.nodes, said.checks)
    validate(document, lab)
    return lab
