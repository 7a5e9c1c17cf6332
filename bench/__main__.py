"""`python -m bench [name ...]`: measure, print tables, write bench/results/NAME.json."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import peers
from bench.series import machine_facts
from bench.topology import INSIDE, BenchError, Topology, run_isolated

FIGURES = (
    "levels",
    "bulk",
    "connections",
    "packets",
    "tunnels",
    "memory",
    "flood",
    "idle",
    "policy",
    "hooks",
    "http_read",
    "http_cost",
    "http",
    "ssh",
    "lab_up",
    "flowlog",
)


def main(arguments: list[str]) -> int:
    """0: measured, even if a target was missed; 1: a figure is unavailable, or something was lost or refused."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(FIGURES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="2 short runs of each instead of 5")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="the core that all share")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="for how long memory of `http` is watched under load"
    )
    parser.add_argument("--directory", help=argparse.SUPPRESS)  # scratch, passed to the isolated bench
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(FIGURES):
        parser.error(f"no figure is called {', '.join(sorted(unknown))}")
    try:
        if os.environ.get(INSIDE):
            return _measure(options)
        for tool, problem in peers.install().items():
            print(f"{tool}: {problem}", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            return run_isolated([*arguments, "--directory", directory])
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace) -> int:
    topology = Topology(options.cpu, Path(options.directory), options.minutes)
    machine = machine_facts() | {"peers": peers.versions(), "core": options.cpu}
    code = 0
    for name in options.names or FIGURES:
        try:
            figure = importlib.import_module(f"bench.{name}").measure(topology, quick=options.quick)
        except BenchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            code = 1
            continue
        figure.save(machine)
        code = code or int(figure.has_failed)
        print(json.dumps(figure.as_json(machine)) if options.json else figure.text(), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
