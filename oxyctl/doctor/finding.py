"""What one trial found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

State = Literal["ok", "degraded", "missing"]


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    """One line of `oxyctl doctor`."""

    name: str
    state: State
    needed_for: str
    detail: str = ""
    fix: str | None = None  # a command; None when nothing is to be done, or nothing can be
    required: bool = False  # labs cannot run without it


class NoNamespaces(OSError):
    """The kernel refuses the namespaces of a lab: what is tried in them cannot be."""


class Answer(NamedTuple):
    """What a trial says: how it went, and how to fix it where that depends on what it found."""

    state: State
    detail: str = ""
    fix: str | None = None


class Trial(NamedTuple):
    """One thing to find out."""

    name: str
    needed_for: str
    ask: Callable[[], Answer]
    fix: str | None = None
    required: bool = False

    def run(self) -> Finding:
        """Ask. A trial that fails in a way of its own is a finding too."""
        try:
            answer = self.ask()
        except NoNamespaces:
            return Finding(
                name=self.name, state="degraded", needed_for=self.needed_for, detail="not tried: no namespaces"
            )
        except OSError as error:
            answer = Answer("missing" if self.required else "degraded", error.strerror or str(error))
        fix = None if answer.state == "ok" else answer.fix or self.fix
        return Finding(
            name=self.name,
            state=answer.state,
            needed_for=self.needed_for,
            detail=answer.detail,
            fix=fix,
            required=self.required,
        )


def can_run_labs(findings: list[Finding]) -> bool:
    """Whether nothing that is required is missing."""
    return not any(finding.required and finding.state == "missing" for finding in findings)
