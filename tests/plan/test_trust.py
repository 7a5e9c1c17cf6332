"""Bundles of certificates as planned, and what proxies are told of the lab's authority."""

from __future__ import annotations

from pathlib import PurePath

import yaml

from oxyctl.plan.diff import compare
from oxyctl.plan.trust import VARIABLES

TRUSTING = "user: alice@acme.example, trust: tenant-ca"


def test_a_lab_that_reads_nothing_makes_no_authority(quick, plan):
    made = plan(quick)
    assert (made.authority, made.bundles) == (None, [])
    assert all(namespace.bundle is None for namespace in made.namespaces)


def test_a_client_sees_the_lab_s_and_its_tenant_s_authority(quick, plan):
    made = plan(quick.replace("user: alice@acme.example", TRUSTING).replace("COLOUR: blue", "SSL_CERT_FILE: /mine"))
    [bundle] = made.bundles
    assert [PurePath(path).parts[-4:] for path in bundle.authorities] == [
        ("labs", "test", "services", "ca.pem"),
        ("state", "ca", "acme", "certificate.pem"),
    ]
    assert {n.node: n.bundle for n in made.namespaces} == {
        "edge": None, "web": None, "tool": None, "laptop": bundle.path,
    }  # fmt: skip
    environments = {node.name: node.environment for node in made.nodes}
    assert environments["laptop"] == dict.fromkeys(VARIABLES, bundle.path)
    assert environments["tool"] == {"SSL_CERT_FILE": "/mine"}


def test_its_own_variables_come_first(quick, plan):
    made = plan(quick.replace("env: {COLOUR: blue}", "env: {SSL_CERT_FILE: /mine}, trust: lab-ca"))
    environment = next(node.environment for node in made.nodes if node.name == "tool")
    assert environment["SSL_CERT_FILE"] == "/mine"
    assert PurePath(environment["CURL_CA_BUNDLE"]).name == "lab.pem"


def test_proxies_that_read_trust_the_lab_s_authority_beside_what_they_are_told(quick, plan):
    made = plan(quick.replace("{acme: {}}", "{acme: {level: http, inspection: {trust: [/roots.pem]}}}"))
    settings = next(yaml.safe_load(file.text) for file in made.files if file.path.endswith("proxy.yaml"))
    assert made.authority is not None
    assert settings["tenants"]["acme"]["inspection"]["trust"] == ["/roots.pem", f"{made.authority}/ca.pem"]


def test_a_node_that_begins_to_trust_is_made_anew(quick, plan):
    before = plan(quick.replace("tenant: acme,", "tenant: acme, trust: lab-ca,"))
    diff = compare(before, plan(quick.replace("tenant: acme,", "tenant: acme, trust: tenant-ca,")))
    assert diff.removed == diff.added == {"laptop"}
