"""Modules that have moved: who imports one by its old name is told where labs can be used from Python."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("name", ["oxyctl.lab", "oxyctl.lab.model", "oxyctl.lab.checks.probes"])
def test_an_old_name_says_in_one_line_what_to_import(name):
    with pytest.raises(ImportError, match=r"oxyctl\.lab has moved.*import oxyctl\.testing$") as caught:
        importlib.import_module(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["oxyctl.testing", "proxy.hooks"])
def test_public_modules_stay_where_they_are(name):
    importlib.import_module(name)
