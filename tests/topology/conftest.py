"""Labs from text."""

from tests.lab_texts import plan, quick, run

__all__ = ["plan", "quick", "run"]
