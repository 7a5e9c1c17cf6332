"""Options shared by several commands: declared once, so that they are the same everywhere."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from oxyctl.cli.completion import complete_any_lab, complete_lab


class Format(enum.StrEnum):
    """How a command prints its result."""

    table = "table"
    json = "json"


LabOption = Annotated[
    str | None,
    typer.Option(
        "--lab",
        metavar="NAME",
        help="The lab; by default $OXYCTL_LAB, or the only one running.",
        autocompletion=complete_lab,
    ),
]
LabArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="The lab; by default $OXYCTL_LAB, or the only one running.",
        show_default=False,
        autocompletion=complete_any_lab,
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]
