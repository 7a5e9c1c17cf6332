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
        help="The proxy; needed only if the lab has several.",
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
    """SSH session recordings of a proxy that no longer runs; None: their place is not known. LabNotFound."""
    from oxyctl.operate.recorded_flows import recordings_beside

    place = _control_of(lab, node, control)
    return None if place is None else recordings_beside(place)


def recorded(lab: str | None, node: str | None, control: str | None) -> RecordedFlows | None:
    """Records of a proxy that no longer runs; None: none, or their place is unknown. LabNotFound, UsageError."""
    from oxyctl.operate.recorded_flows import recorded_beside

    place = _control_of(lab, node, control)
    return None if place is None else recorded_beside(place)


def _control_of(lab: str | None, node: str | None, control: str | None) -> str | None:
    """The path of the proxy's control socket, also after the proxy has ended."""
    if control is not None:
        return control
    from oxyctl.supervise.state import find_proxy, find_stopped

    return find_proxy(find_stopped(lab), node).control


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Turns the proxy's refusals into UsageError or NothingMatched, and its other errors into OxyctlError."""
    from oxyctl.errors import NothingMatched, OxyctlError, UsageError
    from proxy.control.client import ControlError

    try:
        yield
    except ControlError as error:
        kind = {400: UsageError, 404: NothingMatched}.get(error.status or 0, OxyctlError)
        raise kind(str(error)) from None


def check_tenant(client: ControlClient, tenant: str) -> None:
    """NothingMatched: the proxy has no such tenant."""
    from oxyctl.errors import NothingMatched
    from proxy.settings import suggest

    known = client.status().tenants
    if tenant not in known:
        raise NothingMatched(f"the proxy has no tenant '{tenant}'{suggest(tenant, known)}")


def tenants(lab: str | None, node: str | None, control: str | None) -> list[str]:
    """The names of the proxy's tenants, or of those on record; empty if neither answers quickly. Never fails."""
    with contextlib.suppress(Exception):
        return sorted(connect(lab, node, control, timeout_s=COMPLETION_TIMEOUT_S).status().tenants)
    with contextlib.suppress(Exception):
        if (store := recorded(lab, node, control)) is not None:
            return store.tenants()
    return []


def complete_tenant(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: tenants whose names begin with the typed text."""
    typed = {name: context.params.get(name) for name in ("lab", "node", "control")}
    return [name for name in tenants(**typed) if name.startswith(incomplete)]
