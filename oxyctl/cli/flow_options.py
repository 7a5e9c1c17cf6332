"""The options of `oxyctl flows`, and their completions."""

from __future__ import annotations

import enum
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer
import typer.core

from oxyctl.cli.control import ControlOption, NodeOption, complete_tenant
from oxyctl.cli.options import LabOption


class FlowFormat(enum.StrEnum):
    """How flows are printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


def choices(field: str) -> Callable[[str], list[str]]:
    """Completes with the possible values of a record's field."""

    def complete(incomplete: str) -> list[str]:
        from proxy.control import schema

        kinds = {
            "protocol": schema.FlowProtocol, "state": schema.State, "close_reason": schema.CloseReason,
            "level": schema.Level, "verdict": schema.Verdict,
        }  # fmt: skip
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
    typer.Option(
        "--tenant",
        "-t",
        metavar="NAME",
        help="The tenant whose flows to list. Required only if the proxy has several.",
        autocompletion=complete_tenant,
    ),
]
AllTenantsOption = Annotated[bool, typer.Option("--all-tenants", help="List the flows of every tenant instead.")]
SrcOption = Annotated[Many, filter_option("--src", "Client address or prefix.", "CIDR")]
DstOption = Annotated[Many, filter_option("--dst", "Destination address or prefix.", "CIDR")]
IpOption = Annotated[Many, filter_option("--ip", "Client or destination address or prefix.", "CIDR")]
SrcPortOption = Annotated[Many, filter_option("--src-port", "Client port, or range 8000-8099.", "PORT")]
DstPortOption = Annotated[Many, filter_option("--dst-port", "Destination port, or range.", "PORT")]
PortOption = Annotated[Many, filter_option("--port", "Client or destination port, or range.", "PORT")]
ProtocolOption = Annotated[Many, filter_option("--protocol", "tcp, udp, icmp or icmpv6.", complete="protocol")]
StateOption = Annotated[Many, filter_option("--state", "new, established or closed.", complete="state")]
ReasonOption = Annotated[Many, filter_option("--close-reason", "Close reason.", complete="close_reason")]
UserOption = Annotated[Many, filter_option("--user", "The tunnel's user.")]
DeviceOption = Annotated[Many, filter_option("--device", "The tunnel's device.")]
OnrampOption = Annotated[Many, filter_option("--onramp", "On-ramp: connected, gue, interface, tun.")]
OfframpOption = Annotated[Many, filter_option("--offramp", "Off-ramp: kernel, socket, tunnel.")]
LevelOption = Annotated[Many, filter_option("--level", "Level: packet, stream, tls, http, ssh.", complete="level")]
VerdictOption = Annotated[Many, filter_option("--verdict", "Verdict: allowed, denied.", complete="verdict")]
HostOption = Annotated[Many, filter_option("--host", "Destination host name; * and ? are wildcards.", "GLOB")]
TlsOption = Annotated[Many, filter_option("--tls-action", "TLS action: pass or terminate.")]
StatusOption = Annotated[Many, filter_option("--http-status", "Has a request with this status: 404, 4xx.", "STATUS")]
MethodOption = Annotated[Many, filter_option("--http-method", "Has a request with this method.", "METHOD")]
UrlOption = Annotated[Many, filter_option("--url", "Has a request for this URL; * and ? are wildcards.", "GLOB")]
FaultOption = Annotated[Many, filter_option("--fault", "Fault: slow_body, origin_refused, ...")]
PolicyOption = Annotated[Many, filter_option("--policy", "A policy or rule that decided the flow.", "NAME")]
DscpOption = Annotated[Many, filter_option("--dscp", "DSCP of the client's first packet, 0 to 63.", "DSCP")]
CommunityOption = Annotated[
    Many, filter_option("--community-id", "Community ID, as in Zeek, Suricata and Wireshark.", "1:...")
]
V4Option = Annotated[bool, typer.Option("--ipv4", "-4", help="Use IPv4.")]
V6Option = Annotated[bool, typer.Option("--ipv6", "-6", help="Use IPv6.")]
WhereOption = Annotated[
    str | None,
    typer.Option("--where", metavar="EXPR", help="A condition as in policies; `--where help` lists its fields."),
]
NotOption = Annotated[bool, typer.Option("--not", help="Negates the filter that follows.", show_default=False)]
IdOption = Annotated[Many, filter_option("--id", "The flow's id.")]
BytesOption = Annotated[str | None, filter_option("--min-bytes", "Minimum payload: 1500, 10k, 2MiB.", "SIZE")]
DurationOption = Annotated[str | None, filter_option("--min-duration", "Minimum duration: 250ms, 5m.", "DURATION")]
FieldsOption = Annotated[
    str | None, typer.Option("--fields", metavar="A,B,...", help="Fields to show; `--fields help` lists them.")
]
FormatOption = Annotated[FlowFormat, typer.Option("--format", help="Output format.")]


def tenant_options(tenant: TenantOption = None, all_tenants: AllTenantsOption = False) -> None:
    """Options: which tenant."""


def flow_filters(
    src: SrcOption = None,
    dst: DstOption = None,
    ip: IpOption = None,
    src_port: SrcPortOption = None,
    dst_port: DstPortOption = None,
    port: PortOption = None,
    protocol: ProtocolOption = None,
    ipv4: V4Option = False,
    ipv6: V6Option = False,
    host: HostOption = None,
    user: UserOption = None,
    device: DeviceOption = None,
    onramp: OnrampOption = None,
    offramp: OfframpOption = None,
    level: LevelOption = None,
    verdict: VerdictOption = None,
    tls_action: TlsOption = None,
    policy: PolicyOption = None,
    close_reason: ReasonOption = None,
    state: StateOption = None,
    dscp: DscpOption = None,
    community_id: CommunityOption = None,
    http_status: StatusOption = None,
    http_method: MethodOption = None,
    url: UrlOption = None,
    id_: IdOption = None,
    min_bytes: BytesOption = None,
    min_duration: DurationOption = None,
    where: WhereOption = None,
    not_: NotOption = False,
) -> None:
    """Options: which flows."""


def request_filters(
    http_status: Annotated[Many, filter_option("--http-status", "Status: 404, 4xx, 400-499.", "STATUS")] = None,
    http_method: Annotated[Many, filter_option("--http-method", "Method.", "METHOD")] = None,
    host: Annotated[Many, filter_option("--host", "Host; * and ? are wildcards.", "GLOB")] = None,
    url: Annotated[Many, filter_option("--url", "URL; * and ? are wildcards.", "GLOB")] = None,
    user: UserOption = None,
    verdict: VerdictOption = None,
    fault: FaultOption = None,
    id_: Annotated[Many, filter_option("--id", "The id of their flow.")] = None,
    not_: NotOption = False,
) -> None:
    """Options: which requests."""


def negated_flow_filters(**unwanted: Any) -> None:
    """The negated options of `flow_filters`; `_NegatesNextOption` turns `--not --user` into `--not-user`."""


def negated_request_filters(**unwanted: Any) -> None:
    """The negated options of `request_filters`."""


def _negated(filters: Callable[..., None]) -> list[inspect.Parameter]:
    """A hidden `--not-NAME` for each filter."""
    parameters = []
    for parameter in inspect.signature(filters, eval_str=True).parameters.values():
        if parameter.name in ("where", "not_"):
            continue
        flag = f"--not-{parameter.name.strip('_').replace('_', '-')}"
        kind = typing.get_args(parameter.annotation)[0]
        option = Annotated[kind, typer.Option(flag, hidden=True)]  # type: ignore[valid-type]  # built at run time
        parameters.append(parameter.replace(name=f"not_{parameter.name}", annotation=option))
    return parameters


for _negated_block, _block in ((negated_flow_filters, flow_filters), (negated_request_filters, request_filters)):
    _negated_block.__signature__ = inspect.Signature(_negated(_block))  # type: ignore[attr-defined]  # inspect.signature() looks there


class _NegatesNextOption:
    """Turns `--not --user bob` into `--not-user bob`."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        from oxyctl.errors import UsageError

        joined: list[str] = []
        short = {"-4": "--ipv4", "-6": "--ipv6"}
        rest = iter(args)
        for argument in rest:
            if argument != "--not":
                joined.append(argument)
                continue
            flag = next(rest, "")
            flag = short.get(flag, flag)
            name = flag.partition("=")[0]
            if name.removeprefix("--").replace("-", "_") not in NEGATABLE:
                raise UsageError(f"--not must precede a filter, as in --not --user bob (found {flag or 'nothing'!r})")
            joined.append("--not-" + flag.removeprefix("--"))
        return super().parse_args(context, joined)  # type: ignore[misc, no-any-return]  # click's, in the other base class


NEGATABLE = frozenset(
    each.name.removeprefix("not_").strip("_") for of in (flow_filters, request_filters) for each in _negated(of)
)


class FlowsGroup(_NegatesNextOption, typer.core.TyperGroup):
    """`oxyctl flows` itself."""


class FlowsCommand(_NegatesNextOption, typer.core.TyperCommand):
    """A subcommand of `oxyctl flows` that takes filters."""


def output_options(fields: FieldsOption = None, output: FormatOption = FlowFormat.table) -> None:
    """Options: which fields, in which format."""


def period_options(
    live: Annotated[bool, typer.Option("--live", help="Only live flows.")] = False,
    past: Annotated[bool, typer.Option("--past", help="Only flows that have ended.")] = False,
    since: Annotated[
        str | None, filter_option("--since", "Still alive after this time: 5m (ago), 14:30, 2026-01-31.", "TIME")
    ] = None,
    until: Annotated[str | None, filter_option("--until", "Started before this time.", "TIME")] = None,
) -> None:
    """Options: which period."""


def proxy_options(lab: LabOption = None, node: NodeOption = None, control: ControlOption = None) -> None:
    """Options: which proxy."""
