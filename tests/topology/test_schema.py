"""The JSON Schema of lab files: fresh, told in words, and of one mind with the models."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from oxyctl.topology.file import loads
from oxyctl.topology.schema import DESCRIPTIONS, lab_schema, properties, render
from proxy.settings import DocumentError
from tests.meta.imports import ROOT

LAB = """
networks: {internet: {subnets: [10.50.0.0/24]}}
nodes:
  edge:   {kind: proxy, networks: [internet], tenants: {acme: {limits: {flows: 10}}}}
  laptop: {kind: warp, proxy: edge, tenant: acme, mtu: 1280}
  web:    {kind: upstream, networks: {internet: [10.50.0.9]}, services: {http: 80}}
"""


@pytest.fixture(scope="module")
def validator():
    schema = lab_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_copy_beside_the_labs_is_fresh():
    assert (ROOT / "labs" / "lab.schema.json").read_bytes() == render(lab_schema()), (
        "`oxyctl lab schema > labs/lab.schema.json` makes it anew"
    )


def test_every_key_is_told_in_words():
    silent = [f"{model}.{key}" for model, key, value in properties(lab_schema()) if not value.get("description")]
    assert silent == [], "say what it is in oxyctl/topology/schema.py"


def test_no_sentence_is_about_a_key_that_is_gone():
    known = {(model, key) for model, key, _ in properties(lab_schema())}
    told = {(model, key) for model, keys in DESCRIPTIONS.items() for key in keys if model != "*"}
    assert told - known == set()


@pytest.mark.parametrize("file", sorted((ROOT / "labs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_lab_that_comes_along_is_valid(validator, file):
    assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kind: warp", "kind: wrap"),
        ("mtu: 1280", "mtu: twelve"),
        ("mtu: 1280", "mtu: 10"),
        ("http: 80", "http: 0"),
        ("http: 80", "htp: 80"),
        ("kind: upstream, ", ""),
        ("tenant: acme", "tenant: acme, colour: blue"),
        ("subnets: [10.50.0.0/24]", "subnets: []"),
        ("nodes:", "knots:"),
        ("flows: 10", "flows: 0"),
    ],
)
def test_what_the_schema_refuses_is_what_oxyctl_refuses(validator, old, new):
    assert validator.is_valid(yaml.safe_load(LAB))
    loads(LAB)
    broken = LAB.replace(old, new)
    assert broken != LAB
    assert not validator.is_valid(yaml.safe_load(broken))
    with pytest.raises(DocumentError):
        loads(broken)


def test_the_command_prints_it(capsys):
    from oxyctl.cli.schema import schema

    schema()
    assert json.loads(capsys.readouterr().out) == lab_schema()
