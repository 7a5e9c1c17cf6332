"""The command line, for tests of what it finds out."""

from __future__ import annotations

from tests.cli.conftest import oxyctl

__all__ = ["oxyctl"]
