"""A radix tree of IP prefixes: finds those that contain an address in at most one step per byte."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

Network = IPv4Network | IPv6Network
_Node = dict[int, list["int | _Node | None"]]


class PrefixTree:
    """Bit sets by prefix. `find` returns the union of the bits of all prefixes that contain the address.

    The tree has a stride of eight bits: a prefix whose length is not a multiple of eight is stored in each slot that it
    covers (at most 128). bench/policy.py measures look-ups.
    """

    __slots__ = ("_all", "_roots", "count")

    def __init__(self) -> None:
        self._roots: dict[int, _Node] = {4: {}, 16: {}}  # by bytes of an address
        self._all = {4: 0, 16: 0}  # of prefixes of length 0
        self.count = 0

    def add(self, address: bytes, length: int, bits: int) -> None:
        """Add `bits` to the prefix `address/length`."""
        self.count += 1
        if length == 0:
            self._all[len(address)] |= bits
            return
        node = self._roots[len(address)]
        whole, rest = divmod(length - 1, 8)
        for byte in address[:whole]:
            slot = node.setdefault(byte, [0, None])
            if slot[1] is None:
                slot[1] = {}
            node = slot[1]  # type: ignore[assignment]
        span = 1 << (7 - rest)
        first = address[whole] & -span & 0xFF
        for byte in range(first, first + span):
            node.setdefault(byte, [0, None])[0] |= bits  # type: ignore[operator]

    def find(self, address: bytes) -> int:
        """The bits of all prefixes that contain `address` (4 or 16 bytes)."""
        node = self._roots[len(address)]
        bits = self._all[len(address)]
        for byte in address:
            slot = node.get(byte)
            if slot is None:
                return bits
            bits |= slot[0]  # type: ignore[operator]
            if slot[1] is None:
                return bits
            node = slot[1]  # type: ignore[assignment]
        return bits


class PrefixSet:
    """A set of prefixes: `address in set` if one of them contains it. Addresses are bytes; None is in no set."""

    __slots__ = ("_tree", "networks")

    def __init__(self, networks: Iterable[Network]) -> None:
        self.networks = tuple(networks)
        self._tree = PrefixTree()
        for network in self.networks:
            self._tree.add(network.network_address.packed, network.prefixlen, 1)

    def __contains__(self, address: object) -> bool:
        return address is not None and self._tree.find(address) != 0  # type: ignore[arg-type]
