"""Translates plain selectors, `dst: [10.0.0.0/8]`, into conditions."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from proxy.policy.language import Values
from proxy.policy.model import SELECTORS, RuleText, Several

_TEXTS = {
    "user": "identity.user", "device": "device.name", "protocol": "net.protocol", "onramp": "net.onramp",
    "site": "net.site", "network": "net.vnet_id", "tenant": "tenant",
}  # fmt: skip
_HOSTS = {"network": "net.dst.host", "egress": "net.dst.host", "tls": "net.sni.host", "http": "http.request.host",
          "dns": "dns.fqdn"}  # fmt: skip
_PORTS = re.compile(r"(\d+)(?:\s*(?:-|\.\.)\s*(\d+))?")


def conditions(rule: RuleText, lists: Mapping[str, Values]) -> Iterator[tuple[str, str]]:
    """Each selector of the rule with its condition. ValueError (the fault, the selector)."""
    for selector in SELECTORS:
        if (selected := getattr(rule, selector)) is not None:
            try:
                yield selector, _condition(selector, _values(selected), rule, lists)
            except ValueError as error:
                raise ValueError(f"{selector}: {error}", selector) from None


def _condition(selector: str, values: list[str], rule: RuleText, lists: Mapping[str, Values]) -> str:
    if selector in ("src", "dst"):
        return _any_of(f"net.{selector}.ip", values, _address)
    if selector == "port":
        return _any_of("net.dst.port", values, _port)
    if selector == "group":
        return " or ".join(f"any({part})" for part in _parts("identity.groups[*].name", values, quoted))
    if selector == "posture":
        each = (f"any(device_posture.checks.passed[*] == {quoted(value)})" for value in values)
        return " and ".join(each)
    if selector == "host":
        field = _HOSTS.get(rule.phase)
        if field is None:
            raise ValueError(f"nothing has a host in phase {rule.phase}")
        exact = [value if value.startswith("$") else value.lower() for value in values if "*" not in value]
        patterns = [value for value in values if "*" in value]
        for value in values:
            if value.startswith("$") and (listed := lists.get(value[1:])) is not None:
                patterns += sorted(str(each) for each in listed.single if "*" in str(each))
        tests = [f"{field} wildcard {quoted(value)}" for value in patterns]
        return " or ".join([_any_of(field, exact, quoted), *tests] if exact else tests)
    return _any_of(_TEXTS[selector], values, quoted)


def _any_of(field: str, values: list[str], literal: Callable[[str], str]) -> str:
    """A condition that a field has one of these values, or one of a list's. `literal`: a value in the syntax of
    expressions."""
    return " or ".join(_parts(field, values, literal))


def _parts(field: str, values: list[str], literal: Callable[[str], str]) -> list[str]:
    lists = [value for value in values if value.startswith("$")]
    others = [literal(value) for value in values if not value.startswith("$")]
    parts = [f"{field} in {name}" for name in lists]
    if others:
        parts.append(f"{field} in {{{' '.join(others)}}}")
    return parts


def as_hosts(values: Values) -> Values:
    """A list as the selector `host` compares it: in lower case."""
    return replace(
        values, single=frozenset(value.lower() if isinstance(value, str) else value for value in values.single)
    )


def _values(selected: Several) -> list[str]:
    values = [str(each) for each in selected] if isinstance(selected, list) else [str(selected)]
    if not values:
        raise ValueError("an empty list matches nothing: leave the selector out")
    return values


def _address(text: str) -> str:
    """An address, a prefix or a range in the syntax of expressions."""
    low, dash, high = text.replace("..", "-").partition("-")
    try:
        if dash:
            return f"{ipaddress.ip_address(low.strip())}..{ipaddress.ip_address(high.strip())}"
        return str(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError(f"expected an address, a prefix or a range: {error}") from None


def _port(text: str) -> str:
    match = _PORTS.fullmatch(text.strip())
    if match is None or not all(0 <= int(each) < 65_536 for each in match.groups() if each):
        raise ValueError(f"expected a port, 0 to 65535, or a range such as 8000-8010 (found '{text}')")
    return match[1] if match[2] is None else f"{match[1]}..{match[2]}"


def quoted(text: str) -> str:
    """A text literal in the syntax of expressions."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
