"""The result of a check: its verdict, and the details of a failure."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

State = Literal["passed", "failed", "broken"]  # broken: it could not even be tried


class Verdict(NamedTuple):
    """What came of one attempt, in words."""

    is_met: bool
    asked: str
    expected: str
    came: str


class Evidence(msgspec.Struct):
    """Lines that may explain a failure: the end of a log, flow records."""

    title: str
    lines: list[str]


class Result(msgspec.Struct, kw_only=True):
    """One check, from one node."""

    name: str
    kind: str
    node: str | None
    state: State
    duration_ms: float
    attempts: int
    asked: str
    expected: str = ""
    came: str = ""
    evidence: list[Evidence] = []

    def story(self) -> list[str]:
        """What was asked, what was expected, what came, and what else there is to see."""
        said = {"asked": self.asked, "expected": self.expected, "came": self.came}
        lines = [f"{word + ':':<10}{text}" for word, text in said.items() if text]
        if self.attempts > 1:
            lines.append(f"{'attempts:':<10}{self.attempts} in {self.duration_ms / 1000:.1f} s")
        for each in self.evidence:
            lines += [f"{each.title}:", *(f"    {line}" for line in each.lines)]
        return lines
