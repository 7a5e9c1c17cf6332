"""Authorities as text, and the shell commands that make a shell trust them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence

from oxyctl.render.tables import Column, Table
from oxyctl.render.units import safe_text
from oxyctl.trust.stores import Change
from proxy.control.schema import AuthorityInfo

_COLUMNS = [
    Column("TENANT"),
    Column("AUTHORITY"),
    Column("KIND", rank=1),
    Column("VALID UNTIL"),
    Column("MAY SIGN FOR", rank=2),
    Column("NEXT FROM", rank=3),
]


def print_authorities(authorities: Sequence[AuthorityInfo]) -> None:
    """Print a line for each, and below it the fingerprint, which clients compare."""
    Table(_COLUMNS).write([_row(authority) for authority in authorities])
    print()
    for authority in authorities:
        print(safe_text(f"{authority.tenant}: SHA-256 {authority.root.fingerprint}"))
        if authority.next is not None:
            print(
                safe_text(
                    f"{authority.tenant}: SHA-256 {authority.next.fingerprint} (from {_time(authority.next_from)})"
                )
            )


def rotation_text(authority: AuthorityInfo) -> str:
    """The effect of a rotation on clients."""
    if authority.next is None:
        until = f", valid until {_time(authority.root.not_after)}"
        return safe_text(
            f"{authority.tenant}: {authority.root.subject} signs from now on{until}; "
            f"clients must trust it at their next connection\n"
            f"SHA-256 {authority.root.fingerprint}"
        )
    at = _time(authority.next_from)
    return safe_text(
        f"{authority.tenant}: {authority.next.subject} takes over at {at}; until then {authority.root.subject} signs.\n"
        f"`oxyctl ca export --tenant {authority.tenant}` prints both. "
        f"From then on, clients that trust only the old one fail.\n"
        f"SHA-256 {authority.next.fingerprint}"
    )


def variables_text(values: Mapping[str, str]) -> str:
    """Lines for a shell's eval."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def change_text(change: Change) -> str:
    """A shell script that makes the same change."""
    lines = []
    if change.file is not None:
        target = shlex.quote(str(change.file))
        lines.append(f"rm -f {target}" if change.text is None else f"cat > {target} <<'PEM'\n{change.text}PEM")
    return "\n".join([*lines, *map(shlex.join, change.commands)])


def _row(info: AuthorityInfo) -> list[str]:
    kind = "imported" if info.is_imported else "own"
    if info.issuer.fingerprint != info.root.fingerprint:
        kind += ", intermediate"
    return [
        info.tenant,
        info.root.subject,
        kind,
        _time(info.issuer.not_after),
        " ".join(info.issuer.permitted) or "anything",
        _time(info.next_from),
    ]


def _time(seconds: int | None) -> str:
    return "-" if seconds is None else time.strftime("%F %T", time.localtime(seconds))
