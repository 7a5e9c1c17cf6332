"""Drawings of labs: what is tied to what can be read from each of them."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from oxyctl.plan.make import make_plan
from oxyctl.render.drawing import draw
from oxyctl.render.graph import dot, mermaid
from oxyctl.render.topology import topology
from oxyctl.topology.file import loads
from tests.meta.imports import ROOT

SMALL = """
networks: {internet: {subnets: [10.50.0.0/24, "fd00:50::/64"]}}
nodes:
  edge:   {kind: proxy, networks: {internet: [10.50.0.1, "fd00:50::1"]}, tenants: {acme: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme, addresses: [100.96.0.2]}
  web:    {kind: upstream, networks: {internet: [10.50.0.10, "fd00:50::10"]}, services: {http: 80}}
"""
DRAWN = """\
lab quick

                                  tunnels of edge
                                  ║   internet 10.50.0.0/24 fd00:50::/64
╭─ laptop ── warp ────────────╮   ║   │
│ acme 100.96.0.2             ╞═══╣   │
╰─────────────────────────────╯   ║   │
╭─ edge ── proxy ─────────────╮   ║   │
│ tunnels                     ╞═══╝   │
│ eth0 10.50.0.1 fd00:50::1   ├───────┤
╰─────────────────────────────╯       │
╭─ web ── upstream ───────────╮       │
│ eth0 10.50.0.10 fd00:50::10 ├───────╯
╰─────────────────────────────╯
"""
CLIENTS = "\n".join(f"  c{number}: {{kind: warp, proxy: far, tenant: acme}}" for number in range(200))
LARGE = f"""
networks:
  a: {{subnets: [10.1.0.0/24]}}
  b: {{subnets: [10.2.0.0/24]}}
  "a network with a very long name, longer than anybody would ever call one, and \\"quoted\\"":
    {{subnets: [10.3.0.0/24]}}
nodes:
  edge: {{kind: proxy, networks: [a, b], tenants: {{acme: {{}}}}}}
  far: {{kind: proxy, networks: [b], tenants: {{acme: {{}}}}}}
  laptop: {{kind: warp, proxy: edge, tenant: acme}}
{CLIENTS}
  alone: {{kind: process, command: [sleep, "9"]}}
  web: {{kind: upstream, networks: [a, b], services: {{http: 80}}}}
"""


def shown(text, tmp_path):
    return topology(make_plan(loads(text, "quick"), tmp_path / "quick"))


def test_a_small_lab(tmp_path):
    assert draw(shown(SMALL, tmp_path)) == DRAWN


def test_a_large_lab_fits_the_page(tmp_path):
    text = draw(shown(LARGE, tmp_path), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "c0 to c199 (200) ── warp" in text
    assert len(lines) < 45
    ends = "".join(lines)
    # two lanes of tunnels and two of networks with nodes end once each
    assert (ends.count("╝"), ends.count("├")) == (2, 5)
    assert any("╬" in line for line in lines), "tunnels that cross tunnels"
    assert any("╫" in line for line in lines), "links that cross tunnels"


def test_a_narrow_page_cuts_texts_and_no_lines(tmp_path):
    lines = draw(shown(SMALL, tmp_path), 36).splitlines()
    assert any("…" in line for line in lines)
    assert [line[-1] for line in lines if "├" in line] == ["┤", "╯"]


def test_in_plain_ascii(tmp_path):
    text = draw(shown(LARGE, tmp_path), is_ascii=True)
    assert text.isascii()
    assert len(text) == len(draw(shown(LARGE, tmp_path)).replace("…", "."))


def test_mermaid(tmp_path):
    lines = mermaid(shown(SMALL, tmp_path)).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  node1 == "acme" ==> node0' in lines
    assert '  node2 -- "eth0<br/>10.50.0.10<br/>fd00:50::10" --- net0' in lines
    assert "&quot;" not in mermaid(shown(LARGE, tmp_path))
    assert "#quot;quoted#quot;" in mermaid(shown(LARGE, tmp_path))


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it(tmp_path):
    drawn = dot(shown(LARGE, tmp_path))
    subprocess.run(["dot", "-Tplain"], input=drawn, text=True, capture_output=True, check=True)


def test_dot(tmp_path):
    lines = dot(shown(SMALL, tmp_path)).splitlines()
    assert lines[0] == 'digraph "quick" {'
    assert any(line.startswith('  "laptop" -> "edge" [label="acme"') for line in lines)
    assert any(line.startswith('  "web" -> "network\\ninternet" [dir=none') for line in lines)
    assert dot(shown(LARGE, tmp_path)).count('\\"quoted\\"') == 2


def test_the_command_draws_a_file_and_knows_formats(oxyctl, tmp_path):
    file = tmp_path / "quick.yaml"
    file.write_text(SMALL)
    assert oxyctl("lab", "graph", str(file)).out == DRAWN
    items = json.loads(oxyctl("lab", "graph", str(file), "--format", "json").out)
    assert items["kind"] == "graph"
    assert [node["name"] for node in items["items"]] == ["edge", "laptop", "web"]
    assert items["items"][1]["tunnel"]["proxy"] == "edge"
    assert items["networks"] == [{"name": "internet", "subnets": ["10.50.0.0/24", "fd00:50::/64"]}]
    assert oxyctl("lab", "graph", "quickstart").out.startswith("lab quickstart\n")


def test_what_is_not_there(oxyctl, tmp_path):
    assert oxyctl("lab", "graph", "nothing").code == 2
    assert oxyctl("lab", "graph", str(tmp_path / "none.yaml")).code == 2
    assert oxyctl("lab", "graph", "--lab", "none").code == 5


@pytest.mark.parametrize("file", sorted((ROOT / "labs").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_lab_that_comes_along_fits_the_page(oxyctl, file):
    done = oxyctl("lab", "graph", str(file))
    assert done.code == 0
    assert max(map(len, done.lines)) <= 80


def test_a_site_is_tied_to_its_proxy_by_its_kind_of_tunnel(tmp_path):
    site = shown(SMALL + "  lima: {kind: gue-site, tenant: acme}\n", tmp_path)
    assert "│ acme gue 10.255.1.2 fd00:255:1::2 ╞═══╣" in draw(site)
    assert 'node3 == "acme gue" ==> node0' in mermaid(site)
    assert 'label="acme gue"' in dot(site)
