"""Connections that a program in the client's namespace holds open, and the memory that they take elsewhere."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.topology import CLIENT, BenchError, Topology

_SAMPLE_S = 0.5
_NOISE_KIB = 64


@contextlib.contextmanager
def held(topology: Topology, command: Sequence[str], directory: Path | None = None) -> Iterator[dict[str, Any]]:
    """Connections of `command`, each used once and idle now: how many are `done`, how many `failed`; `ask()` uses
    each once more and returns how many answered."""
    with topology.running(CLIENT, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answer = process.stdout.readline()
        if not answer:
            raise BenchError("the holder of connections did not answer")

        def ask() -> int:
            process.stdin.write("\n")
            process.stdin.flush()
            return int(json.loads(process.stdout.readline())["done"])

        yield json.loads(answer) | {"ask": ask}
        process.stdin.close()
        process.wait(30)


def settled(measure: Callable[[], float]) -> float:
    """Memory (KiB) once it is stable: records of ended flows are written a little later."""
    previous = measure()
    for _ in range(20):
        time.sleep(_SAMPLE_S)
        current = measure()
        if abs(current - previous) < _NOISE_KIB:
            break
        previous = current
    return previous
