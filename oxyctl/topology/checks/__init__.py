"""The schema of `checks:` in a lab file. `oxyctl.checks` runs them.

base      what every check has
probes    checks that run inside a node
links     steps that impair links; tunnels of sites
nodes     steps that stop, start and kill nodes
policies  steps that change policies
records   checks of a proxy's records and metrics
values    expected values
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from oxyctl.topology.checks.links import ImpairCheck, TunnelCheck
from oxyctl.topology.checks.nodes import NodeCheck
from oxyctl.topology.checks.policies import PolicyCheck
from oxyctl.topology.checks.probes import (
    DnsCheck,
    DroppedCheck,
    ExecCheck,
    HttpCheck,
    PingCheck,
    TcpCheck,
    UdpCheck,
    WebSocketCheck,
)
from oxyctl.topology.checks.records import FlowsCheck, MetricCheck
from oxyctl.topology.model import Check, Lab
from proxy.settings import Document, DocumentError

AnyCheck = (
    HttpCheck
    | WebSocketCheck
    | TcpCheck
    | UdpCheck
    | PingCheck
    | DnsCheck
    | ExecCheck
    | FlowsCheck
    | MetricCheck
    | DroppedCheck
    | ImpairCheck
    | TunnelCheck
    | NodeCheck
    | PolicyCheck
)

__all__ = [
    "AnyCheck",
    "Check",
    "DnsCheck",
    "DroppedCheck",
    "ExecCheck",
    "FlowsCheck",
    "HttpCheck",
    "ImpairCheck",
    "MetricCheck",
    "NodeCheck",
    "PingCheck",
    "PolicyCheck",
    "TcpCheck",
    "TunnelCheck",
    "UdpCheck",
    "WebSocketCheck",
    "validate_checks",
]


def validate_checks(document: Document, lab: Lab, checks: Iterable[Check]) -> None:
    """Raise the DocumentError for the first check that is invalid in `lab`."""
    names: set[str] = set()
    for index, check in enumerate(checks):
        error_at = partial(_error_at, document, index)
        check.validate(lab, error_at)
        if check.name is not None and check.name in names:
            raise error_at(f"another check is named '{check.name}'", "name")
        names.add(check.name or "")


def _error_at(
    document: Document, index: int, message: str, *key_path: str | int, at_key: bool = False
) -> DocumentError:
    return document.error(message, ("checks", index, *key_path), at_key=at_key)
