"""The iperf3 service: the real program, where it is installed."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal

import pytest

from tests.services.origin import FAMILIES, Origin, is_running, measured, node, run, wait_until

needs_iperf3 = pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")


def measures(address, port):
    return run("iperf3", "-c", address, "-p", port, "-n", "1K").returncode == 0


@needs_iperf3
@pytest.mark.parametrize("how", [[], ["-R"], ["-u", "-b", "50M"]], ids=["up", "down", "udp"])
def test_iperf3_measures(origin, address, how):
    port = origin.port["iperf3"]
    done = measured("iperf3", "-c", address, "-p", port, "-n", "2M", "--json", *how)
    assert done.returncode == 0, done.stdout
    end = json.loads(done.stdout)["end"]
    assert end["sum_sent" if "sum_sent" in end else "sum"]["bytes"] >= 2 << 20


@needs_iperf3
def test_iperf3_is_started_again_when_it_ends(origin):
    before = origin.programs()
    assert len(before) == len(FAMILIES)  # one per address, here
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(origin.programs()) - set(before)) == len(before), "new ones run")
    for address in FAMILIES.values():
        wait_until(
            functools.partial(measures, address, origin.port["iperf3"]),
            f"it listens on {address}",
        )


@needs_iperf3
def test_iperf3_dies_with_the_services_however_they_die(tmp_path):
    origin = Origin(tmp_path, node("iperf3"))
    programs = origin.programs()
    assert programs
    assert all(map(is_running, programs))
    assert origin.stop(signal.SIGKILL) == -signal.SIGKILL


def test_iperf3_that_is_not_installed_is_unavailable_and_the_rest_runs(tmp_path):
    origin = Origin(tmp_path, node("iperf3", "echo"), environment={**os.environ, "PATH": str(tmp_path)})
    by_name = {entry["service"]: entry for entry in origin.report["services"]}
    assert origin.stop() == 0
    assert by_name["iperf3"]["state"] == "unavailable"
    assert by_name["iperf3"]["detail"] == "iperf3 is not installed (apt install iperf3)"
    assert by_name["echo"]["state"] == "listening"
