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

    rooms = limits, features, offramp, programs
    found = [trial.run() for room in rooms for trial in room.trials()]
    able = can_run_labs(found)
    if output == Format.json:
        print_envelope("doctor", found, can_run_labs=able)
    else:
        _print(found)
        print("\n" + _summary(found, able))
    raise typer.Exit(0 if able else 1)


def _print(found: list[Finding]) -> None:
    from oxyctl.render.tables import Column, Table

    columns = [Column("WHAT"), Column("STATE"), Column("NEEDED FOR", rank=1), Column("FOUND", rank=2)]
    Table(columns).write([[f.name, f.state, f.needed_for, f.detail] for f in found])
    fixes = [finding for finding in found if finding.fix]
    if fixes:
        print("\nTo mend:")
        width = max(len(finding.name) for finding in fixes)
        for finding in fixes:
            print(f"  {finding.name:{width}}  {finding.fix}")


def _summary(found: list[Finding], able: bool) -> str:
    lacking = [f.name for f in found if f.state != "ok"]
    if not able:
        names = ", ".join(f.name for f in found if f.required and f.state == "missing")
        return f"labs cannot run here: {names}"
    return "labs can run here" + (f"; not all of it is there: {', '.join(lacking)}" if lacking else "")
