"""A flow log in a temporary directory, and a way to run it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.settings import Records
from proxy.telemetry.flowlog import FlowLog

Run = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "flows.db")


@pytest.fixture
def run(path: str) -> Run:
    """`run(work, ...)` opens the log, awaits `work(log)` and closes it; the keywords are settings."""

    def run(work: Callable[[FlowLog], Awaitable[Any]], *, queue_records: int = 20_000, **settings: Any) -> Any:
        async def main() -> Any:
            settings_ = Records(path=path, **{"max_age_s": 100 * 365 * 86_400, **settings})
            log = FlowLog(settings_, queue_records=queue_records)
            try:
                return await work(log)
            finally:
                await log.close()

        return asyncio.run(main())

    return run
