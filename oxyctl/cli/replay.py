"""`oxyctl flows replay`: plays the terminal recording of an SSH session."""

from __future__ import annotations

import contextlib
import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oxyctl.cli.control import translated_errors
from oxyctl.cli.flow_options import proxy_options, tenant_options
from oxyctl.cli.flow_query import QueryOptions
from oxyctl.cli.shared_options import shared_options

if TYPE_CHECKING:
    from oxyctl.render.cast import Cast
    from proxy.control.schema import Recording


class ReplayFormat(enum.StrEnum):
    """How `replay` prints a recording."""

    terminal = "terminal"
    json = "json"
    jsonl = "jsonl"
    asciicast = "asciicast"


@shared_options(tenant_options, proxy_options)
def replay(
    context: typer.Context,
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A flow's id, or a channel's.")],
    speed: Annotated[float, typer.Option("--speed", min=0.01, max=1000, help="Playback speed, as a factor.")] = 1.0,
    idle_limit: Annotated[
        str | None, typer.Option("--idle-limit", metavar="DURATION", help="Shorten longer pauses to this: 2s.")
    ] = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", metavar="FILE", help="The age identity file that decrypts it.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write an HTML page with a player.")
    ] = None,
    replay_format: Annotated[
        ReplayFormat, typer.Option("--format", help="Play it, or print its events.")
    ] = ReplayFormat.terminal,
    **shared: Any,
) -> None:
    """Play the recording of an SSH session. Exit code 4 if there is none.

    If the output is not a terminal, there are no pauses unless --speed is given.
    """
    options = QueryOptions(context)
    limit_s = _seconds(idle_limit)
    recording = _find(options, identifier)
    with translated_errors():
        data, _ = options.ask_recordings(lambda proxy: proxy.recording(recording))
    cast = _read(data, identity)
    if html is not None:
        _write_page(cast, recording, html, speed, limit_s)
    elif replay_format == ReplayFormat.terminal:
        _play(cast, speed, limit_s, has_pauses=sys.stdout.isatty() or "speed" in options.flags)
    else:
        _print(cast, limit_s, replay_format)


def _find(options: QueryOptions, identifier: str) -> Recording:
    """The recording with this id. NothingMatched, UsageError."""
    from oxyctl.errors import NothingMatched, UsageError
    from oxyctl.render.units import bytes_text

    pairs = options.pairs()
    with translated_errors():
        recordings, _ = options.ask_recordings(lambda proxy: proxy.recordings(identifier, pairs))
    if not recordings:
        raise NothingMatched(f"there is no recording of {identifier}")
    if len(recordings) > 1:
        channels = "\n".join(f"  {each.channel_id}  {bytes_text(each.size)}" for each in recordings)
        raise UsageError(f"{identifier} has {len(recordings)} recordings: choose one of these channels\n{channels}")
    return recordings[0]


def _read(data: bytes, identity: Path | None) -> Cast:
    """Decode a recording, and print a remark if its end is missing or damaged."""
    from oxyctl.cli.output import print_stderr
    from oxyctl.errors import UsageError
    from oxyctl.render.cast import decrypted, read_cast

    try:
        text = None if identity is None else identity.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--identity: {identity}: {getattr(error, 'strerror', None) or error}") from None
    clear, problem = decrypted(data, text)
    cast = read_cast(clear)
    if problem or cast.is_cut:
        print_stderr(f"the end is missing: {problem or 'the last line is incomplete'}")
    return cast


def _play(cast: Cast, speed: float, limit_s: float | None, *, has_pauses: bool) -> None:
    import time

    from oxyctl.render.cast import play

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    def no_pause(seconds: float) -> None:
        pass

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # the terminal's encoding may lack characters
    with contextlib.suppress(KeyboardInterrupt):
        play(cast.moments, write, time.sleep if has_pauses else no_pause, speed=speed, idle_limit_s=limit_s)


def _print(cast: Cast, limit_s: float | None, output: ReplayFormat) -> None:
    from oxyctl.cli.output import print_envelope
    from oxyctl.render.cast import shortened

    moments = cast.moments if limit_s is None else shortened(cast.moments, limit_s)
    if output == ReplayFormat.asciicast:
        from oxyctl.render.player import asciicast

        sys.stdout.write(asciicast(cast._replace(moments=list(moments))))
        return
    events = [moment._asdict() for moment in moments]
    if output == ReplayFormat.json:
        size = {"columns": cast.columns, "rows": cast.rows, "timestamp": cast.timestamp}
        print_envelope("recording", events, **size)
        return
    import json

    for event in events:
        print(json.dumps(event))


def _write_page(cast: Cast, recording: Recording, path: Path, speed: float, limit_s: float | None) -> None:
    from oxyctl.cli.output import print_stderr
    from oxyctl.errors import OxyctlError
    from oxyctl.render.cast import shortened
    from oxyctl.render.player import page

    moments = cast.moments if limit_s is None else shortened(cast.moments, limit_s)
    text = page(cast._replace(moments=moments), f"{recording.tenant}: {recording.channel_id}", speed=speed)
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise OxyctlError(f"{path}: {error.strerror}") from None
    print_stderr(f"{path}: open it in a browser")


def _seconds(text: str | None) -> float | None:
    from oxyctl.errors import UsageError
    from proxy.control.schema import parse_duration

    if text is None:
        return None
    try:
        seconds = float(parse_duration(text))
    except ValueError as error:
        raise UsageError(f"--idle-limit: {error}") from None
    if seconds <= 0:
        raise UsageError("--idle-limit: must be more than 0")
    return seconds
