"""The result of a check: its verdict, and the details of a failure."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

State = Literal["passed", "failed", "broken"]  # broken: it could not be carried out


class Verdict(NamedTuple):
    """The outcome of one attempt, in words."""

    is_met: bool
    tried: str
    expected: str
    actual: str


class Evidence(msgspec.Struct):
    """Lines that may explain a failure: the end of a log, flow records."""

    title: str
    lines: list[str]


class Result(msgspec.Struct, kw_only=True):
    """The result of one check from one node."""

    name: str
    kind: str
    node: str | None
    state: State
    duration_ms: float
    attempts: int
    tried: str
    expected: str = ""
    actual: str = ""
    evidence: list[Evidence] = []

    def describe(self) -> list[str]:
        """Lines that describe the attempt, the expected and the actual outcome, and evidence."""
        parts = {"tried": self.tried, "expected": self.expected, "actual": self.actual}
        lines = [f"{word + ':':<10}{text}" for word, text in parts.items() if text]
        if self.attempts > 1:
            lines.append(f"{'attempts:':<10}{self.attempts} in {self.duration_ms / 1000:.1f} s")
        for each in self.evidence:
            lines += [f"{each.title}:", *(f"    {line}" for line in each.lines)]
        return lines
