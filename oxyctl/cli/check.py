"""`oxyctl lab check`: runs the checks in the lab file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.checks import DEFAULT_JOBS
from oxyctl.cli.completion import complete_check
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oxyctl.supervise.state import LabDirectory
    from oxyctl.topology.model import Check


def check(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [CHECK]...",
            help="The lab, and the checks to run, by name or pattern.",
            autocompletion=complete_check,
        ),
    ] = None,
    lab: LabOption = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Read the checks from this lab file instead of the lab's own."),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", "-j", min=1, metavar="N", help="Number of checks to run at once; fewer on a slow machine."
        ),
    ] = DEFAULT_JOBS,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML as well.")] = None,
    output: FormatOption = Format.table,
) -> None:
    """Run the checks in the lab file of a running lab; the file is read again each time.

    Exit code 3 if one fails; the output says what was tried, expected and found.
    """
    import asyncio

    from oxyctl.cli.check_run import run
    from oxyctl.errors import ExitCode

    directory, patterns = _lab_and_patterns(list(arguments or []), lab)
    source, checks = _load(directory, file)
    results = asyncio.run(run(directory, source.parent, select(checks, patterns), jobs, output, junit))
    if any(result.state != "passed" for result in results):
        raise typer.Exit(ExitCode.CHECK_FAILED)


def _lab_and_patterns(arguments: list[str], lab: str | None) -> tuple[LabDirectory, list[str]]:
    """The lab, and the patterns. The first argument names a lab if one of that name runs, or if none is the default."""
    from oxyctl.supervise.state import all_labs, default_lab, find_lab

    if lab is not None or not arguments:
        return find_lab(lab), arguments
    alive = [each.name for each in all_labs() if each.live_state()]
    if arguments[0] in alive:
        return find_lab(arguments[0]), arguments[1:]
    if len(alive) == 1 or default_lab() is not None:
        return find_lab(), arguments
    return find_lab(arguments[0]), arguments[1:]


def _load(directory: LabDirectory, file: Path | None) -> tuple[Path, Sequence[Check]]:
    from oxyctl.errors import UsageError
    from oxyctl.topology.file import load

    plan = directory.read_plan()
    source = file or Path(plan.source if plan else "")
    if file is None and not source.is_file():
        raise UsageError(f"the file of lab '{directory.name}' is gone: {source}; give its new path with --file")
    checks = load(source, directory.name).checks
    if not checks:
        raise UsageError(f"{source} has no checks: add some under `checks:`")
    return source.absolute(), checks


def select(checks: Sequence[Check], patterns: list[str]) -> list[Check]:
    """The checks that `patterns` name or match; without patterns, all. NothingMatched: a pattern matches none."""
    from fnmatch import fnmatchcase

    from oxyctl.errors import NothingMatched
    from proxy.settings import suggest

    titles = [check.title() for check in checks]
    for pattern in patterns:
        if pattern not in titles and not any(fnmatchcase(title, pattern) for title in titles):
            raise NothingMatched(f"no check is called '{pattern}'{suggest(pattern, titles)}")
    if not patterns:
        return list(checks)
    return [
        check
        for check, title in zip(checks, titles, strict=True)
        if any(title == pattern or fnmatchcase(title, pattern) for pattern in patterns)
    ]
