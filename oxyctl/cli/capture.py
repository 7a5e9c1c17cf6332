"""`oxyctl capture`: the packets of a lab, into a pcapng file, into Wireshark, or onto the screen."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from oxyctl.cli.completion import complete_capture
from oxyctl.cli.options import Format, FormatOption, LabOption

if TYPE_CHECKING:
    from oxyctl.capture.capture import FileRing, Outcome

DEFAULT_FILES = 2
MIN_FILE_BYTES = 16 << 10


def capture(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="NODE, NODE:INTERFACE, NODE:NETWORK, NETWORK, or all.",
            autocompletion=complete_capture,
        ),
    ],
    write: Annotated[
        str | None,
        typer.Option("-w", "--write", metavar="FILE", help="Write pcapng; - is standard output."),
    ] = None,
    filter_: Annotated[
        str | None,
        typer.Option("--filter", "-f", metavar="EXPR", help="Capture filter, as for tcpdump: 'tcp port 80'."),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-c", min=1, help="Stop after this many packets.")] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", metavar="TIME", help="Stop after this time: 10s, 2m.")
    ] = None,
    snaplen: Annotated[
        int | None, typer.Option("--snaplen", "-s", min=1, metavar="BYTES", help="Bytes to keep of each packet.")
    ] = None,
    ring: Annotated[
        str | None,
        typer.Option(
            "--ring",
            metavar="SIZE[,FILES]",
            help="Rotate files of this size and delete the oldest; 2 are kept by default.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Report only the start and the end.")] = False,
    lab: LabOption = None,
    output: FormatOption = Format.table,
) -> None:
    """Capture packets of a lab's interfaces until Ctrl-C. Without -w, print one line for each packet."""
    from oxyctl.capture import capture as capturing
    from oxyctl.cli.quantities import parse_duration
    from oxyctl.supervise.state import find_lab

    _check_output(write, ring, output)
    request = capturing.Request(
        targets=targets,
        write=write,
        filter=filter_,
        snaplen=min(snaplen or capturing.MAX_SNAPLEN, capturing.MAX_SNAPLEN),
        count=count,
        duration_s=None if duration is None else parse_duration(duration, "--duration"),
        ring=None if ring is None else _parse_ring(ring),
        quiet=quiet,
    )
    _conclude(capturing.capture(find_lab(lab), request), output)


def _check_output(write: str | None, ring: str | None, output: Format) -> None:
    from oxyctl.errors import UsageError

    if write == "-" and sys.stdout.isatty():
        raise UsageError("a capture is binary and cannot go to a terminal: use `-w - | wireshark -k -i -`, or -w FILE")
    if ring is not None and write in (None, "-"):
        raise UsageError("--ring needs files: add -w FILE")
    if output == Format.json and write in (None, "-"):
        raise UsageError("--format json prints only the counters, at the end: add -w FILE for the packets")


def _parse_ring(text: str) -> FileRing:
    from oxyctl.capture.capture import FileRing
    from oxyctl.cli.quantities import parse_size
    from oxyctl.errors import UsageError

    size_text, comma, files_text = text.partition(",")
    size = parse_size(size_text, "--ring")
    if size < MIN_FILE_BYTES:
        raise UsageError(f"--ring: a file must be at least {MIN_FILE_BYTES} bytes (found {size_text!r})")
    if comma and not (files_text.isascii() and files_text.isdigit() and int(files_text)):
        raise UsageError(f"--ring: expected SIZE[,FILES] such as 10MB,5 (found {text!r})")
    return FileRing(size, int(files_text) if comma else DEFAULT_FILES)


def _conclude(outcome: Outcome, output: Format) -> None:
    from oxyctl.capture import report
    from oxyctl.capture.session import End
    from oxyctl.cli.output import print_envelope, print_stderr

    if outcome.end == End.LAB:
        print_stderr("the lab has ended")
    if output == Format.json:
        print_envelope("capture", report.items(outcome.session))
    else:
        print_stderr("\n".join(report.lines(outcome.session)))
    if outcome.failure is not None:
        raise outcome.failure
