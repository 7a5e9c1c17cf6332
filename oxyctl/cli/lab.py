"""`oxyctl lab`: builds labs, inspects them, runs programs in them, takes them down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.completion import complete_lab_file
from oxyctl.cli.options import Format, FormatOption, LabArgument, LabOption

if TYPE_CHECKING:
    from oxyctl.supervise.status import LabStatus, NodeStatus

app = typer.Typer(help="Build labs on this machine, work in them, and take them down.", no_args_is_help=True)

FileArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[FILE]",
        help="A lab file, or the name of a bundled lab.",
        show_default="lab.yaml",
        autocompletion=complete_lab_file,
    ),
]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name for the lab.")]


@app.command()
def up(
    file: FileArgument = None,
    name: NameOption = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait until every node is ready.")] = 60,
) -> None:
    """Build a lab and wait until every node is ready. If that fails, nothing is left behind."""
    from oxyctl.cli.output import print_stderr
    from oxyctl.cli.progress import Progress
    from oxyctl.operate.up import Interrupted
    from oxyctl.operate.up import up as bring_up
    from oxyctl.topology.file import load
    from oxyctl.topology.library import find_file

    lab = load(find_file(file), name)
    try:
        with _with_diagnosis(), Progress(lab.name) as progress:
            is_new = bring_up(lab, timeout, progress.show)
    except Interrupted as signal:
        print_stderr(f"{signal}: lab '{lab.name}' was taken down")
        raise typer.Exit(128 + signal.number) from None
    if not is_new:
        _require_ready(lab.name)
        print_stderr(f"lab '{lab.name}' is already up")
    _print_hints(lab.name)


@app.command("ls")
def list_labs(output: FormatOption = Format.table) -> None:
    """List the labs of this user."""
    from oxyctl.cli.output import print_envelope, print_stderr, print_table
    from oxyctl.supervise.state import NO_LAB, all_labs

    labs: list[dict[str, Any]] = []
    for lab in all_labs():
        state, plan = lab.live_state(), lab.read_plan()
        item = {"name": lab.name, "state": state.phase if state else "dead", "nodes": len(plan.nodes) if plan else 0}
        labs.append(item | {"source": plan.source if plan else "", "directory": str(lab.path)})
    if output == Format.json:
        print_envelope("labs", labs)
        return
    rows = [[item["name"], item["state"], str(item["nodes"]), item["source"]] for item in labs]
    print_table(["NAME", "STATE", "NODES", "FILE"], rows)
    if not rows:
        print_stderr(NO_LAB)


@app.command()
def status(name: LabArgument = None, lab: LabOption = None, output: FormatOption = Format.table) -> None:
    """Show the nodes of a lab: addresses, programs, and whether they are ready."""
    from oxyctl.cli.output import print_envelope, print_stderr

    lab_status = _status(name or lab)
    if output == Format.json:
        more = {
            "lab": _summary(lab_status),
            "supervisor": lab_status.supervisor,
            "links": lab_status.links,
            "tunnels": lab_status.tunnels,
        }
        print_envelope("lab-status", lab_status.nodes, **more)
        return
    _print_status(lab_status)
    for remark in lab_status.remarks:
        print_stderr(f"note: {remark}")


@app.command()
def validate(file: FileArgument = None, name: NameOption = None) -> None:
    """Check a lab file without building anything."""
    from oxyctl.render.units import count_text
    from oxyctl.topology.file import load
    from oxyctl.topology.library import find_file

    path = find_file(file)
    lab = load(path, name)
    counts = f"{count_text(len(lab.nodes), 'node')}, {count_text(len(lab.networks), 'network')}"
    print(f"{path}: valid: lab '{lab.name}', {counts}")


@contextlib.contextmanager
def _with_diagnosis() -> Iterator[None]:
    """Add a hint to the error of a lab that failed to start, if `doctor` knows the reason."""
    from oxyctl.errors import OxyctlError

    try:
        yield
    except OxyctlError as error:
        from oxyctl.doctor.diagnose import diagnose

        hint = diagnose(error)
        raise (type(error)(f"{error}\n{hint}") if hint else error) from None


def _status(name: str | None) -> LabStatus:
    from oxyctl.operate.ask import ask_status
    from oxyctl.supervise.state import find_lab

    return ask_status(find_lab(name))


def _require_ready(name: str) -> None:
    from oxyctl.errors import OxyctlError

    if (lab_status := _status(name)).state == "degraded":
        broken = ", ".join(f"{node.name} ({node.detail})" for node in lab_status.nodes if node.state != "ready")
        raise OxyctlError(
            f"lab '{name}' is up, but degraded: {broken}; run `oxyctl lab restart NODE`, or `oxyctl lab down {name}`"
        )


def _summary(lab_status: LabStatus) -> dict[str, Any]:
    return {
        "name": lab_status.name,
        "state": lab_status.state,
        "source": lab_status.source,
        "directory": lab_status.directory,
    }


def _print_status(lab_status: LabStatus) -> None:
    from oxyctl.cli.output import print_table

    print(
        f"lab {lab_status.name}: {lab_status.state}, supervisor {lab_status.supervisor.pid}, from {lab_status.source}"
    )
    rows = [
        [
            node.name,
            node.kind,
            node.state,
            str(node.pid or "-"),
            _restarts(node),
            " ".join(node.addresses) or "-",
            node.detail or "",
        ]
        for node in lab_status.nodes
    ]
    print_table(["NODE", "KIND", "STATE", "PID", "RESTARTS", "ADDRESSES", ""], rows)
    _print_tunnels(lab_status)
    _print_links(lab_status)


def _restarts(node: NodeStatus) -> str:
    """The number of restarts, and the restart policy if there is one."""
    return str(node.restarts) if node.restart == "never" else f"{node.restarts} ({node.restart})"


def _print_tunnels(lab_status: LabStatus) -> None:
    """Print which end carries each site's tunnel, and its health as each end sees it."""
    from oxyctl.cli.output import print_table

    rows = [
        [
            tunnel.site,
            f"{tunnel.kind} to {tunnel.proxy}",
            tunnel.tenant if tunnel.network == "default" else f"{tunnel.tenant}/{tunnel.network}",
            str(tunnel.mtu),
            tunnel.by,
            tunnel.edge or "proxy",
            _health(tunnel.health, tunnel.rtt_ms),
            _health(tunnel.proxy_health, tunnel.proxy_rtt_ms),
        ]
        for tunnel in lab_status.tunnels
    ]
    if rows:
        print()
        print_table(["SITE", "TUNNEL", "TENANT", "MTU", "SITE END", "EDGE END", "SEEN BY SITE", "SEEN BY PROXY"], rows)


def _health(health: str | None, rtt_ms: float | None) -> str:
    if health is None:
        return "-"
    return health if rtt_ms is None or health == "down" else f"{health}, {rtt_ms:.1f} ms"


def _print_links(lab_status: LabStatus) -> None:
    """Print the links that differ from plain Ethernet."""
    from oxyctl.cli.output import print_table

    rows = [
        [link.name, link.detail or "-", link.by or "-", ", ".join(f"{n} {what}" for what, n in link.frames.items())]
        for link in lab_status.links
        if link.by or link.detail
    ]
    if rows:
        print()
        print_table(["LINK", "IMPAIRED", "BY", "FRAMES"], rows)


def _print_hints(name: str) -> None:
    from oxyctl.errors import LabNotFound
    from oxyctl.plan.hints import hints
    from oxyctl.supervise.state import find_lab, lab_directory

    try:
        is_default_lab = find_lab().name == name
    except LabNotFound:  # other labs are running too
        is_default_lab = False
    plan = lab_directory(name).read_plan()
    if plan is not None:
        print("\n".join(["Try:", *(f"  {hint}" for hint in hints(plan, is_default_lab=is_default_lab))]))
