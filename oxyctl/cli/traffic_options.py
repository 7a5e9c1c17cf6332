"""The options shared by all kinds of `oxyctl traffic`, and the settings made from them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from oxyctl.cli.completion import complete_node
from oxyctl.cli.options import Format, FormatOption, LabOption

NodeArgument = Annotated[
    str,
    typer.Argument(metavar="NODE", help="The node that sends.", show_default=False, autocompletion=complete_node),
]
RateOption = Annotated[
    float | None, typer.Option("--rate", metavar="N", help="Exchanges per second; without it, one after another.")
]
CountOption = Annotated[
    int | None,
    typer.Option("--count", "-n", metavar="N", help="Number of exchanges.  [default: 10, or until --duration]"),
]
DurationOption = Annotated[
    str | None, typer.Option("--duration", "-d", metavar="TIME", help="How long to run: 10s, 2m.")
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option("--concurrency", "-c", metavar="N", help="Maximum number in flight.  [default: 1; 1000 with --rate]"),
]
TimeoutOption = Annotated[
    str, typer.Option("--timeout", metavar="TIME", help="Time limit of each exchange: 250ms, 5s.")
]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="SIZE", help="Size of each in bytes: 64, 1k, 2MiB.")]
Ipv4Option = Annotated[bool, typer.Option("-4", help="IPv4 only.")]
Ipv6Option = Annotated[bool, typer.Option("-6", help="IPv6 only.")]


def load_options(
    rate: RateOption = None,
    count: CountOption = None,
    duration: DurationOption = None,
    concurrency: ConcurrencyOption = None,
    timeout: TimeoutOption = "2s",
    ipv4: Ipv4Option = False,
    ipv6: Ipv6Option = False,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Options: how much, for how long, and in which lab."""


def size_options(size: SizeOption = None) -> None:
    """Options: the size of each exchange."""


def load_settings(shared: dict[str, Any]) -> dict[str, Any]:
    """The settings that all kinds share. UsageError."""
    from oxyctl.errors import UsageError

    ipv4, ipv6 = shared["ipv4"], shared["ipv6"]
    if ipv4 and ipv6:
        raise UsageError("-4 and -6 contradict each other")
    settings = {
        "rate": shared["rate"],
        "count": shared["count"],
        "duration_s": None if shared["duration"] is None else _seconds("--duration", shared["duration"]),
        "concurrency": shared["concurrency"],
        "timeout_s": _seconds("--timeout", shared["timeout"]),
        "family": 4 if ipv4 else 6 if ipv6 else None,
    }
    size = shared.get("size")
    return settings if size is None else settings | {"size": _bytes(size)}


def _seconds(option: str, text: str) -> float:
    from oxyctl.errors import UsageError
    from proxy.control.schema import parse_duration

    try:
        return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _bytes(text: str) -> int:
    from oxyctl.errors import UsageError
    from proxy.control.schema import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
