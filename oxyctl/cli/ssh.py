"""`oxyctl ssh`: host keys of tenants, and the SSH sessions that end in the proxy."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import (
    COMPLETION_TIMEOUT_S,
    ControlOption,
    NodeOption,
    complete_tenant,
    connect,
    translated_errors,
)
from oxyctl.cli.flow_options import FlowsGroup, proxy_options, tenant_options
from oxyctl.cli.flow_query import QueryOptions
from oxyctl.cli.options import Format, FormatOption, LabOption
from oxyctl.cli.shared_options import shared_options

if TYPE_CHECKING:
    from proxy.control.schema import HostKey

app = typer.Typer(help="Inspected SSH sessions, and the host keys that their clients see.", no_args_is_help=True)
hostkey = typer.Typer(help="The host key that a tenant's clients see for every origin.", no_args_is_help=True)
sessions = typer.Typer(cls=FlowsGroup)
app.add_typer(hostkey, name="hostkey")
app.add_typer(sessions, name="sessions")

OptionalTenant = Annotated[
    str | None,
    typer.Option("--tenant", "-t", metavar="NAME", help="Only this tenant's.", autocompletion=complete_tenant),
]
HostOption = Annotated[str, typer.Option("--host", metavar="PATTERN", help="Host patterns of the known_hosts line.")]


def complete_live(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: open channels of the given tenant, or of all."""
    typed = context.params
    tenant_filter = ("all_tenants", "true") if typed.get("tenant") is None else ("tenant", str(typed["tenant"]))
    with contextlib.suppress(Exception):
        client = connect(*(typed.get(name) for name in ("lab", "node", "control")), timeout_s=COMPLETION_TIMEOUT_S)
        found = client.children("channels", [tenant_filter, ("scope", "live")]).items
        return sorted(each.channel_id for each in found if each.channel_id.startswith(incomplete))
    return []


@hostkey.command()
def show(
    tenant: OptionalTenant = None,
    host: HostOption = "*",
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Print the known_hosts line, the SSHFP record for DNS, and the CA that origins must trust.

    Exit code 4 if the tenant's SSH sessions are not inspected.
    """
    from oxyctl.errors import NothingMatched
    from proxy.settings import suggest

    client = connect(lab, node, control)
    with translated_errors():
        keys = client.host_keys(tenant)
        if not keys:
            known = [key.tenant for key in client.host_keys()]
            hint = suggest(tenant, known) if tenant is not None else ""
            raise NothingMatched(f"SSH sessions of tenant '{tenant}' are not inspected{hint}")
    _print_keys(keys, host, output)


@hostkey.command()
def rotate(
    tenant: Annotated[
        str, typer.Option("--tenant", "-t", metavar="NAME", help="The tenant.", autocompletion=complete_tenant)
    ],
    host: HostOption = "*",
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Create a new host key for new sessions. Clients reject it until they have its known_hosts line.

    Open sessions keep the key that they began with, even when they rekey.
    """
    client = connect(lab, node, control)
    with translated_errors():
        found = client.rotate_host_key(tenant)
    _print_keys([found], host, output)


@sessions.callback(invoke_without_command=True)
@shared_options(tenant_options, proxy_options)
def list_sessions(
    context: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Only channels that are open.")] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only channels after this time: 1h (ago), 14:00, ISO 8601."),
    ] = None,
    user: Annotated[list[str] | None, typer.Option("--user", metavar="NAME", help="The tunnel's user.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of channels.")] = 100,
    output: FormatOption = Format.table,
    **shared: Any,
) -> None:
    """List the channels of a tenant's SSH sessions: open ones first, then by end time."""
    from oxyctl.cli.output import print_envelope, print_stderr

    if context.invoked_subcommand is not None:
        return
    options = QueryOptions(context)
    pairs = [*options.pairs(), ("limit", str(limit)), *(("user", name) for name in user or [])]
    pairs += [("scope", "live")] if live else []
    pairs += [("since", since)] if since is not None else []
    with translated_errors():
        answer, _ = options.ask(lambda proxy: proxy.children("channels", pairs))
    if not answer.items:
        options.check_tenant()
    if output == Format.json:
        print_envelope("channels", answer.items, window=answer.window, lost=answer.lost, truncated=answer.truncated)
        return
    from oxyctl.render.ssh import print_channels

    print_channels(answer.items)
    if not answer.items:
        print_stderr("no channels match")
    if answer.truncated:
        print_stderr(f"more channels match than the {len(answer.items)} shown: raise --limit")


@sessions.command()
@shared_options(tenant_options, proxy_options)
def kill(
    context: typer.Context,
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="A flow's id, or a channel's.", autocompletion=complete_live)
    ],
    **shared: Any,
) -> None:
    """End a live session, or one channel of it, with a message to its user. Exit code 4 if there is none."""
    from oxyctl.cli.output import print_stderr

    options = QueryOptions(context)
    with translated_errors():
        options.client().end_ssh(identifier, options.pairs())
    print_stderr(f"{identifier} was ended")


@sessions.command()
@shared_options(tenant_options, proxy_options)
def watch(
    context: typer.Context,
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The id of a channel, or of a flow with one terminal.", autocompletion=complete_live
        ),
    ],
    output: FormatOption = Format.table,
    **shared: Any,
) -> None:
    """Follow the terminal of a live session until it ends, or Ctrl-C. Exit code 4 if there is none.

    Starts with the most recent output. With --format json, each line is an asciicast event.
    """
    from oxyctl.cli.output import print_stderr
    from oxyctl.render.ssh import follow
    from proxy.control.ssh_schema import is_channel

    options = QueryOptions(context)
    pairs = options.pairs()
    client = options.client()
    try:
        with translated_errors():
            channel = identifier if is_channel(identifier) else _only_terminal(client, identifier, pairs)
            with client.watch_ssh(channel, pairs) as screens:
                print_stderr(f"watching {channel}; Ctrl-C stops watching")
                is_over = follow(screens, sys.stdout, is_json=output == Format.json)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    if not is_over:
        from oxyctl.errors import OxyctlError

        raise OxyctlError("the proxy has stopped")
    print_stderr(f"{channel} has ended")


def _only_terminal(client: Any, flow_id: str, pairs: list[tuple[str, str]]) -> str:
    """The channel of this flow that has a terminal. NothingMatched, UsageError: there is none, or more than one."""
    from oxyctl.errors import NothingMatched, UsageError

    answer = client.children("channels", [*pairs, ("id", flow_id), ("scope", "live")])
    channels = [channel.channel_id for channel in answer.items if channel.terminal is not None]
    if not channels:
        raise NothingMatched(f"flow {flow_id} has no open terminal")
    if len(channels) > 1:
        raise UsageError(f"flow {flow_id} has {len(channels)} terminals: choose one of {', '.join(sorted(channels))}")
    return str(channels[0])


def _print_keys(keys: list[HostKey], host: str, output: Format) -> None:
    from oxyctl.cli.output import print_envelope
    from oxyctl.render.ssh import known_hosts_line, print_host_keys, sshfp_line

    if output == Format.json:
        import msgspec

        lines = [
            {**msgspec.to_builtins(key), "known_hosts": known_hosts_line(key, host), "sshfp": sshfp_line(key, host)}
            for key in keys
        ]
        print_envelope("ssh-host-keys", lines)
    else:
        print_host_keys(keys, host)
