"""Parts of nftables rulesets, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from proxy.settings.egress import Egress


def nft_chain(name: str, *rules: str) -> Iterator[str]:
    yield from (f"chain {name} {{", *rules, "}")


def nft_translations(egress: Egress) -> Iterator[str]:
    for version, family, address in ((4, "ip", egress.ipv4), (6, "ip6", egress.ipv6)):
        if address is None:
            continue
        if egress.ports:
            to = f"[{address}]:{egress.ports}" if version == 6 else f"{address}:{egress.ports}"
            yield f"meta nfproto ipv{version} meta l4proto {{ tcp, udp }} snat {family} to {to}"
        yield f"meta nfproto ipv{version} snat {family} to {address}"
    if egress.ports:
        yield f"meta l4proto {{ tcp, udp }} masquerade to :{egress.ports}"


def nft_map(name: str, kind: str, elements: Iterable[tuple[str, object]]) -> str:
    inner = ", ".join(f'"{key}" : {value}' for key, value in elements)
    return f"map {name} {{ {kind}; {f'elements = {{ {inner} }};' if inner else ''} }}"


def nft_set(name: str, kind: str, elements: Iterable[str]) -> str:
    inner = ", ".join(f'"{key}"' for key in elements)
    return f"set {name} {{ {kind}; {f'elements = {{ {inner} }};' if inner else ''} }}"
