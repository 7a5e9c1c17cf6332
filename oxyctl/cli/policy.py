"""`oxyctl policy`: what is in force, what a file would change, and how a flow is decided and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.control import ControlOption, NodeOption, check_tenant, complete_tenant, connect, translated_errors
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxyctl.policies.replay import Replay
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
    typer.Option("--global", metavar="FILE", help="A global policy that is evaluated before it; may be repeated."),
]


def _phases(incomplete: str) -> list[str]:
    """For the shell: phases that begin with the typed text."""
    from proxy.policy.phases import PHASES

    return [phase for phase in PHASES if phase.startswith(incomplete)]


@app.command()
def check(
    file: FileArgument, tenant: TenantOption = None, before: BeforeOption = None, output: FormatOption = Format.table
) -> None:
    """Read a policy file as a proxy would, and run the tests in it. Exit code 2 if it is not valid.

    Without --tenant, it is treated as a policy for all tenants.
    """
    from oxyctl.cli.output import print_envelope
    from oxyctl.policies.files import load
    from oxyctl.render.units import count_text

    policies = load(file, tenant, before or [])
    policy = policies.policies[-1]
    facts = {"file": file, "rules": len(policy.rules), "tests": len(policy.tests), "version": policy.version}
    if output == Format.json:
        print_envelope("policy-check", [facts])
    else:
        rules, tests = count_text(len(policy.rules), "rule"), count_text(len(policy.tests), "test")
        print(f"{file}: valid: {rules}, {tests} passed, version {policy.version}")


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
    """Run the tests of a policy file, or replay recorded flows against it. Exit code 3 if a test fails."""
    from oxyctl.cli.output import print_envelope
    from oxyctl.errors import ExitCode, UsageError
    from oxyctl.policies.files import load, run_tests
    from oxyctl.render.policy import print_replay, print_test_results

    policies = load(file, tenant, before or [], is_tested=False)
    if against_past is not None:
        if tenant is None:
            raise UsageError("--against-past replays the flows of one tenant: name it with --tenant")
        with translated_errors():
            replay = _replay(connect(lab, node, control), policies, tenant, against_past)
        return print_envelope("policy-replay", [replay]) if output == Format.json else print_replay(replay)
    results = run_tests(policies)
    if output == Format.json:
        print_envelope("policy-tests", results)
    else:
        print_test_results(results)
    if any(result.problem for result in results):
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
        str | None, typer.Option("--src", metavar="ADDRESS[:PORT]", help="The client: 100.96.0.2, [fd00::2]:40000.")
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
    from oxyctl.render.policy import explanation_lines
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
        explanation = _explain_with_file(file, tenant, before or [], question)
    else:
        with translated_errors():
            explanation = connect(lab, node, control).explain_policy(question)
    if explanation is None:
        raise NothingMatched("no policy applies to this flow, so it is allowed")
    if output == Format.json:
        print_envelope("explanation", [explanation])
    else:
        print(*explanation_lines(explanation), sep="\n")


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
    from oxyctl.cli.output import print_envelope, print_stderr
    from oxyctl.policies.diff import compare
    from oxyctl.policies.files import load
    from oxyctl.render.policy import print_differences
    from proxy.policy.explain import describe

    def read(path: str) -> PolicyInfo:
        return describe(load(path, tenant, before or [], is_tested=False), 0.0)[-1]

    if other is None:
        new = read(file)
        with translated_errors():
            old = _policy_in_force(connect(lab, node, control), tenant, new.name)
    else:
        old, new = read(file), read(other)
    differences = compare(old, new)
    if output == Format.json:
        print_envelope("policy-diff", differences)
    elif differences:
        print_differences(differences)
    else:
        print_stderr("no rules differ")


@app.command()
def reload(
    lab: LabOption = None, node: NodeOption = None, control: ControlOption = None, output: FormatOption = Format.table
) -> None:
    """Have a proxy reload its policy files. Exit code 2 if it rejects them; then nothing changes."""
    from oxyctl.cli.output import print_envelope, print_stderr
    from oxyctl.render.units import count_text

    with translated_errors():
        result = connect(lab, node, control, timeout_s=120).reload()
    if output == Format.json:
        print_envelope("reloaded", [] if result is None else [result])
    elif result is None:
        print_stderr("the proxy has no policies: name their files under `policies` in proxy.yaml")
    elif result.version == result.before:
        print(f"nothing has changed: version {result.version}, {count_text(result.rules, 'rule')}")
    else:
        rules, ended = count_text(result.rules, "rule"), count_text(result.revoked, "live flow")
        print(f"version {result.version} ({result.before} before): {rules}, {ended} ended")


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
    from oxyctl.cli.output import print_envelope, print_stderr
    from oxyctl.render.policy import print_hits

    with translated_errors():
        policies = _policies(connect(lab, node, control), tenant)
    rules = [rule for policy in policies for rule in policy.rules if not (unused and rule.hits)]
    if output == Format.json:
        print_envelope("hits", rules)
    elif rules:
        print_hits(rules)
    else:
        print_stderr("every rule has matched" if policies and unused else "no rules are in force")


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

    with translated_errors():
        policies = _policies(connect(lab, node, control), tenant, text=True)
    chosen = [policy for policy in policies if policy.tenant == tenant and name in (None, policy.name)]
    if not chosen:
        known = ", ".join(f"{policy.name} (of {policy.tenant or 'all'})" for policy in policies)
        raise NothingMatched(f"no such policy is in force{'; these are: ' + known if known else ''}")
    if output == Format.json:
        return print_envelope("policies", chosen)
    if len(chosen) > 1:
        raise UsageError(
            f"several policies are in force: choose one with --name {' or --name '.join(p.name for p in chosen)}"
        )
    print(chosen[0].text, end="")
    return None


def _facts(pairs: Sequence[str]) -> dict[str, str | int | bool]:
    from oxyctl.errors import UsageError

    facts: dict[str, str | int | bool] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--fact: expected FIELD=VALUE (found '{pair}')")
        booleans = {"true": True, "false": False}
        facts[name] = int(value) if value.isdigit() else booleans.get(value, value)
    return facts


def _explain_with_file(file: str, tenant: str | None, before: Sequence[str], question: Question) -> Explanation | None:
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
    policies = client.policies(tenant, text=text)
    if tenant is not None and not any(policy.tenant == tenant for policy in policies):
        check_tenant(client, tenant)
    return policies


def _policy_in_force(client: ControlClient, tenant: str | None, name: str) -> PolicyInfo:
    from oxyctl.errors import NothingMatched

    policies = [policy for policy in _policies(client, tenant) if policy.tenant == tenant]
    for policy in policies:
        if policy.name == name or len(policies) == 1:
            return policy
    raise NothingMatched(f"no policy '{name}' of {tenant or 'all tenants'} is in force")


def _replay(client: ControlClient, policies: Policies, tenant: str, duration: str) -> Replay:
    from oxyctl.cli.output import print_stderr
    from oxyctl.policies.replay import replay
    from proxy.control.schema import MAX_LIMIT

    pairs = [("tenant", tenant), ("scope", "past"), ("since", duration), ("limit", str(MAX_LIMIT))]
    answer = client.flows(pairs)
    if answer.truncated:
        print_stderr(f"only the {len(answer.items)} latest flows are replayed")
    return replay(policies, answer.items, client.tunnels(tenant))
