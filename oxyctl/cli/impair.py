"""`oxyctl lab impair`: slows, degrades or cuts links of a running lab."""

from __future__ import annotations

from typing import Annotated

import typer

from oxyctl.cli.completion import complete_link
from oxyctl.cli.options import Format, FormatOption, LabOption


def impair(
    link: Annotated[
        str,
        typer.Argument(
            metavar="LINK",
            help="NODE:NETWORK, NODE:tunnel, or NETWORK: the links of all its nodes.",
            autocompletion=complete_link,
        ),
    ],
    rate: Annotated[
        str | None, typer.Option(metavar="RATE", help="Rate in each direction: 10mbit, 500kbit; unlimited.")
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Delay in each direction: 50ms; 0 for none.")
    ] = None,
    jitter: Annotated[str | None, typer.Option(metavar="TIME", help="How much the delay varies: 5ms.")] = None,
    loss: Annotated[str | None, typer.Option(metavar="SHARE", help="Loss in each direction: 1%.")] = None,
    down: Annotated[bool | None, typer.Option("--down/--up", help="Take the link down, or bring it up.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all other impairments.")] = False,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Impair links of a running lab. Options not given keep their values; `lab status` shows the current ones."""
    from oxyctl.cli.apply import print_changes
    from oxyctl.errors import UsageError
    from oxyctl.net.impairment import PARSERS, ImpairmentSettings
    from oxyctl.operate.ask import ask_impair
    from oxyctl.supervise.requests import Impair
    from oxyctl.supervise.state import find_lab

    settings = ImpairmentSettings(rate=rate, delay=delay, jitter=jitter, loss=loss, down=down)
    if settings == ImpairmentSettings() and not clear:
        raise UsageError("one of --rate, --delay, --jitter, --loss, --down, --up and --clear is required")
    for name, parse in PARSERS.items():
        try:
            if (value := getattr(settings, name)) is not None:
                parse(value)
        except ValueError as error:
            raise UsageError(f"--{name}: {error}") from None
    request = Impair(link=link, settings=settings, clear=clear)
    print_changes(ask_impair(find_lab(lab), request), output, "nothing to change")
