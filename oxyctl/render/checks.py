"""Results of checks as text: a line for each, and the details of those that failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from oxyctl.checks.result import Result
from oxyctl.render.tables import is_coloured
from oxyctl.render.units import duration_text, safe_text

_WORDS = {"passed": ("ok", "32"), "failed": ("FAILED", "31"), "broken": ("BROKEN", "31")}


def print_result(result: Result) -> None:
    """Print one result, as soon as it is known."""
    word, colour = _WORDS[result.state]
    shown = f"\x1b[{colour}m{word:<6}\x1b[0m" if is_coloured(sys.stdout) else f"{word:<6}"
    print(f"{shown}  {safe_text(result.name)}  ({duration_text(result.duration_ms)})", flush=True)
    if result.state != "passed":
        for line in result.describe():
            print(f"        {safe_text(line)}", flush=True)


def print_summary(results: Sequence[Result], duration_s: float) -> None:
    """Print how many checks passed or failed."""
    failed = [result for result in results if result.state != "passed"]
    verdict = f"{len(failed)} of {len(results)} failed" if failed else f"all {len(results)} passed"
    print(f"{verdict}, in {duration_text(duration_s * 1e3)}")
