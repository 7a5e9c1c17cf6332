"""Bech32 (BIP 173): bytes as text with a prefix and a checksum."""

from __future__ import annotations

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
CHECKSUM = 6  # characters
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def decode(text: str) -> tuple[str, bytes]:
    """Return the prefix in lower case, and the bytes. Any length is allowed, as in age. ValueError: it is invalid."""
    if text not in (text.lower(), text.upper()):
        raise ValueError("upper and lower case are mixed")
    text = text.lower()
    name, separator, rest = text.rpartition("1")
    if not separator or not name or len(rest) < CHECKSUM:
        raise ValueError("too short")
    try:
        values = [ALPHABET.index(character) for character in rest]
    except ValueError:
        raise ValueError("a character that does not occur in Bech32") from None
    if _polymod([*_expand_prefix(name), *values]) != 1:
        raise ValueError("the checksum does not match: a character is wrong or missing")
    return name, _regroup_bits(values[:-CHECKSUM], 5, 8)


def encode(name: str, data: bytes) -> str:
    """`data` as text in lower case, with the prefix `name`."""
    values = [*_regroup_bits(data, 8, 5, pad=True)]
    check = _polymod([*_expand_prefix(name), *values, *[0] * CHECKSUM]) ^ 1
    values += [check >> 5 * (CHECKSUM - 1 - index) & 31 for index in range(CHECKSUM)]
    return f"{name}1" + "".join(ALPHABET[value] for value in values)


def _expand_prefix(name: str) -> list[int]:
    return [*(ord(character) >> 5 for character in name), 0, *(ord(character) & 31 for character in name)]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            check ^= generator if top >> bit & 1 else 0
    return check


def _regroup_bits(values: list[int] | bytes, width: int, out_width: int, *, pad: bool = False) -> bytes:
    accumulator = bits = 0
    result = bytearray()
    for value in values:
        accumulator, bits = accumulator << width | value, bits + width
        while bits >= out_width:
            bits -= out_width
            result.append(accumulator >> bits)
            accumulator &= (1 << bits) - 1
    if pad and bits:
        result.append(accumulator << out_width - bits)
    elif not pad and (bits >= width or accumulator):
        raise ValueError("the padding is not zero")
    return bytes(result)
