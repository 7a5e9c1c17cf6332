"""`oxyctl lab down` and `gc`: take labs down and delete what they left behind."""

from __future__ import annotations

from typing import Annotated

import typer

from oxyctl.cli.options import Format, FormatOption, LabArgument, LabOption


def down(
    name: LabArgument = None,
    lab: LabOption = None,
    all_labs: Annotated[bool, typer.Option("--all", help="Every lab of this user.")] = False,
) -> None:
    """Take down a lab and everything in it, from any directory, even if its file is gone."""
    from oxyctl.errors import UsageError

    if not all_labs:
        _down_one(name or lab)
    elif name or lab:
        raise UsageError("--all takes down every lab: leave out the name")
    else:
        _down_all()


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, without deleting it.")
    ] = False,
    output: FormatOption = Format.table,
) -> None:
    """Delete what is left of labs that were killed, or ended by a reboot."""
    from oxyctl.cli.output import print_envelope
    from oxyctl.operate.leftovers import collect

    leftovers = collect(dry_run=dry_run)
    if output == Format.json:
        print_envelope("gc", leftovers, dry_run=dry_run)
        return
    verb = {True: "would delete", False: "deleted"}[dry_run]
    for item in leftovers:
        print(f"{verb} {item.path}" if item.kept is None else f"left alone {item.path}: {item.kept}")


def _down_one(name: str | None) -> None:
    from oxyctl.cli.output import print_stderr
    from oxyctl.errors import LabNotFound
    from oxyctl.operate.down import take_down
    from oxyctl.supervise.state import all_labs, default_lab, find_lab, lab_directory
    from oxyctl.topology.validate import is_lab_name
    from proxy.settings import suggest

    name = name or default_lab()
    directory = lab_directory(name) if name and is_lab_name(name) else find_lab(name)
    if not take_down(directory):
        raise LabNotFound(f"no lab '{name}'{suggest(directory.name, [other.name for other in all_labs()])}")
    print_stderr(f"lab '{directory.name}' is down")


def _down_all() -> None:
    """Take all down in parallel, as each waits for its programs. One that fails does not delay the others."""
    from concurrent.futures import ThreadPoolExecutor

    from oxyctl.cli.output import print_stderr
    from oxyctl.errors import OxyctlError
    from oxyctl.operate.down import take_down
    from oxyctl.supervise.state import all_labs

    failures: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        for lab, result in [(lab, pool.submit(take_down, lab)) for lab in all_labs()]:
            try:
                if result.result():
                    print_stderr(f"lab '{lab.name}' is down")
            except OxyctlError as error:
                failures.append(str(error))
    if failures:
        raise OxyctlError("\n".join(failures))
