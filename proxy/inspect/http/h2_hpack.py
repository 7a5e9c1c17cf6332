"""HPACK (RFC 7541) by the `hpack` package, with caches: recurring fields are not encoded or decoded again.

The tables are the package's, and what it rejects is rejected. Encoding and decoding took half of the time of a request
that passes h2 and hpack alone (bench/http_read.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack import Decoder, Encoder, HeaderTuple, HPACKDecodingError, HPACKError, NeverIndexedHeaderTuple
from hpack.exceptions import OversizedHeaderListError
from hpack.hpack import decode_integer
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

ENTRY_BYTES = 32  # overhead of a table entry (RFC 7541 4.1)
HUFFMAN_BYTES = 2048  # longer fields are not Huffman-coded, as hpack takes 1 ms for 2 KB and 375 ms for 60 KB
MAX_CACHED, CACHED_FIELD_BYTES = 64, 256  # cached fields of one connection, and the size of the largest
# Fields that differ in each message would evict recurring ones from the table. nghttp2 excludes the same.
_VARYING = frozenset(
    (
        b":path",
        b"age",
        b"content-length",
        b"content-range",
        b"etag",
        b"if-modified-since",
        b"if-none-match",
        b"last-modified",
        b"location",
        b"range",
        b"set-cookie",
    )
)
_STATIC = HeaderTable.STATIC_TABLE
_STATIC_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC, 1)))}


class FastEncoder(Encoder):
    """Caches encoded fields while its table is unchanged.

    Fields are tuples of bytes, with names in lower case; those of type `NeverIndexedHeaderTuple` must not enter any
    table (RFC 7541 7.1.3).
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[Field, bytes] = {}

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """The header block of these fields."""
        if self.header_table.resized:
            self._written.clear()
            return super().encode(headers, huffman)
        written, parts = self._written, []
        for field in headers:
            part = written.get(field) if type(field) is tuple else None
            parts.append(self._write(field) if part is None else part)
        return b"".join(parts)

    def add(self, to_add: Field, sensitive: bool, huffman: bool = False) -> bytes:
        """One field as on the wire. Long ones are not Huffman-coded (RFC 7541 5.2)."""
        name, value = to_add
        return super().add(to_add, sensitive, huffman and len(name) + len(value) <= HUFFMAN_BYTES)

    def _write(self, field: Field) -> bytes:
        if isinstance(field, NeverIndexedHeaderTuple):
            return self.add((field[0], field[1]), True, True)
        name, value = field
        if name in _VARYING and (name, value) not in _STATIC:
            part = _integer(_STATIC_NAMES[name], 4, 0) + _integer(len(value), 7, 0) + value
        else:
            entries = self.header_table.dynamic_entries
            newest = entries[0] if entries else None
            part = self.add((name, value), False, True)
            if (
                entries[0] if entries else None
            ) is not newest:  # the indices of all others have changed, or they were evicted
                self._written.clear()
                return part
        if len(name) + len(value) <= CACHED_FIELD_BYTES:
            if len(self._written) >= MAX_CACHED:
                self._written.clear()
            self._written[name, value] = part
        return part


class FastDecoder(Decoder):
    """Decodes blocks in one loop. A block that was decoded ahead of h2 can still be passed to h2."""

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self._early_result: tuple[bytes, list[Field] | HPACKError] | None = None
        self._texts: dict[bytes, bytes] = {}  # decoded strings by their Huffman code, of this connection only

    def decode_early(self, block: bytes) -> list[Field] | None:
        """The fields of `block`; None: it is invalid, for which `decode` will raise an error."""
        try:
            return self._read(block)
        except HPACKError as error:
            self._early_result = block, error
            return None

    def store(self, block: bytes, fields: list[Field]) -> None:
        """Store what `decode_early` returned for `decode`, as a block can be decoded only once."""
        self._early_result = block, fields

    def decode(self, data: bytes, raw: bool = False) -> Iterable[Any]:
        """The fields of `data`, as bytes. HPACKError: it is invalid."""
        decoded, self._early_result = self._early_result, None
        if decoded is None or decoded[0] != data:
            return self._read(data)
        if isinstance(decoded[1], HPACKError):
            raise decoded[1]
        return [field if isinstance(field, HeaderTuple) else HeaderTuple(*field) for field in decoded[1]]

    def _read(self, data: bytes) -> list[Field]:
        try:
            fields = self._fields(data)
        except IndexError:
            raise HPACKDecodingError("Truncated header block") from None
        self._assert_valid_table_size()
        return fields

    def _fields(self, data: bytes) -> list[Field]:
        table, fields, remaining = self.header_table, list[Field](), self.max_header_list_size
        position, size = 0, len(data)
        while position < size:
            first = data[position]
            if first & 0x80:  # an indexed field (6.1)
                index, position = _number(data, position, 0x7F, 7)
                field = _STATIC[index - 1] if 0 < index <= 61 else table.get_by_index(index)
            elif first & 0xE0 == 0x20:  # a table size update (6.3), allowed before the first field only
                if fields:
                    raise HPACKDecodingError("Table size update not at the start of the block")
                position += self._update_encoding_context(data[position:])
                continue
            else:
                index, position = _number(data, position, *((0x3F, 6) if first & 0x40 else (0x0F, 4)))
                if index:
                    name = _STATIC[index - 1][0] if index <= 61 else table.get_by_index(index)[0]
                else:
                    name, position = self._string(data, position)
                value, position = self._string(data, position)
                field = (name, value)
                if first & 0x40:
                    table.add(name, value)
                elif first & 0x10:
                    field = NeverIndexedHeaderTuple(name, value)
            fields.append(field)
            remaining -= len(field[0]) + len(field[1]) + ENTRY_BYTES
            if remaining < 0:
                message = f"A header list larger than {self.max_header_list_size} has been received"
                raise OversizedHeaderListError(message)
        return fields

    def _string(self, data: bytes, position: int) -> tuple[bytes, int]:
        """A string (5.2), and the position after it."""
        is_coded = data[position] & 0x80
        length, position = _number(data, position, 0x7F, 7)
        end = position + length
        text = data[position:end]
        if len(text) != length:
            raise HPACKDecodingError("Truncated header block")
        return (self._decoded(text) if is_coded else text), end

    def _decoded(self, text: bytes) -> bytes:
        found = self._texts.get(text)
        if found is None:
            found = bytes(decode_huffman(text))
            if len(text) <= CACHED_FIELD_BYTES:
                if len(self._texts) >= MAX_CACHED:
                    self._texts.clear()
                self._texts[text] = found
        return found


def _number(data: bytes, position: int, mask: int, bits: int) -> tuple[int, int]:
    """An integer (5.1), and the position after it."""
    number = data[position] & mask
    if number != mask:
        return number, position + 1
    number, taken = decode_integer(data[position : position + 16], bits)
    return number, position + taken


def _integer(number: int, bits: int, pattern: int) -> bytes:
    most = (1 << bits) - 1
    if number < most:
        return bytes((pattern | number,))
    parts, number = [pattern | most], number - most
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
