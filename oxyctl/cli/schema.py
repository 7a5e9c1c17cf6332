"""`oxyctl lab schema`: the JSON Schema of lab files."""

from __future__ import annotations


def schema() -> None:
    """Print the JSON Schema of lab files, for editors: labs/lab.schema.json is a copy."""
    from oxyctl.topology.schema import lab_schema, render

    print(render(lab_schema()).decode(), end="")
