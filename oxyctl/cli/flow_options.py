"""The options of `oxyctl flows`, and what the shell completes for them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any

import typer

from oxyctl.cli.control import ControlOption, NodeOption, complete_tenant
from oxyctl.cli.options import LabOption


class FlowFormat(enum.StrEnum):
    """How flows are printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


def choices(field: str) -> Callable[[str], list[str]]:
    """For the shell: what the field of a record may be."""

    def complete(incomplete: str) -> list[str]:
        import typing

        from proxy.control import schema

        kinds = {"protocol": schema.FlowProtocol, "state": schema.State, "close_reason": schema.CloseReason}
        known = list(schema.SORT_KEYS) if field == "sort" else typing.get_args(kinds[field])
        return [name for name in known if name.startswith(incomplete)]

    return complete


def filter_option(flag: str, help_: str, metavar: str = "TEXT", complete: str | None = None) -> Any:
    return typer.Option(
        flag, metavar=metavar, help=help_, show_default=False, autocompletion=choices(complete) if complete else None
    )


Many = list[str] | None
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", "-t", metavar="NAME", help="Whose flows. Required.", autocompletion=complete_tenant),
]
AllTenantsOption = Annotated[bool, typer.Option("--all-tenants", help="The flows of every tenant, instead.")]
SrcOption = Annotated[Many, filter_option("--src", "Client address or prefix.", "CIDR")]
DstOption = Annotated[Many, filter_option("--dst", "Address or prefix that the client asked for.", "CIDR")]
IpOption = Annotated[Many, filter_option("--ip", "Either of the two.", "CIDR")]
SrcPortOption = Annotated[Many, filter_option("--src-port", "Client port, or range 8000-8099.", "PORT")]
DstPortOption = Annotated[Many, filter_option("--dst-port", "Port that the client asked for.", "PORT")]
PortOption = Annotated[Many, filter_option("--port", "Either of the two.", "PORT")]
ProtocolOption = Annotated[Many, filter_option("--protocol", "tcp, udp, icmp or icmpv6.", complete="protocol")]
StateOption = Annotated[Many, filter_option("--state", "new, established or closed.", complete="state")]
ReasonOption = Annotated[Many, filter_option("--close-reason", "Why it ended.", complete="close_reason")]
UserOption = Annotated[Many, filter_option("--user", "The tunnel's user.")]
IdOption = Annotated[Many, filter_option("--id", "The flow's id.")]
BytesOption = Annotated[str | None, filter_option("--min-bytes", "At least so much payload: 1500, 10k, 2MiB.", "SIZE")]
DurationOption = Annotated[str | None, filter_option("--min-duration", "At least so long: 250ms, 5m.", "DURATION")]
FieldsOption = Annotated[
    str | None, typer.Option("--fields", metavar="A,B,...", help="These fields; `--fields help` lists them.")
]
FormatOption = Annotated[FlowFormat, typer.Option("--format", help="For people, or for programs.")]


def whose(tenant: TenantOption = None, all_tenants: AllTenantsOption = False) -> None:
    """Of which tenant."""


def filters(
    src: SrcOption = None,
    dst: DstOption = None,
    ip: IpOption = None,
    src_port: SrcPortOption = None,
    dst_port: DstPortOption = None,
    port: PortOption = None,
    protocol: ProtocolOption = None,
    state: StateOption = None,
    close_reason: ReasonOption = None,
    user: UserOption = None,
    id_: IdOption = None,
    min_bytes: BytesOption = None,
    min_duration: DurationOption = None,
) -> None:
    """Which of them."""


def printing(fields: FieldsOption = None, output: FormatOption = FlowFormat.table) -> None:
    """What is told of them."""


def place(lab: LabOption = None, node: NodeOption = None, control: ControlOption = None) -> None:
    """Which proxy is asked."""
