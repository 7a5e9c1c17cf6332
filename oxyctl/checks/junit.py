"""Results as JUnit XML, for CI systems."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree

from oxyctl.checks.result import Result

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 section 2.2


def to_xml(lab: str, results: Sequence[Result], started_ns: int) -> bytes:
    """One suite, named after the lab, with a case for each check."""
    duration_s = sum(result.duration_ms for result in results) / 1e3
    counts = {
        "tests": str(len(results)),
        "failures": str(sum(result.state == "failed" for result in results)),
        "errors": str(sum(result.state == "broken" for result in results)),
        "skipped": "0",
        "time": f"{duration_s:.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "oxyctl lab check", **counts})
    moment = datetime.fromtimestamp(started_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    suite = ElementTree.SubElement(root, "testsuite", {"name": lab, **counts, "timestamp": moment})
    for result in results:
        suite.append(_case(lab, result))
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _case(lab: str, result: Result) -> ElementTree.Element:
    attributes = {
        "classname": f"{lab}.{result.kind}",
        "name": _safe(result.name),
        "time": f"{result.duration_ms / 1e3:.3f}",
    }
    case = ElementTree.Element("testcase", attributes)
    if result.state != "passed":
        tag, kind = ("failure", "CheckFailed") if result.state == "failed" else ("error", "CheckBroken")
        element = ElementTree.SubElement(case, tag, {"message": _safe(result.actual), "type": kind})
        element.text = _safe("\n".join(result.describe()))
    return case


def _safe(text: str) -> str:
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
