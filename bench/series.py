"""Alternating runs, medians and ratios to a reference, targets, and their output as text and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MISSED = "\033[31mMISSED\033[0m" if sys.stdout.isatty() or os.environ.get("FORCE_COLOR") else "MISSED"

Sample = dict[str, float]


@dataclass
class Target:
    """A minimum or maximum for a figure."""

    text: str
    value: float
    bound: float
    at_most: bool = False
    voids: bool = False  # if missed, the other figures are void

    @property
    def is_met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass
class Figure:
    """One figure: all runs of all contestants by metric, with remarks."""

    name: str
    title: str
    references: tuple[str, ...] = ()  # ratios are to the first of these that has the metric
    runs: dict[str, list[Sample]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, contestant: str, sample: Sample) -> None:
        self.runs.setdefault(contestant, []).append(sample)

    def median(self, contestant: str, metric: str) -> float:
        """The median; 0 if it was not measured."""
        values = [sample[metric] for sample in self.runs.get(contestant, []) if metric in sample]
        return statistics.median(values) if values else 0.0

    def ratio(self, contestant: str, to: str, metric: str) -> float:
        """The median over runs of one contestant's value to the other's in the same round: noise of the machine that
        lasts longer than a round cancels out."""
        pairs = zip(self.runs.get(contestant, []), self.runs.get(to, []), strict=False)
        ratios = [mine[metric] / other[metric] for mine, other in pairs if other.get(metric) and metric in mine]
        return statistics.median(ratios) if ratios else 0.0

    def reference(self, metric: str) -> str | None:
        return next((name for name in self.references if self.median(name, metric)), None)

    def ratios(self, contestant: str) -> Sample:
        """Ratios to the reference of each metric, if there is one and it is another contestant."""
        found = {}
        for metric in self.metrics():
            reference = self.reference(metric)
            if reference not in (None, contestant) and self.median(contestant, metric):
                found[metric] = self.ratio(contestant, str(reference), metric)
        return found

    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for samples in self.runs.values() for sample in samples for metric in sample))

    def aim(self, text: str, value: float, bound: float, *, at_most: bool = False) -> None:
        self.targets.append(Target(text, value, bound, at_most))

    def aim_at_none(self, text: str, count: float) -> None:
        """Require that nothing was lost, failed or refused; otherwise the figure is missed, whatever the others are."""
        self.targets.append(Target(text, count, 0, at_most=True, voids=True))

    @property
    def has_failed(self) -> bool:
        """Whether something was lost, failed or was refused."""
        return any(target.voids and not target.is_met for target in self.targets)

    def as_json(self, machine: dict[str, Any]) -> dict[str, Any]:
        metrics = self.metrics()
        medians = {name: {metric: self.median(name, metric) for metric in metrics} for name in self.runs}
        ratios = {name: self.ratios(name) for name in self.runs}
        targets = [vars(target) | {"is_met": target.is_met} for target in self.targets]
        return {
            "schema": "bench/1", "name": self.name, "title": self.title, "machine": machine,
            "references": self.references,
            "runs": self.runs, "medians": medians, "ratios": ratios, "targets": targets, "skipped": self.skipped,
            "notes": self.notes,
        }  # fmt: skip

    def save(self, machine: dict[str, Any]) -> None:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(self.as_json(machine), indent=1)
        (RESULTS / f"{self.name}.json").write_text(text + "\n")

    def text(self) -> str:
        """Tables of medians, with the ratio to the reference in brackets, then targets, absences and remarks."""
        lines = [self.title, ""]
        for metrics, names in self._tables().items():
            rows = [["", *metrics]] + [[name, *(self._cell(name, metric) for metric in metrics)] for name in names]
            lines += [*align(rows), ""]
        for target in self.targets:
            sign = "<=" if target.at_most else ">="
            verdict = "met   " if target.is_met else MISSED
            lines.append(f"  {verdict}  {target.text}: {number(target.value)} ({sign} {number(target.bound)})")
        lines += [f"  skipped  {name}: {reason}" for name, reason in self.skipped.items()]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines) + "\n"

    def _tables(self) -> dict[tuple[str, ...], list[str]]:
        """Contestants with the same metrics share a table; a reference may lack some metrics."""
        tables: dict[tuple[str, ...], list[str]] = {}
        for name, samples in self.runs.items():
            metrics = tuple(samples[0])
            wider = next((table for table in tables if set(table) >= set(metrics)), None)
            narrower = next((table for table in tables if set(table) < set(metrics)), None)
            if narrower:
                tables = {metrics if table == narrower else table: names for table, names in tables.items()}
            tables.setdefault(wider or metrics, []).append(name)
        return tables

    def _cell(self, contestant: str, metric: str) -> str:
        if not any(metric in sample for sample in self.runs[contestant]):
            return "-"
        text = number(self.median(contestant, metric))
        ratio = self.ratios(contestant).get(metric)
        return text if ratio is None else f"{text} ({ratio:.2f})"


def alternate(figure: Figure, rounds: int, measures: Iterable[tuple[str, Callable[[], Sample]]]) -> None:
    """Run each measurement once per round, in turn."""
    measures = list(measures)
    for _ in range(rounds):
        for name, measure in measures:
            figure.add(name, measure())


def align(rows: list[list[str]]) -> list[str]:
    """Plain text: the first column aligned left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def number(value: float) -> str:
    """Three significant digits, or whole thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def machine_facts() -> dict[str, Any]:
    """The facts about this machine that a reader needs to compare figures."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    congestion = _lines("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "kernel": platform.release(),
        "cpu": model or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "congestion_control": congestion[0] if congestion else "",
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
