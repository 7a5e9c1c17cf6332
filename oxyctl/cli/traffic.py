"""`oxyctl traffic`: generates traffic inside a node of a lab, and reports on it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.options import Format
from oxyctl.cli.shared_options import shared_options
from oxyctl.cli.traffic_options import NodeArgument, load_options, load_settings, size_options

if TYPE_CHECKING:
    from oxyctl.traffic.config import AnyTraffic

app = typer.Typer(
    help="""Send traffic from inside a node, and report its rate, loss, throughput and latency.

    With --rate, latency is measured from when each exchange was due, so that the delay of a stalled target is counted
    in full. Without --rate, each exchange starts when the previous one has ended. Ctrl-C ends the run and prints the
    report so far. Exit code 1 if nothing succeeded.""",
    no_args_is_help=True,
)


class Mode(enum.StrEnum):
    """What `oxyctl traffic tcp` does with its connections."""

    connect = "connect"
    up = "up"
    down = "down"
    both = "both"


class Over(enum.StrEnum):
    """Transport of DNS queries."""

    udp = "udp"
    tcp = "tcp"


Http2Option = Annotated[bool, typer.Option("--http2", help="Use HTTP/2 instead of HTTP/1.1.")]
CaOption = Annotated[
    str | None,
    typer.Option(
        "--cacert", metavar="FILE", help="CA file to verify certificates with; without it they are not verified."
    ),
]


@app.command()
@shared_options(size_options, load_options, timeout="5s")
def http(
    node: NodeArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="http://web/, https://web/bytes/1000")],
    method: Annotated[str, typer.Option("--method", "-X", metavar="METHOD", help="Request method.")] = "GET",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="Header to send; may be repeated.")
    ] = None,
    keep_alive: Annotated[bool, typer.Option(help="Reuse connections.")] = True,
    http2: Http2Option = False,
    ca: CaOption = None,
    **shared: Any,
) -> None:
    """Send HTTP requests; --size is the size of their bodies. A status of 400 or more is a failure."""
    headers = dict(_header(text) for text in header or [])
    http_settings: dict[str, Any] = {
        "method": method.upper(),
        "headers": headers,
        "keep_alive": keep_alive,
        "http2": http2,
    }
    _run(node, {"kind": "http", "target": url, "ca": _absolute(ca), **http_settings}, shared)


@app.command()
@shared_options(size_options, load_options, timeout="5s")
def websocket(
    node: NodeArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="A WebSocket that echoes: ws://web/ws, wss://web/ws.")],
    http2: Http2Option = False,
    ca: CaOption = None,
    **shared: Any,
) -> None:
    """Send WebSocket messages to a server that echoes them: round trips of --size bytes."""
    _run(node, {"kind": "websocket", "target": url, "http2": http2, "ca": _absolute(ca)}, shared)


@app.command()
@shared_options(size_options, load_options, timeout="5s")
def tcp(
    node: NodeArgument,
    target: Annotated[str, typer.Argument(metavar="HOST:PORT|URL", help="web:7, or http://web/ for its http service.")],
    mode: Annotated[Mode, typer.Option("--mode", help="Open connections, or move bytes up, down or both ways.")] = (
        Mode.connect
    ),
    **shared: Any,
) -> None:
    """Open TCP connections, or fill --concurrency of them: `up` to echo and sink, `both` to echo, all to http://."""
    from oxyctl.errors import UsageError

    if mode != Mode.connect and (shared["rate"] is not None or shared["count"] is not None):
        raise UsageError(f"--mode {mode} fills connections for a --duration: it takes no --rate and no --count")
    _run(node, {"kind": "tcp", "target": target, "mode": mode.value}, shared)


@app.command()
@shared_options(size_options, load_options)
def udp(
    node: NodeArgument,
    target: Annotated[str, typer.Argument(metavar="HOST:PORT", help="An echo service: web:7.")],
    **shared: Any,
) -> None:
    """Send UDP datagrams to an echo service: loss, order, jitter, round trips."""
    _run(node, {"kind": "udp", "target": target}, shared)


@app.command()
@shared_options(size_options, load_options, rate=5.0)
def ping(
    node: NodeArgument,
    target: Annotated[str, typer.Argument(metavar="HOST", help="A name or an address.")],
    **shared: Any,
) -> None:
    """Send ICMP or ICMPv6 echo requests."""
    _run(node, {"kind": "ping", "target": target}, shared)


@app.command()
@shared_options(load_options)
def dns(
    node: NodeArgument,
    server: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="The DNS server.")],
    query: Annotated[str, typer.Argument(metavar="NAME", help="Name to look up.")],
    kind: Annotated[str, typer.Option("--type", "-t", metavar="TYPE", help="A, AAAA, TXT, MX, ...")] = "A",
    over: Annotated[Over, typer.Option("--over", help="Transport of the query.")] = Over.udp,
    **shared: Any,
) -> None:
    """Send DNS queries. An answer other than NOERROR is a failure."""
    settings = {"kind": "dns", "target": server, "query": query, "type": kind.upper(), "over": over.value}
    _run(node, settings, shared)


def _header(text: str) -> tuple[str, str]:
    from oxyctl.errors import UsageError

    name, colon, value = text.partition(":")
    if not colon or not name:
        raise UsageError(f"--header: expected NAME:VALUE (found {text!r})")
    return name.strip(), value.strip()


def _absolute(path: str | None) -> str | None:
    from pathlib import Path

    return None if path is None else str(Path(path).absolute())


def _parsed(settings: dict[str, Any]) -> AnyTraffic:
    """The configuration of a run. UsageError: it is invalid."""
    import msgspec

    from oxyctl.cli.output import option_error
    from oxyctl.errors import UsageError
    from oxyctl.traffic.config import AnyTraffic
    from oxyctl.traffic.run import check

    try:
        traffic: AnyTraffic = msgspec.convert(settings, AnyTraffic)
        check(traffic)
    except msgspec.ValidationError as error:
        raise UsageError(option_error(error)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    return traffic


def _run(node: str, settings: dict[str, Any], shared: dict[str, Any]) -> None:
    import asyncio

    from oxyctl.cli.traffic_run import generate
    from oxyctl.supervise.state import find_lab, find_node

    traffic, output = _parsed(settings | load_settings(shared)), shared["output"]
    directory = find_lab(shared["lab"])
    find_node(directory, node)
    report = asyncio.run(generate(directory, node, traffic, quiet=output == Format.json))
    if output == Format.json:
        from oxyctl.cli.output import print_envelope

        print_envelope("traffic", [report])
    else:
        from oxyctl.render.traffic import print_report

        print_report(report)
    raise typer.Exit(0 if report.succeeded else 1)
