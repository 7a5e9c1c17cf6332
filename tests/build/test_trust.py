"""Bundles on disk: the system's certificates, and those of authorities as they come."""

from __future__ import annotations

import os

import pytest

from oxyctl.build import trust
from oxyctl.plan.steps import Bundle, Plan


def pem(text):
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system with one bundle, which two paths lead to."""
    real = tmp_path / "real.pem"
    real.write_text(pem("system"))
    os.symlink(real, tmp_path / "link.pem")
    monkeypatch.setattr(trust, "SYSTEM", (str(tmp_path / "link.pem"), str(real), str(tmp_path / "absent.pem")))
    return real


def plan_with(bundle):
    nothing = {name: [] for name in ("namespaces", "bridges", "links", "files", "processes", "nodes")}
    return Plan(lab="test", source="test.yaml", bundles=[bundle], **nothing)


def test_authorities_are_added_as_they_come_and_stay_after_a_rotation(system, tmp_path):
    lab, tenant = tmp_path / "ca.pem", tmp_path / "tenant.pem"
    bundle = Bundle(path=str(tmp_path / "trust" / "edge" / "acme.pem"), authorities=[str(lab), str(tenant)])
    lab.write_text(f"-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n{pem('lab')}")
    trust.make_trust(plan_with(bundle))
    path = tmp_path / "trust" / "edge" / "acme.pem"
    assert path.read_text() == pem("system") + pem("lab")
    assert not trust.complete(bundle)
    tenant.write_text(pem("first"))
    assert trust.complete(bundle)
    tenant.write_text(pem("second"))
    inode = path.stat().st_ino
    assert trust.complete(bundle)
    assert path.read_text() == "".join(map(pem, ("system", "lab", "first", "second")))
    assert path.stat().st_ino == inode  # nodes have it mounted


def test_a_bundle_covers_each_of_the_system_s_once(system):
    assert trust.replacements("/bundle") == {str(system): "/bundle"}
    assert trust.replacements(None) == {}


def test_without_one_of_the_system_s_there_are_only_the_authorities(tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "SYSTEM", ())
    (tmp_path / "ca.pem").write_text(pem("lab"))
    trust.make_trust(plan_with(Bundle(path=str(tmp_path / "all.pem"), authorities=[str(tmp_path / "ca.pem")])))
    assert (tmp_path / "all.pem").read_text() == pem("lab")
