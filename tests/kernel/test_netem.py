"""labs/lossy.yaml where the kernel impairs links by itself: what its file says, and what is said while it runs."""

from __future__ import annotations

import json
import re

import pytest

from oxyctl.topology.file import load
from oxyctl.topology.library import find_file
from tests.kernel.labs import running

pytestmark = [pytest.mark.kernel("netem", "tbf", "root", "/dev/net/tun"), pytest.mark.netns]

# one program for all figures of a state: each entry into a lab takes its time on an emulated processor. The link
# address of `lossy` is asked for and kept first: three lost requests for it cost every packet of a second.
ASK = """
for target in 10.60.0.20 fd00:60::20; do ping -q -c6 -i0.2 -W3 $target; done
until ping -q -c1 -W1 10.60.0.30 >&2; do :; done
ip neigh change 10.60.0.30 dev eth0 nud permanent
ping -q -c120 -i0.02 -W1 10.60.0.30
curl -sS -o /dev/null -w 'speed %{speed_download}\\n' http://10.60.0.10/bytes/400000
"""


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    with running(load(find_file("lossy")), tmp_path_factory.mktemp("kernel")) as lab:
        yield lab


def measure(lab):
    """Least and greatest round trip to `far` in ms for both families, share of pings to `lossy` lost, bits a second."""
    out = lab.exec("edge", ASK)
    trips = [(float(least), float(most)) for least, most in re.findall(r"= ([\d.]+)/[\d.]+/([\d.]+)/", out)]
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", out)[2])
    return trips[:2], 1 - received / sent, float(re.search(r"speed (\d+)", out)[1]) * 8


def disciplines(lab):
    """What the kernel itself says of the queue of each interface of a node that has one."""
    shown = json.loads(lab.exec("lossy", "tc -j qdisc show dev eth0"))
    return {each["kind"]: each.get("options", {}) for each in shown}


def test_the_kernel_does_what_the_file_says(lossy):
    shown = {each["name"]: each for each in lossy.status()["links"]}
    for name in ("near:internet", "far:internet", "lossy:internet"):
        assert shown[name]["by"] == "kernel", name
    trips, lost, _ = measure(lossy)
    for least, most in trips:
        assert least >= 69  # 2 x (40 ± 5) ms
        assert most > least
    assert 0.14 <= lost <= 0.58  # 0.36 of both directions, and five standard deviations
    found = disciplines(lossy)["netem"]
    assert found["delay"]["delay"] == pytest.approx(0.01)
    assert found["loss-random"]["loss"] == pytest.approx(0.2, abs=0.001)


def test_what_is_said_while_it_runs_holds_at_once(lossy):
    lossy.impair("far:internet", delay="150ms", jitter="0")
    lossy.impair("lossy:internet", clear=True)
    lossy.impair("near:internet", rate="2mbit")
    shown = {each["name"]: (each["by"], each["detail"]) for each in lossy.status()["links"]}
    assert shown["far:internet"] == ("kernel", "delay 150ms")
    assert shown["near:internet"] == ("kernel", "rate 2mbit, delay 1ms")
    assert shown["lossy:internet"] == (None, "")
    trips, lost, bits = measure(lossy)
    assert all(least >= 299 for least, _ in trips)
    assert lost == 0
    assert 1e6 <= bits <= 2.1e6
