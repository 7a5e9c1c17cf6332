"""`oxyctl lab exec`, `shell` and `logs`: work inside the nodes of a running lab."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.completion import complete_log, complete_node
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from oxyctl.operate.enter import Invocation
    from oxyctl.supervise.state import LabDirectory


def _complete_first(context: typer.Context, incomplete: str) -> list[str]:
    """Complete only the node: the other arguments belong to the program."""
    return [] if context.params.get("arguments") else complete_node(context, incomplete)


CommandArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[NODE] -- COMMAND...",
        help="The node, then a program and its arguments. Omit the node with --all or --label.",
        autocompletion=_complete_first,
    ),
]
EnvOption = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Set an environment variable; may be repeated.")
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label", metavar="KEY=VALUE", help="Run in all nodes with this label; repeat it to require several."
    ),
]


def exec(
    arguments: CommandArgument,
    all_nodes: Annotated[bool, typer.Option("--all", help="Run in all nodes, in parallel.")] = False,
    label: LabelOption = None,
    env: EnvOption = None,
    cwd: Annotated[str | None, typer.Option("--cwd", metavar="DIR", help="Working directory.")] = None,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Run a program inside a node, and exit with its exit code, or 128 + N if signal N killed it.

    With several nodes, each line is prefixed with its node's name, and the exit code is the first that is not 0.
    """
    from oxyctl.operate.enter import run_in
    from oxyctl.supervise.state import find_lab, find_node

    is_single = not all_nodes and not label
    invocation = _invocation(arguments[1:] if is_single else arguments, env, cwd)
    directory = find_lab(lab)
    nodes = [find_node(directory, arguments[0]).name] if is_single else _labelled_nodes(directory, label or [])
    if is_single and output == Format.table:
        raise typer.Exit(run_in(directory, nodes[0], invocation))
    raise typer.Exit(_run_in_all(directory, nodes, invocation, output))


def shell(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node to enter.", autocompletion=complete_node)],
    lab: LabOption = None,
) -> None:
    """Open a shell inside a node: $SHELL, or sh. The prompt names the lab and the node."""
    from oxyctl.operate.enter import run_in
    from oxyctl.operate.shell import shell_in
    from oxyctl.supervise.state import find_lab, find_node

    directory = find_lab(lab)
    name = find_node(directory, node).name
    raise typer.Exit(run_in(directory, name, shell_in(directory, name)))


def logs(
    node: Annotated[
        str | None,
        typer.Argument(
            metavar="[NODE]",
            help="A node, or a program of the lab such as `impair`; by default all.",
            autocompletion=complete_log,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Follow until the lab ends.")] = False,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only the last 30s, 5m, 2h.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", metavar="N", min=0, help="Only the last N lines.")] = None,
    lab: LabOption = None,
) -> None:
    """Show the output of a lab's programs, even after the lab was killed."""
    from oxyctl.cli.quantities import parse_duration
    from oxyctl.operate.logs import print_logs
    from oxyctl.supervise.state import find_stopped

    since_ns = time.time_ns() - int(parse_duration(since, "--since") * 1e9) if since else 0
    print_logs(find_stopped(lab), node, follow=follow, since_ns=since_ns, tail=tail)


def _invocation(command: list[str], env: list[str] | None, cwd: str | None) -> Invocation:
    from pathlib import Path

    from oxyctl.errors import UsageError
    from oxyctl.operate.enter import Invocation

    command = command[1:] if command[:1] == ["--"] else command
    if not command:
        raise UsageError("a command is required: oxyctl lab exec NODE -- COMMAND...")
    return Invocation(command, dict(_key_values(env or [], "--env")), Path(cwd).absolute() if cwd is not None else None)


def _key_values(texts: list[str], option: str) -> list[tuple[str, str]]:
    from oxyctl.errors import UsageError

    pairs = [text.partition("=") for text in texts]
    for (key, equals, _), text in zip(pairs, texts, strict=True):
        if not key or not equals:
            raise UsageError(f"{option} takes NAME=VALUE (found {text!r})")
    return [(key, value) for key, _, value in pairs]


def _labelled_nodes(lab: LabDirectory, labels: list[str]) -> list[str]:
    from oxyctl.errors import NothingMatched

    wanted, plan = _key_values(labels, "--label"), lab.read_plan()
    nodes = [
        node.name
        for node in (plan.nodes if plan else [])
        if all(getattr(node, "labels", {}).get(key) == value for key, value in wanted)
    ]
    if not nodes:
        raise NothingMatched(f"no node of lab '{lab.name}' has {' and '.join(labels)}")
    return nodes


def _run_in_all(lab: LabDirectory, nodes: list[str], invocation: Invocation, output: Format) -> int:
    from oxyctl.cli.output import print_envelope
    from oxyctl.operate.enter import require_running
    from oxyctl.operate.enter_many import print_line, run_in_all

    is_json = output == Format.json
    runs = run_in_all(lab, require_running(lab), nodes, invocation, (lambda *line: None) if is_json else print_line)
    if is_json:
        text = [(run, run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")) for run in runs]
        print_envelope(
            "exec",
            [{"node": run.node, "exit_code": run.exit_code, "stdout": out, "stderr": err} for run, out, err in text],
        )
    return next((run.exit_code for run in runs if run.exit_code), 0)
