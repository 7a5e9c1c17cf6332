"""Links in a lab file: their errors with positions, and the properties of each link."""

from __future__ import annotations

from oxyctl.net.impairment import PARSERS, Impairment
from oxyctl.topology.model import Attachment, Impaired, KeyPath, Lab
from oxyctl.topology.nodes import WarpNode
from proxy.settings import Document

MIN_IPV6_MTU = 1280  # RFC 8200 section 5


def impairment_of(lab: Lab, node: str, network: str) -> Impairment:
    """The impairment of the link of `node` to `network`: the node's settings, then the network's."""
    inherited = lab.networks[network].impairment.over(Impairment())
    return lab.nodes[node].attachment(network).impairment.over(inherited)


def mtu_of(lab: Lab, node: str, network: str) -> int | None:
    """The MTU of the link of `node` to `network`, in bytes; None: the kernel's default."""
    own = lab.nodes[node].attachment(network).mtu
    return lab.networks[network].mtu if own is None else own


def check_impairments(document: Document, lab: Lab) -> None:
    """Raise the DocumentError for the first invalid setting of a link."""
    for name, network in lab.networks.items():
        key_path: KeyPath = ("networks", name)
        _check(document, network, Impairment(), key_path)
        _check_mtu(document, network.mtu, network.subnets, key_path)
    for name, node in lab.nodes.items():
        for attached in node.attached:
            settings = node.attachment(attached)
            key_path = ("nodes", name, *node.key_path_of(attached))
            _check(document, settings, lab.networks[attached].impairment.over(Impairment()), key_path)
            _check_mtu(document, settings.mtu, lab.networks[attached].subnets, key_path)
        if isinstance(node, WarpNode):
            _check(document, node.tunnel, Impairment(), ("nodes", name, "tunnel"))


def _check(document: Document, settings: Impaired | Attachment, inherited: Impairment, key_path: KeyPath) -> None:
    for key, parse in PARSERS.items():
        if (value := getattr(settings, key)) is not None:
            try:
                parse(value)
            except ValueError as error:
                raise document.error(str(error), (*key_path, key)) from None
    try:
        settings.impairment.over(inherited)
    except ValueError as error:  # jitter and delay are valid by themselves, but not together
        raise document.error(str(error), (*key_path, "jitter")) from None


def _check_mtu(document: Document, mtu: int | None, subnets: list[str], key_path: KeyPath) -> None:
    if mtu is not None and mtu < MIN_IPV6_MTU and any(":" in subnet for subnet in subnets):
        raise document.error(f"IPv6 needs an MTU of at least {MIN_IPV6_MTU}", (*key_path, "mtu"))
