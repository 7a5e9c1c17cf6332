"""One run of `oxyctl lab check`: prints results as they arrive, and writes the requested files."""

from __future__ import annotations

import time
from pathlib import Path

from oxyctl.checks import junit, runner
from oxyctl.checks.result import Result
from oxyctl.checks.session import Session
from oxyctl.cli.options import Format
from oxyctl.cli.output import print_envelope
from oxyctl.errors import OxyctlError
from oxyctl.render.checks import print_result, print_summary
from oxyctl.supervise.state import LabDirectory
from oxyctl.topology.model import Check


async def run(
    lab: LabDirectory, base: Path, checks: list[Check], jobs: int, output: Format, junit_file: Path | None
) -> list[Result]:
    """Run the checks, print the results and return them. OxyctlError: the JUnit file cannot be written."""
    results: list[Result] = []
    begin = time.monotonic()
    async with Session(lab, base) as session:
        async for result in runner.run(checks, session, jobs):
            results.append(result)
            if output == Format.table:
                print_result(result)
    if output == Format.json:
        print_envelope("checks", results)
    else:
        print_summary(results, time.monotonic() - begin)
    if junit_file is not None:
        _write(junit_file, junit.to_xml(lab.name, results, session.started))
    return results


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OxyctlError(f"cannot write {path}: {error.strerror}") from None
