"""Finds the proxy that a command talks to, and turns its errors into a message and an exit code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.completion import complete_proxy

if TYPE_CHECKING:
    from proxy.control.client import ControlClient
    from proxy.control.recordings import RecordedSessions
    from proxy.control.store import RecordedFlows

COMPLETION_TIMEOUT_S = 0.5

ControlOption = Annotated[
    str | None, typer.Option("--control", metavar="SOCKET", help="The control socket of a proxy without a lab.")
]
NodeOption = Annotated[
    str | None,
    typer.Option(
        "--node",
        metavar="NODE",
        help="The proxy; required only if the lab has several.",
        autocompletion=complete_proxy,
    ),
]


def connect(lab: str | None, node: str | None, control: str | None, *, timeout_s: float = 30) -> ControlClient:
    """A client of the proxy at the socket `control`, or of a lab's proxy. LabNotFound, NothingMatched, UsageError."""
    from oxyctl.errors import UsageError
    from proxy.control.client import ControlClient

    if control is None:
        from oxyctl.supervise.state import control_socket

        control = str(control_socket(lab, node))
    elif lab is not None or node is not None:
        raise UsageError("--control names a proxy without a lab: leave out --lab and --node")
    return ControlClient(control, timeout_s=timeout_s)


def recorded_sessions(lab: str | None, node: str | None, control: str | None) -> RecordedSessions | None:
    """SSH session recordings of a proxy that no longer runs; None: not known where they are. LabNotFound."""
    from oxyctl.operate.recorded_flows import recorded_sessions_of

    path = _control_path(lab, node, control)
    return None if path is None else recorded_sessions_of(path)


def recorded_flows(lab: str | None, node: str | None, control: str | None) -> RecordedFlows | None:
    """Flow records of a proxy that no longer runs; None: none, or not known where. LabNotFound, UsageError."""
    from oxyctl.operate.recorded_flows import recorded_flows_of

    path = _control_path(lab, node, control)
    return None if path is None else recorded_flows_of(path)


def _control_path(lab: str | None, node: str | None, control: str | None) -> str | None:
    """The path of the proxy's control socket, even after the proxy has ended."""
    if control is not None:
        return control
    from oxyctl.supervise.state import find_proxy, find_stopped

    return find_proxy(find_stopped(lab), node).control


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turns the proxy's refusals into UsageError or NothingMatched, and its other errors into OxyctlError."""
    from oxyctl.errors import NothingMatched, OxyctlError, UsageError
    from proxy.control.client import ControlError

    try:
        yield
    except ControlError as error:
        exception = {400: UsageError, 404: NothingMatched}.get(error.status or 0, OxyctlError)
        raise exception(str(error)) from None


def check_tenant(client: ControlClient, tenant: str) -> None:
    """NothingMatched: the proxy has no such tenant."""
    from oxyctl.errors import NothingMatched
    from proxy.settings import suggest

    known = client.status().tenants
    if tenant not in known:
        raise NothingMatched(f"the proxy has no tenant '{tenant}'{suggest(tenant, known)}")


def tenants(lab: str | None, node: str | None, control: str | None) -> list[str]:
    """Names of the proxy's tenants, or of those in its records; empty if neither can be read quickly. Never fails."""
    with contextlib.suppress(Exception):
        return sorted(connect(lab, node, control, timeout_s=COMPLETION_TIMEOUT_S).status().tenants)
    with contextlib.suppress(Exception):
        if (store := recorded_flows(lab, node, control)) is not None:
            return store.tenants()
    return []


def complete_tenant(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: tenants whose names begin with the typed text."""
    typed = {name: context.params.get(name) for name in ("lab", "node", "control")}
    return [name for name in tenants(**typed) if name.startswith(incomplete)]
