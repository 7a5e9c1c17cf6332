"""`oxyctl policy`: what is in force, what a file would change, and how a flow is decided and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.control import ControlOption, NodeOption, asking, check_tenant, complete_tenant, connect
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxyctl.policies.past import Replay
    from proxy.control.client import ControlClient
    from proxy.policy.answers import Explanation, PolicyInfo, Question
    from proxy.policy.engine import Policies

app = typer.Typer(help="Policies: check files, explain decisions, see what is in force.", no_args_is_help=True)

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="A policy file.", show_default=False)]
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", "-t", metavar="NAME", help="The policy's tenant.", autocompletion=complete_tenant),
]
BeforeOption = Annotated[
    list[str] | None,
    typer.Option("--global", metavar="FILE", help="A policy of all tenants that comes before it; may be repeated."),
]


def _phases(incomplete: str) -> list[str]:
    """For the shell: phases that begin with the typed text."""
    from proxy.policy.phases import PHASES

    return [phase for phase in PHASES if phase.startswith(incomplete)]


@app.command()
def check(
    file: FileArgument, tenant: TenantOption = None, before: BeforeOption = None, output: FormatOption = Format.table
) -> None:
    """Read a policy file as a proxy would, and run the tests in it. Exit code 2 when it is not valid.

    Without --tenant it is a policy of all tenants.
    """
    from oxyctl.cli.output import print_envelope
    from oxyctl.policies.files import load

    policies = load(file, tenant, before or [])
    policy = policies.policies[-1]
    facts = {"file": file, "rules": len(policy.rules), "tests": len(policy.tests), "version": policy.version}
    if output == Format.json:
        print_envelope("policy-check", [facts])
    else:
        print(f"{file}: valid: {facts['rules']} rules, {facts['tests']} tests passed, version {policy.version}")


@app.command("test")
def try_file(
    file: FileArgument,
    tenant: TenantOption = None,
    before: BeforeOption = None,
    against_past: Annotated[
        str | None,
        typer.Option("--against-past", metavar="DURATION", help="Try it on the flows recorded in this period: 24h."),
    ] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Run the tests of a policy file, or replay recorded flows against it. Exit code 3 when a test fails."""
    from oxyctl.cli.output import print_envelope
    from oxyctl.errors import ExitCode, UsageError
    from oxyctl.policies.files import load, run_tests
    from oxyctl.render.policy import print_replay, print_tried

    policies = load(file, tenant, before or [], is_tested=False)
    if against_past is not None:
        if tenant is None:
            raise UsageError("--against-past replays the flows of one tenant: name it with --tenant")
        with asking():
            found = _replay(connect(lab, node, control), policies, tenant, against_past)
        return print_envelope("policy-replay", [found]) if output == Format.json else print_replay(found)
    tried = run_tests(policies)
    if output == Format.json:
        print_envelope("policy-tests", tried)
    else:
        print_tried(tried)
    if any(each.problem for each in tried):
        raise typer.Exit(ExitCode.CHECK_FAILED)
    return None


@app.command()
def explain(
    tenant: TenantOption = None,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help="The tunnel's user.")] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="NAME", help="A group of the user; may be repeated.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="NAME", help="The tunnel's device.")] = None,
    posture: Annotated[
        list[str] | None,
        typer.Option("--posture", metavar="CHECK", help="A posture check that passed; may be repeated."),
    ] = None,
    src: Annotated[
        str | None, typer.Option("--src", metavar="ADDRESS[:PORT]", help="The client's: 100.96.0.2, [fd00::2]:40000.")
    ] = None,
    dst: Annotated[
        str | None, typer.Option("--dst", metavar="ADDRESS[:PORT]", help="The destination: 10.50.0.10:443.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="PORT", help="Port of the destination.")] = None,
    protocol: Annotated[str, typer.Option("--protocol", metavar="NAME", help="tcp, udp, icmp, ...")] = "tcp",
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", help="Name of the destination.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="ISO-8601", help="Time of the flow; by default now.")
    ] = None,
    phase: Annotated[
        str,
        typer.Option("--phase", metavar="NAME", help="Phase of the rules: egress, http, ...", autocompletion=_phases),
    ] = "network",
    fact: Annotated[
        list[str] | None, typer.Option("--fact", metavar="FIELD=VALUE", help="Any other field; may be repeated.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Explain with this file, not the policy in force.")
    ] = None,
    before: BeforeOption = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Show which rule would decide a hypothetical flow, and which rules came close.

    Exit code 4 if no policy applies.
    """
    import msgspec

    from oxyctl.cli.output import option_error, print_envelope
    from oxyctl.errors import NothingMatched, UsageError
    from oxyctl.render.policy import story
    from proxy.policy.answers import Question
    from proxy.policy.phases import PHASES
    from proxy.settings import suggest

    if phase not in PHASES:
        raise UsageError(f"--phase: unknown phase '{phase}'{suggest(phase, PHASES)}")
    flow = {
        "tenant": tenant, "user": user, "groups": group or [], "device": device, "posture": posture or [], "src": src,
        "dst": dst, "port": port, "protocol": protocol, "host": host, "time": time, "facts": _facts(fact or []),
    }  # fmt: skip
    try:
        question = msgspec.convert({"flow": flow, "phase": phase}, Question)
    except msgspec.ValidationError as error:
        raise UsageError(option_error(error)) from None
    if file is not None:
        found = _explain_by(file, tenant, before or [], question)
    else:
        with asking():
            found = connect(lab, node, control).explain_policy(question)
    if found is None:
        raise NothingMatched("no policy covers such a flow: it is allowed")
    if output == Format.json:
        print_envelope("explanation", [found])
    else:
        print(*story(found), sep="\n")


@app.command()
def diff(
    file: FileArgument,
    other: Annotated[
        str | None, typer.Argument(metavar="[NEW]", help="File to compare with; default: the policy in force.")
    ] = None,
    tenant: TenantOption = None,
    before: BeforeOption = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Show which rules a new file adds, removes, changes or moves. Differences do not change the exit code 0."""
    from oxyctl.cli.output import print_envelope, say
    from oxyctl.policies.diff import compare
    from oxyctl.policies.files import load
    from oxyctl.render.policy import print_differences
    from proxy.policy.explain import describe

    def read(path: str) -> PolicyInfo:
        return describe(load(path, tenant, before or [], is_tested=False), 0.0)[-1]

    if other is None:
        new = read(file)
        with asking():
            old = _in_force(connect(lab, node, control), tenant, new.name)
    else:
        old, new = read(file), read(other)
    found = compare(old, new)
    if output == Format.json:
        print_envelope("policy-diff", found)
    elif found:
        print_differences(found)
    else:
        say("no rule differs")


@app.command()
def reload(
    lab: LabOption = None, node: NodeOption = None, control: ControlOption = None, output: FormatOption = Format.table
) -> None:
    """Have a proxy reload its policy files. Exit code 2 if it rejects them; then nothing changes."""
    from oxyctl.cli.output import print_envelope, say

    with asking():
        found = connect(lab, node, control, timeout_s=120).reload()
    if output == Format.json:
        print_envelope("reloaded", [] if found is None else [found])
    elif found is None:
        say("the proxy has no policies: 'policies' in proxy.yaml names files")
    elif found.version == found.before:
        print(f"nothing has changed: version {found.version}, {found.rules} rules")
    else:
        print(f"version {found.version} ({found.before} before): {found.rules} rules, {found.revoked} live flows ended")


@app.command()
def hits(
    tenant: TenantOption = None,
    unused: Annotated[bool, typer.Option("--unused", help="Only rules that never matched.")] = False,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Count the flows, requests and tunnels that matched each rule since the proxy started."""
    from oxyctl.cli.output import print_envelope, say
    from oxyctl.render.policy import print_hits

    with asking():
        found = _policies(connect(lab, node, control), tenant)
    rules = [rule for policy in found for rule in policy.rules if not (unused and rule.hits)]
    if output == Format.json:
        print_envelope("hits", rules)
    elif rules:
        print_hits(rules)
    else:
        say("every rule has matched" if found and unused else "no rules are in force")


@app.command()
def export(
    tenant: TenantOption = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="The policy's name.")] = None,
    lab: LabOption = None,
    node: NodeOption = None,
    control: ControlOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Print the text of a policy in force. Exit code 4 if there is none."""
    from oxyctl.cli.output import print_envelope
    from oxyctl.errors import NothingMatched, UsageError

    with asking():
        found = _policies(connect(lab, node, control), tenant, text=True)
    chosen = [each for each in found if each.tenant == tenant and name in (None, each.name)]
    if not chosen:
        known = ", ".join(f"{each.name} (of {each.tenant or 'all'})" for each in found)
        raise NothingMatched(f"no such policy is in force{'; there is: ' + known if known else ''}")
    if output == Format.json:
        return print_envelope("policies", chosen)
    if len(chosen) > 1:
        raise UsageError(f"there are several: choose one with --name {' or --name '.join(p.name for p in chosen)}")
    print(chosen[0].text, end="")
    return None


def _facts(pairs: Sequence[str]) -> dict[str, str | int | bool]:
    from oxyctl.errors import UsageError

    facts: dict[str, str | int | bool] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--fact: expected FIELD=VALUE (found '{pair}')")
        words = {"true": True, "false": False}
        facts[name] = int(value) if value.isdigit() else words.get(value, value)
    return facts


def _explain_by(file: str, tenant: str | None, before: Sequence[str], question: Question) -> Explanation | None:
    import time

    from oxyctl.errors import UsageError
    from oxyctl.policies.files import load
    from proxy.policy.explain import explain as explained
    from proxy.settings import DocumentError

    try:
        return explained(load(file, tenant, before, is_tested=False), question, time.time())
    except DocumentError:
        raise
    except ValueError as error:
        raise UsageError(str(error.args[0])) from None


def _policies(client: ControlClient, tenant: str | None, *, text: bool = False) -> list[PolicyInfo]:
    """The policies for all tenants and for this one. NothingMatched: the proxy has no such tenant."""
    found = client.policies(tenant, text=text)
    if tenant is not None and not any(each.tenant == tenant for each in found):
        check_tenant(client, tenant)
    return found


def _in_force(client: ControlClient, tenant: str | None, name: str) -> PolicyInfo:
    from oxyctl.errors import NothingMatched

    found = [each for each in _policies(client, tenant) if each.tenant == tenant]
    for each in found:
        if each.name == name or len(found) == 1:
            return each
    raise NothingMatched(f"no policy '{name}' of {tenant or 'all tenants'} is in force")


def _replay(client: ControlClient, policies: Policies, tenant: str, duration: str) -> Replay:
    from oxyctl.cli.output import say
    from oxyctl.policies.past import replay
    from proxy.control.schema import MAX_LIMIT

    pairs = [("tenant", tenant), ("scope", "past"), ("since", duration), ("limit", str(MAX_LIMIT))]
    answer = client.flows(pairs)
    if answer.truncated:
        say(f"only the {len(answer.items)} latest flows are replayed")
    return replay(policies, answer.items, client.tunnels(tenant))
