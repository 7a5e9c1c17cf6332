"""`oxyctl ca`: what clients have to trust, a rotation, and how stores of a client take it in."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from oxyctl.trust import stores
from proxy.ca.store import Authorities
from proxy.settings.inspection import Inspection


@pytest.fixture
def ca(oxyctl, server, path, proxy, tmp_path, monkeypatch):
    """Run `oxyctl ca COMMAND` against the made-up proxy, whose authorities are real."""
    proxy.authorities = Authorities(tmp_path / "state", {"acme": Inspection(permitted=["lab"]), "globex": Inspection()})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return lambda command, *arguments: oxyctl("ca", command, *arguments, "--control", path)


def test_show_for_people_and_for_programs(ca):
    assert ca("show").err == "no tenant has an authority, so no sessions are inspected\n"
    lines = ca("show", "--tenant", "acme").lines
    assert lines[0].split() == ["TENANT", "AUTHORITY", "KIND", "VALID", "UNTIL", "MAY", "SIGN", "FOR", "NEXT", "FROM"]
    assert "own" in lines[1]
    assert " lab " in lines[1]
    (item,) = json.loads(ca("show", "--format", "json").out)["items"]
    assert lines[-1] == f"acme: SHA-256 {item['root']['fingerprint']}"
    assert item["root"]["permitted"] == ["lab"]


def test_a_tenant_that_there_is_not(ca):
    result = ca("show", "--tenant", "acmee")
    assert (result.code, result.err) == (4, "error: the proxy has no tenant 'acmee'; did you mean 'acme'?\n")
    assert ca("export").err == "error: the proxy has several tenants: choose one with --tenant: acme, globex\n"


def test_export_writes_pem_and_der_and_no_key(ca, tmp_path):
    pem = ca("export", "--tenant", "acme").out
    assert "PRIVATE" not in pem
    assert ca("export", "--tenant", "acme", "--encoding", "der", "-o", str(tmp_path / "acme.der")).code == 0
    der = x509.load_der_x509_certificate((tmp_path / "acme.der").read_bytes())
    assert der == x509.load_pem_x509_certificate(pem.encode())
    assert ca("export", "--tenant", "acme", "-o", str(tmp_path / "no" / "x")).err.endswith(
        "No such file or directory\n"
    )


def test_a_rotation_waits_for_its_overlap_and_both_are_exported_meanwhile(ca):
    before = ca("export", "--tenant", "acme").out
    said = ca("rotate", "--tenant", "acme", "--overlap", "2d").out
    assert "takes over at" in said
    both = ca("export", "--tenant", "acme").out
    assert both.startswith(before)
    assert both.count("BEGIN") == 2
    again = ca("rotate", "--tenant", "acme", "--overlap", "1d")
    assert again.code == 2
    assert "takes over at" in again.err
    assert ca("rotate", "--tenant", "acme", "--overlap", "0").out.startswith("acme: ")
    assert ca("export", "--tenant", "acme").out == both.removeprefix(before)
    assert ca("export", "--tenant", "acme", "--next").code == 4


@pytest.mark.parametrize(("overlap", "said"), [("soon", "not a duration"), ("4000d", "expected 0 to")])
def test_an_overlap_that_makes_no_sense(ca, overlap, said):
    result = ca("rotate", "--tenant", "acme", "--overlap", overlap)
    assert result.code == 2
    assert said in result.err


def test_variables_for_a_shell(ca, tmp_path):
    lines = dict(line.removeprefix("export ").split("=", 1) for line in ca("trust", "env", "-t", "acme").lines)
    own = Path(lines["NODE_EXTRA_CA_CERTS"]).read_text()
    assert own == ca("export", "--tenant", "acme").out
    assert Path(lines["SSL_CERT_FILE"]).read_text() == own + stores.system_roots()


def test_the_system_s_store_of_a_distribution(ca, tmp_path, monkeypatch):
    command = tmp_path / "bin" / "update-it"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nls {tmp_path}/anchors > {tmp_path}/taken\n")
    command.chmod(0o755)
    anchors = tmp_path / "anchors"
    anchors.mkdir()
    monkeypatch.setattr(stores, "SYSTEMS", (("/nonexistent", "true", ".x"), (str(anchors), str(command), ".crt")))
    printed = ca("trust", "system", "-t", "acme", "--print").lines
    assert printed[0] == f"cat > {anchors}/oxyctl-acme.crt <<'PEM'"
    assert printed[-1] == str(command)
    assert not any(anchors.iterdir())
    assert ca("trust", "system", "-t", "acme").err.startswith("system trusts CN=")
    assert (tmp_path / "taken").read_text() == "oxyctl-acme.crt\n"
    ca("trust", "system", "-t", "acme", "--remove")
    assert (tmp_path / "taken").read_text() == ""
    monkeypatch.setattr(stores, "SYSTEMS", ())
    assert "cannot find this system" in ca("trust", "system", "-t", "acme").err


@pytest.mark.skipif(shutil.which("certutil") is None, reason="there is no certutil")
def test_the_database_of_chromium(ca, tmp_path):
    database = f"sql:{tmp_path}/home/.pki/nssdb"
    assert ca("trust", "nss", "-t", "acme").code == 0
    listed = subprocess.run(["certutil", "-d", database, "-L"], capture_output=True, text=True, check=True).stdout
    assert ["oxyctl-acme", "C,,"] in [line.split() for line in listed.splitlines()]
    ca("trust", "nss", "-t", "acme", "--remove")
    listed = subprocess.run(["certutil", "-d", database, "-L"], capture_output=True, text=True, check=True).stdout
    assert "oxyctl-acme" not in listed
    assert "Firefox" in ca("trust", "firefox", "-t", "acme").err
