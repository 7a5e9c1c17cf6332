"""`oxyctl traffic`: traffic from inside a node of a lab, and what became of it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.completion import complete_node
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from oxyctl.traffic.config import AnyTraffic

app = typer.Typer(
    help="""Send traffic from inside a node, and report its rate, loss, throughput and latency.

    At a --rate the latency of each exchange begins when it was due, whatever delayed it: a target that stalls is not
    spared the requests it would have got meanwhile. Without a rate, the next one starts when one has ended.
    Exit code 1 when nothing succeeded. Ctrl-C ends it with the report so far.""",
    no_args_is_help=True,
)


class Mode(enum.StrEnum):
    """What `oxyctl traffic tcp` does with its connections."""

    connect = "connect"
    up = "up"
    down = "down"
    both = "both"


class Over(enum.StrEnum):
    """What carries DNS."""

    udp = "udp"
    tcp = "tcp"


NodeArgument = Annotated[
    str,
    typer.Argument(metavar="NODE", help="Where it comes from.", show_default=False, autocompletion=complete_node),
]
RateOption = Annotated[
    float | None, typer.Option("--rate", metavar="N", help="So many each second; one after another without it.")
]
CountOption = Annotated[
    int | None,
    typer.Option("--count", "-n", metavar="N", help="So many, then end.  [default: 10, or until --duration]"),
]
DurationOption = Annotated[str | None, typer.Option("--duration", "-d", metavar="TIME", help="For so long: 10s, 2m.")]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option("--concurrency", "-c", metavar="N", help="At most so many at once.  [default: 1; 1000 with --rate]"),
]
TimeoutOption = Annotated[str, typer.Option("--timeout", metavar="TIME", help="Until an exchange has failed.")]
SizeOption = Annotated[str | None, typer.Option("--size", metavar="SIZE", help="Bytes of each: 64, 1k, 2MiB.")]
Ipv4Option = Annotated[bool, typer.Option("-4", help="IPv4 only.")]
Ipv6Option = Annotated[bool, typer.Option("-6", help="IPv6 only.")]


@app.command()
def http(
    node: NodeArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="http://web/, https://web/bytes/1000")],
    rate: RateOption = None,
    count: CountOption = None,
    duration: DurationOption = None,
    concurrency: ConcurrencyOption = None,
    size: SizeOption = None,
    timeout: TimeoutOption = "5s",
    ipv4: Ipv4Option = False,
    ipv6: Ipv6Option = False,
    method: Annotated[str, typer.Option("--method", "-X", metavar="METHOD", help="The request's method.")] = "GET",
    header: Annotated[list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="One more.")] = None,
    keep_alive: Annotated[bool, typer.Option(help="Use connections again.")] = True,
    ca: Annotated[
        str | None, typer.Option("--cacert", metavar="FILE", help="Verify certificates against it; else they are not.")
    ] = None,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Send HTTP requests; --size is that of their bodies. A status of 400 or more is a failure."""
    common = _common(url, rate, count, duration, concurrency, timeout, ipv4, ipv6)
    headers = dict(_header(text) for text in header or [])
    more: dict[str, Any] = {"method": method.upper(), "headers": headers, "keep_alive": keep_alive, "ca": _absolute(ca)}
    _run(lab, node, {"kind": "http", **common, **_sized(size), **more}, output)


@app.command()
def tcp(
    node: NodeArgument,
    target: Annotated[str, typer.Argument(metavar="HOST:PORT|URL", help="web:7, or http://web/ for its http service.")],
    mode: Annotated[Mode, typer.Option("--mode", help="Connect again and again, or move bytes up, down or both.")] = (
        Mode.connect
    ),
    rate: RateOption = None,
    count: CountOption = None,
    duration: DurationOption = None,
    concurrency: ConcurrencyOption = None,
    size: SizeOption = None,
    timeout: TimeoutOption = "5s",
    ipv4: Ipv4Option = False,
    ipv6: Ipv6Option = False,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Open TCP connections, or fill --concurrency of them: `up` to echo and sink, `both` to echo, all to http://."""
    from oxyctl.errors import UsageError

    if mode != Mode.connect and (rate is not None or count is not None):
        raise UsageError(f"--mode {mode} fills connections for a --duration: it takes no --rate and no --count")
    common = _common(target, rate, count, duration, concurrency, timeout, ipv4, ipv6)
    _run(lab, node, {"kind": "tcp", **common, **_sized(size), "mode": mode.value}, output)


@app.command()
def udp(
    node: NodeArgument,
    target: Annotated[str, typer.Argument(metavar="HOST:PORT", help="An echo service: web:7.")],
    rate: RateOption = None,
    count: CountOption = None,
    duration: DurationOption = None,
    concurrency: ConcurrencyOption = None,
    size: SizeOption = None,
    timeout: TimeoutOption = "2s",
    ipv4: Ipv4Option = False,
    ipv6: Ipv6Option = False,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Send UDP datagrams to an echo service: loss, order, jitter, round trips."""
    common = _common(target, rate, count, duration, concurrency, timeout, ipv4, ipv6)
    _run(lab, node, {"kind": "udp", **common, **_sized(size)}, output)


@app.command()
def ping(
    node: NodeArgument,
    target: Annotated[str, typer.Argument(metavar="HOST", help="A name or an address.")],
    rate: RateOption = 5,
    count: CountOption = None,
    duration: DurationOption = None,
    concurrency: ConcurrencyOption = None,
    size: SizeOption = None,
    timeout: TimeoutOption = "2s",
    ipv4: Ipv4Option = False,
    ipv6: Ipv6Option = False,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Send ICMP or ICMPv6 echo requests."""
    common = _common(target, rate, count, duration, concurrency, timeout, ipv4, ipv6)
    _run(lab, node, {"kind": "ping", **common, **_sized(size)}, output)


@app.command()
def dns(
    node: NodeArgument,
    server: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="The DNS server.")],
    query: Annotated[str, typer.Argument(metavar="NAME", help="What is asked for.")],
    kind: Annotated[str, typer.Option("--type", "-t", metavar="TYPE", help="A, AAAA, TXT, MX, ...")] = "A",
    over: Annotated[Over, typer.Option("--over", help="What carries it.")] = Over.udp,
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
    """Send DNS queries. An answer other than NOERROR is a failure."""
    common = _common(server, rate, count, duration, concurrency, timeout, ipv4, ipv6)
    _run(lab, node, {"kind": "dns", **common, "query": query, "type": kind.upper(), "over": over.value}, output)


def _common(
    target: str,
    rate: float | None,
    count: int | None,
    duration: str | None,
    concurrency: int | None,
    timeout: str,
    ipv4: bool,
    ipv6: bool,
) -> dict[str, Any]:
    from oxyctl.errors import UsageError

    if ipv4 and ipv6:
        raise UsageError("-4 and -6 contradict each other")
    return {
        "target": target,
        "rate": rate,
        "count": count,
        "duration_s": None if duration is None else _seconds("--duration", duration),
        "concurrency": concurrency,
        "timeout_s": _seconds("--timeout", timeout),
        "family": 4 if ipv4 else 6 if ipv6 else None,
    }


def _seconds(option: str, text: str) -> float:
    from oxyctl.errors import UsageError
    from proxy.control.schema import parse_duration

    try:
        return float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _sized(text: str | None) -> dict[str, int]:
    from oxyctl.errors import UsageError
    from proxy.control.schema import parse_size

    if text is None:
        return {}
    try:
        return {"size": parse_size(text)}
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None


def _header(text: str) -> tuple[str, str]:
    from oxyctl.errors import UsageError

    name, colon, value = text.partition(":")
    if not colon or not name:
        raise UsageError(f"--header: expected NAME:VALUE (found {text!r})")
    return name.strip(), value.strip()


def _absolute(path: str | None) -> str | None:
    from pathlib import Path

    return None if path is None else str(Path(path).absolute())


def _traffic(asked: dict[str, Any]) -> AnyTraffic:
    """UsageError for what cannot be asked for."""
    import msgspec

    from oxyctl.errors import UsageError
    from oxyctl.traffic.config import AnyTraffic
    from oxyctl.traffic.run import check

    try:
        traffic: AnyTraffic = msgspec.convert(asked, AnyTraffic)
        check(traffic)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$.")
        option = place.rstrip("`").removesuffix("_s").replace("_", "-")
        raise UsageError(f"--{option}: {message[:1].lower()}{message[1:].replace('`', '')}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    return traffic


def _run(lab: str | None, node: str, asked: dict[str, Any], output: Format) -> None:
    import asyncio

    from oxyctl.cli.traffic_run import generate
    from oxyctl.lab.state import find_lab, find_node

    traffic = _traffic(asked)
    directory = find_lab(lab)
    find_node(directory, node)
    report = asyncio.run(generate(directory, node, traffic, quiet=output == Format.json))
    if output == Format.json:
        from oxyctl.cli.output import print_envelope

        print_envelope("traffic", [report])
    else:
        from oxyctl.render.traffic import print_report

        print_report(report)
    raise typer.Exit(0 if report.succeeded else 1)
