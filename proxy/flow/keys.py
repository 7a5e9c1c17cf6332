"""Keys of flows as slices of packets: addresses, then ports or an echo identifier."""

from __future__ import annotations

# address size by key size: with ports, with an echo identifier, or with neither
ADDRESS_BYTES = {12: 4, 36: 16, 10: 4, 34: 16, 8: 4, 32: 16}


def reverse_key(key: bytes) -> bytes:
    """The flow's key in packets of the opposite direction. An echo identifier is the same in both."""
    half = ADDRESS_BYTES[len(key)]
    tail = key[2 * half :]
    return key[half : 2 * half] + key[:half] + tail[2:] + tail[:2]
