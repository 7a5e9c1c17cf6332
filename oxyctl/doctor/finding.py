"""The result of one trial."""

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
    fix: str | None = None  # a command; None: nothing needs to be done, or can be done
    required: bool = False  # labs cannot run without it


class NoNamespaces(OSError):
    """The kernel refuses the namespaces of a lab: trials that need them cannot run."""


class Outcome(NamedTuple):
    """The outcome of a trial, and how to fix it if that depends on what was found."""

    state: State
    detail: str = ""
    fix: str | None = None


class Trial(NamedTuple):
    """One feature to try."""

    name: str
    needed_for: str
    probe: Callable[[], Outcome]
    fix: str | None = None
    required: bool = False

    def run(self) -> Finding:
        """Run the trial. An unexpected error of the trial is a finding too."""
        try:
            outcome = self.probe()
        except NoNamespaces:
            return Finding(
                name=self.name, state="degraded", needed_for=self.needed_for, detail="not tried: no namespaces"
            )
        except OSError as error:
            outcome = Outcome("missing" if self.required else "degraded", error.strerror or str(error))
        fix = None if outcome.state == "ok" else outcome.fix or self.fix
        return Finding(
            name=self.name,
            state=outcome.state,
            needed_for=self.needed_for,
            detail=outcome.detail,
            fix=fix,
            required=self.required,
        )


def can_run_labs(findings: list[Finding]) -> bool:
    """Whether all required features are available."""
    return not any(finding.required and finding.state == "missing" for finding in findings)
