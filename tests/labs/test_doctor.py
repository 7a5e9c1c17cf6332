"""`oxyctl doctor` says of this machine what the labs of these tests prove; for root, and for users without rights."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.labs.conftest import NOBODY, links

pytestmark = pytest.mark.netns


def findings(printed):
    """By name."""
    envelope = json.loads(printed)
    return envelope["can_run_labs"], {item["name"]: item for item in envelope["items"]}


def test_where_labs_run_the_doctor_says_so(machine):
    before = links()
    able, found = findings(machine.oxyctl("doctor", "--format", "json").stdout)
    assert able
    for name in ("namespaces", "/dev/net/tun", "bridge", "veth", "run directory"):
        assert found[name]["state"] == "ok"
    assert found["namespaces"]["detail"] == ("in a user namespace" if machine.is_rootless else "as root")
    if machine.is_rootless:
        assert found["rootless"]["state"] == "ok"
    assert links() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="plays a user without rights: needs root")
def test_without_the_right_to_tun_devices_it_says_how_to_get_it(machine):
    if not machine.is_rootless:
        pytest.skip("root has every right")
    hide = 'place=$(mktemp) && mount --bind "$place" /dev/net/tun && chmod 600 "$place" && shift && exec "$@"'
    as_nobody = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh", "--", *as_nobody]
    done = subprocess.run(
        [*command, machine.python, "-m", "oxyctl", "doctor", "--format", "json"],
        env=machine.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    able, found = findings(done.stdout)
    assert (done.returncode, able) == (1, False), done.stderr
    assert found["/dev/net/tun"]["state"] == "missing"
    assert found["/dev/net/tun"]["fix"] == "sudo chmod 666 /dev/net/tun"
