"""The repository as a whole: docstrings, sizes, versions, the Makefile, and what the documents point at."""

from __future__ import annotations

import ast
import io
import itertools
import re
import subprocess
import tokenize
import tomllib

import pytest

import proxy
from tests.meta.imports import ROOT, sources

MAX_LINES = 400
LONGER = {}  # file: why it may be longer than MAX_LINES

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def relative(path):
    return str(path.relative_to(ROOT))


def has_docstring(source):
    """Read from the first tokens: to parse a thousand files takes half a minute."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    first, after = itertools.islice((token for token in tokens if token.type not in (tokenize.COMMENT, tokenize.NL)), 2)
    is_string = (first.type, after.type) == (tokenize.STRING, tokenize.NEWLINE)
    return is_string and bool(ast.literal_eval(first.string).strip())


def test_every_file_says_what_is_in_it():
    code = [*sources("proxy", "oxyctl", "examples", "tools"), *(ROOT / "bench").glob("*.py")]
    tests = [path for path in sources("tests") if path.stat().st_size]  # an empty __init__.py only marks a package
    assert [relative(path) for path in [*code, *tests] if not has_docstring(path.read_text())] == []
    for text in ("# a comment\nimport os\n", 'x = "text"\n', '""\n', "def f():\n    'text'\n"):
        assert not has_docstring(text)


def test_no_file_is_too_long_to_read_in_one_go():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in sources("proxy", "oxyctl")}
    assert {name for name, lines in lengths.items() if lines > MAX_LINES} == set(LONGER)


def test_packages_hold_modules_and_nothing_else():
    """No editor's or patch's left-over: what is in the tree is what is shipped."""
    files = [path for name in ("proxy", "oxyctl") for path in (ROOT / name).rglob("*") if path.is_file()]
    others = {relative(path) for path in files if path.suffix != ".py" and not path.name.startswith(".")}
    player = {f"oxyctl/render/player/{name}" for name in ("asciinema-player.min.js", "asciinema-player.css", "LICENSE")}
    assert {name for name in others if "__pycache__" not in name} == {"oxyctl/py.typed", "proxy/py.typed", *player}


def test_no_merge_is_left_half_done():
    names = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True).stdout.split()
    texts = {name: (ROOT / name).read_text(errors="replace") for name in names if (ROOT / name).is_file()}
    assert [name for name, text in texts.items() if re.search("^(<{7}|>{7}) ", text, re.M)] == []


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == proxy.__version__


def test_every_make_target_documents_itself():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", text, re.M)[1].split()
    documented = re.findall(r"^([a-z-]+):.*## \S", text, re.M)
    assert sorted(phony) == sorted(documented)
    assert {"help", "demo", "test", "check", "lint", "bench", "clean"} <= set(phony)
    told = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, check=True).stdout
    assert all(re.search(rf"^  {target} +\S", told, re.M) for target in phony)


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_every_invariant_names_the_test_that_holds_it():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    invariants = [part for part in re.split(r"\n\s*\n", text) if part.startswith("Invariant:")]
    assert invariants
    for invariant in invariants:
        named = re.findall(r"`(tests/[\w./-]*)`", invariant)
        assert named, f"no test: {invariant}"
        assert [path for path in named if not (ROOT / path).exists()] == [], invariant
