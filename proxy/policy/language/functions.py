"""The functions of expressions (Cloudflare Rules language, "Functions"): the types of their arguments and results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote_plus

from proxy.policy.language.fields import Kind

MAX_TEXT = 65_536  # of results of `concat`


@dataclass(frozen=True, slots=True)
class Function:
    """`call` is never called with a missing value, for which the result is missing as well."""

    call: Callable[..., Any]
    takes: tuple[frozenset[Kind], ...]  # the kinds that each argument may have
    gives: Kind
    optional: int = 0  # number of optional arguments, at the end
    is_variadic: bool = False  # the last argument may be repeated
    takes_array: bool = False  # the first argument may be a whole array


def _cidr(address: bytes, length4: float, length6: float) -> bytes:
    bits = len(address) * 8
    length = min(max(int(length4 if len(address) == 4 else length6), 0), bits)
    mask = ((1 << length) - 1) << (bits - length)
    return (int.from_bytes(address, "big") & mask).to_bytes(len(address), "big")


def _substring(text: str, start: float, end: float | None = None) -> str:
    return text[int(start) : None if end is None else int(end)]


def _to_string(value: bytes | float) -> str:
    if isinstance(value, bytes):
        return str(ip_address(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _concat(*texts: str) -> str:
    return "".join(texts)[:MAX_TEXT]


_TEXT, _NUMBER, _ADDRESS = frozenset({Kind.TEXT}), frozenset({Kind.NUMBER}), frozenset({Kind.ADDRESS})
_OTHER = frozenset({Kind.NUMBER, Kind.FLAG, Kind.ADDRESS})

FUNCTIONS: dict[str, Function] = {
    "cidr": Function(_cidr, (_ADDRESS, _NUMBER, _NUMBER), Kind.ADDRESS),
    "concat": Function(_concat, (_TEXT, _TEXT), Kind.TEXT, is_variadic=True),
    "ends_with": Function(str.endswith, (_TEXT, _TEXT), Kind.FLAG),
    "len": Function(len, (_TEXT,), Kind.NUMBER, takes_array=True),
    "lower": Function(str.lower, (_TEXT,), Kind.TEXT),
    "starts_with": Function(str.startswith, (_TEXT, _TEXT), Kind.FLAG),
    "substring": Function(_substring, (_TEXT, _NUMBER, _NUMBER), Kind.TEXT, optional=1),
    "to_string": Function(_to_string, (_OTHER,), Kind.TEXT),
    "upper": Function(str.upper, (_TEXT,), Kind.TEXT),
    "url_decode": Function(unquote_plus, (_TEXT,), Kind.TEXT),
}
QUANTIFIERS = ("all", "any")
