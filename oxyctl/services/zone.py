"""The names of a lab: its hosts file, queried by DNS messages."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from pathlib import Path

from oxyctl.services.dns_messages import AAAA, ANY, PTR, A, Code, Query, Record, decode_query, encode_answer
from oxyctl.traffic.messages import encode_name

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MAX_MESSAGE_BYTES = 65_535
REVERSE = (".in-addr.arpa", ".ip6.arpa")


class Zone:
    """The hosts file at `hosts`, reloaded when it changes. Without one, only `localhost` is known."""

    def __init__(self, hosts: Path | None) -> None:
        self._hosts = hosts
        self._version: tuple[int, int] | None = None
        self._load("127.0.0.1 localhost\n::1 localhost\n")

    def answer(self, message: bytes, limit: int | None = None) -> bytes | None:
        """The response to `message`, at most `limit` bytes or what UDP allows; None if `message` is not a query."""
        query = decode_query(message)
        if query is None:
            return None
        code, records = (query.code, list[Record]()) if query.code else self._find(query)
        return encode_answer(query, code, records, query.udp_bytes if limit is None else limit)

    def answer_stream(self, message: bytes) -> bytes | None:
        """The response over TCP, which is never truncated."""
        return self.answer(message, MAX_MESSAGE_BYTES)

    def _find(self, query: Query) -> tuple[Code, list[Record]]:
        self._refresh()
        if query.name.endswith(REVERSE):
            names = self._names.get(query.name, [])
            records = [Record(PTR, encode_name(name)) for name in names if query.type in (PTR, ANY)]
            return Code.NOERROR if names else Code.NXDOMAIN, records
        known = self._addresses.get(query.name, [])
        wanted = {4: query.type in (A, ANY), 6: query.type in (AAAA, ANY)}
        kinds = {4: A, 6: AAAA}
        records = [Record(kinds[each.version], each.packed) for each in known if wanted[each.version]]
        return Code.NOERROR if known else Code.NXDOMAIN, records

    def _refresh(self) -> None:
        if self._hosts is None:
            return
        try:
            now = self._hosts.stat()
            if (version := (now.st_mtime_ns, now.st_size)) != self._version:
                self._load(self._hosts.read_text())
                self._version = version
        except OSError:
            return  # the file is being replaced: keep the names

    def _load(self, text: str) -> None:
        self._addresses: dict[str, list[Address]] = defaultdict(list)
        self._names: dict[str, list[str]] = defaultdict(list)
        for line in text.splitlines():
            text, *names = line.partition("#")[0].split() or [""]
            for name in names:
                address = ipaddress.ip_address(text)
                self._addresses[name.lower()].append(address)
                self._names[address.reverse_pointer].append(name)
