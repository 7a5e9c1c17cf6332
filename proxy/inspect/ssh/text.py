"""Makes untrusted text fit for a line of a log or a terminal."""

from __future__ import annotations


def printable(text: str, most: int = 200) -> str:
    """`text` without control characters, cut to `most` characters."""
    text = text[:most]
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)
