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
    asking,
    complete_tenant,
    connect,
)
from oxyctl.cli.flow_options import FlowsGroup, place, whose
from oxyctl.cli.flow_query import Typed
from oxyctl.cli.options import Format, FormatOption, LabOption
from oxyctl.cli.sharing import sharing

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
    """For the shell: open channels, of the typed tenant or of all."""
    typed = context.params
    whose = ("all_tenants", "true") if typed.get("tenant") is None else ("tenant", str(typed["tenant"]))
    with contextlib.suppress(Exception):
        client = connect(*(typed.get(name) for name in ("lab", "node", "control")), timeout_s=COMPLETION_TIMEOUT_S)
        found = client.children("channels", [whose, ("scope", "live")]).items
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
    with asking():
        found = client.host_keys(tenant)
        if not found:
            known = [key.tenant for key in client.host_keys()]
            hint = suggest(tenant, known) if tenant is not None else ""
            raise NothingMatched(f"SSH sessions of tenant '{tenant}' are not inspected{hint}")
    _print_keys(found, host, output)


@hostkey.command()
def rotate(
    tenant: Annotated[
        str, typer.Option("--tenant", "-t", metavar="NAME", help="Whose.", autocompletion=complete_tenant)
    ],
    host: HostOption = "*",
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Create a new host key for new sessions. Clients reject it until they have its known_hosts line.

    Open sessions keep the key that they began with, also when they exchange keys again.
    """
    client = connect(lab, node, control)
    with asking():
        found = client.rotate_host_key(tenant)
    _print_keys([found], host, output)


@sessions.callback(invoke_without_command=True)
@sharing(whose, place)
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
    from oxyctl.cli.output import print_envelope, say

    if context.invoked_subcommand is not None:
        return
    typed = Typed(context)
    pairs = [*typed.pairs(), ("limit", str(limit)), *(("user", name) for name in user or [])]
    pairs += [("scope", "live")] if live else []
    pairs += [("since", since)] if since is not None else []
    with asking():
        answer, _ = typed.ask(lambda proxy: proxy.children("channels", pairs))
    if not answer.items:
        typed.check_tenant()
    if output == Format.json:
        print_envelope("channels", answer.items, window=answer.window, lost=answer.lost, truncated=answer.truncated)
        return
    from oxyctl.render.ssh import print_channels

    print_channels(answer.items)
    if not answer.items:
        say("no channel matches")
    if answer.truncated:
        say(f"more channels match than these {len(answer.items)}: --limit shows more")


@sessions.command()
@sharing(whose, place)
def kill(
    context: typer.Context,
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="A flow's id, or a channel's.", autocompletion=complete_live)
    ],
    **shared: Any,
) -> None:
    """End a live session, or one channel of it; its user is told. Exit code 4 if there is none."""
    from oxyctl.cli.output import say

    typed = Typed(context)
    with asking():
        typed.client().end_ssh(identifier, typed.pairs())
    say(f"{identifier} was ended")


@sessions.command()
@sharing(whose, place)
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
    from oxyctl.cli.output import say
    from oxyctl.render.ssh import follow
    from proxy.control.ssh_schema import is_channel

    typed = Typed(context)
    pairs = typed.pairs()
    client = typed.client()
    try:
        with asking():
            channel = identifier if is_channel(identifier) else _only_terminal(client, identifier, pairs)
            with client.watch_ssh(channel, pairs) as screens:
                say(f"watching {channel}; Ctrl-C leaves it")
                is_over = follow(screens, sys.stdout, is_json=output == Format.json)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    if not is_over:
        from oxyctl.errors import OxyctlError

        raise OxyctlError("the proxy has stopped")
    say(f"{channel} has ended")


def _only_terminal(client: Any, flow_id: str, pairs: list[tuple[str, str]]) -> str:
    """The channel of this flow that has a terminal. NothingMatched, UsageError: there is none, or more than one."""
    from oxyctl.errors import NothingMatched, UsageError

    answer = client.children("channels", [*pairs, ("id", flow_id), ("scope", "live")])
    found = [channel.channel_id for channel in answer.items if channel.terminal is not None]
    if not found:
        raise NothingMatched(f"flow {flow_id} has no open terminal")
    if len(found) > 1:
        raise UsageError(f"flow {flow_id} has {len(found)} terminals: name one of {', '.join(sorted(found))}")
    return str(found[0])


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
