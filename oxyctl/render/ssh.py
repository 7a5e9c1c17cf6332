"""SSH host keys, channels and watched terminals as text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TextIO

from oxyctl.render.cast import RESET
from oxyctl.render.flows import deciding_rule
from oxyctl.render.tables import Column, Table
from oxyctl.render.units import bytes_text, count_text, duration_text, time_text
from proxy.control.schema import ChannelRecord, HostKey, Screen

COLUMNS = (
    Column("CHANNEL"), Column("BEGAN", rank=6), Column("DURATION", right=True, rank=5), Column("USER", rank=3),
    Column("AS", rank=2), Column("KIND", rank=1), Column("BYTES", right=True, rank=4), Column("END"),
    Column("RULE", rank=7), Column("RECORDED", rank=8), Column("COMMAND"),
)  # fmt: skip


def print_channels(channels: Iterable[ChannelRecord]) -> None:
    """Print a line for each channel."""
    rows = [_row(channel) for channel in channels]
    if rows:
        Table(COLUMNS).write(rows)


def known_hosts_line(key: HostKey, host: str) -> str:
    """The line for clients' known_hosts."""
    return f"{host} {key.public_key}"


def sshfp_line(key: HostKey, host: str) -> str:
    """The DNS record; `*` as host is a wildcard in DNS too."""
    return f"{host} IN SSHFP {key.sshfp}"


def print_host_keys(keys: Iterable[HostKey], host: str) -> None:
    """Print each key with the lines to copy."""
    for number, key in enumerate(keys):
        blank = "\n" if number else ""
        print(f"{blank}tenant {key.tenant}: {key.fingerprint}")
        for label, line in (
            ("known_hosts", known_hosts_line(key, host)),
            ("DNS", sshfp_line(key, host)),
            ("TrustedUserCAKeys", key.user_ca),
            ("before", key.previous),
        ):
            if line is not None:
                print(f"  {label:<18} {line}")


def follow(screens: Iterable[Screen], out: TextIO, *, is_json: bool) -> bool:
    """Write the output of a watched terminal. Returns True if its session has ended, False if it was cut off."""
    try:
        for screen in screens:
            if is_json:
                out.write(json.dumps({"events": screen.events, "size": screen.size, "lost": screen.lost}) + "\n")
            else:
                out.write("".join(data for _, code, data in screen.events if code == "o"))
                if screen.lost:
                    out.write(f"\r\n[{count_text(screen.lost, 'character')} skipped]\r\n")
            out.flush()
            if screen.is_over:
                return True
    finally:
        if not is_json:
            out.write(RESET + "\r\n")
            out.flush()
    return False


def _row(channel: ChannelRecord) -> list[str]:
    target = None if channel.forward_host is None else f"{channel.forward_host}:{channel.forward_port or ''}"
    if target is not None and channel.forward_protocol is not None:
        target += f" ({channel.forward_protocol})"
    return [
        channel.channel_id,
        time_text(channel.start),
        duration_text(channel.duration_ms),
        channel.user or channel.identity or "-",
        channel.ssh_user,
        channel.subsystem or channel.kind,
        bytes_text(channel.client_bytes + channel.origin_bytes + channel.stderr_bytes),
        _end(channel),
        deciding_rule(channel) or "-",
        "yes" if channel.recording else "-",
        channel.command or target or ("-" if channel.terminal is None else channel.terminal),
    ]


def _end(channel: ChannelRecord) -> str:
    if channel.is_open:
        return "open"
    if channel.verdict == "denied":
        return "denied"
    if channel.exit_signal is not None:
        return f"SIG{channel.exit_signal}"
    if channel.exit_status is not None:
        return f"exit {channel.exit_status}"
    return channel.error or "closed"
