"""`oxyctl doctor`: whether labs can run here, what is missing, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from oxyctl.cli.options import Format, FormatOption

if TYPE_CHECKING:
    from oxyctl.doctor.finding import Finding


def doctor(output: FormatOption = Format.table) -> None:
    """Find out, by trying, whether labs can run on this machine. Exit code 1 if they cannot."""
    from oxyctl.cli.output import print_envelope
    from oxyctl.doctor import features, limits, offramp, programs
    from oxyctl.doctor.finding import can_run_labs

    modules = limits, features, offramp, programs
    findings = [trial.run() for module in modules for trial in module.trials()]
    is_able = can_run_labs(findings)
    if output == Format.json:
        print_envelope("doctor", findings, can_run_labs=is_able)
    else:
        _print(findings)
        print("\n" + _summary(findings, is_able))
    raise typer.Exit(0 if is_able else 1)


def _print(findings: list[Finding]) -> None:
    from oxyctl.render.tables import Column, Table

    columns = [Column("WHAT"), Column("STATE"), Column("NEEDED FOR", rank=1), Column("FOUND", rank=2)]
    Table(columns).write([[finding.name, finding.state, finding.needed_for, finding.detail] for finding in findings])
    fixes = [finding for finding in findings if finding.fix]
    if fixes:
        print("\nTo fix:")
        width = max(len(finding.name) for finding in fixes)
        for finding in fixes:
            print(f"  {finding.name:{width}}  {finding.fix}")


def _summary(findings: list[Finding], is_able: bool) -> str:
    not_ok = [finding.name for finding in findings if finding.state != "ok"]
    if not is_able:
        names = ", ".join(finding.name for finding in findings if finding.required and finding.state == "missing")
        return f"labs cannot run here: {names}"
    return "labs can run here" + (f"; missing or limited: {', '.join(not_ok)}" if not_ok else "")
