"""A recording as one HTML file that a browser plays, with nothing from the network.

The player is asciinema-player 3.18.0 from npm, unchanged (Apache-2.0, LICENSE beside it).
"""

from __future__ import annotations

import html
import json
from importlib.resources import files

from oxyctl.render.cast import Cast

SCRIPT, STYLE = "asciinema-player.min.js", "asciinema-player.css"

# No request leaves the page, whatever was recorded; the player's terminal is WebAssembly.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; style-src 'unsafe-inline'; img-src data:"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
<style>body {{ margin: 2rem; background: #1e1e1e; color: #ddd; font-family: sans-serif }}</style>
</head>
<body>
<h1>{title}</h1>
<div id="player"></div>
<script type="application/json" id="cast">{cast}</script>
<script>{script}</script>
<script>
AsciinemaPlayer.create(
  {{data: JSON.parse(document.getElementById("cast").textContent)}},
  document.getElementById("player"),
  {{fit: "width", preload: true, speed: {speed}}}
);
</script>
</body>
</html>
"""


def page(cast: Cast, title: str, *, speed: float = 1.0) -> str:
    """The HTML file."""
    assets = files(__package__)
    return PAGE.format(
        policy=html.escape(POLICY, quote=True),
        title=html.escape(title),
        style=assets.joinpath(STYLE).read_text(),
        script=assets.joinpath(SCRIPT).read_text(),
        cast=_inside_script(asciicast(cast)),
        speed=json.dumps(speed),
    )


def asciicast(cast: Cast) -> str:
    """The recording as asciicast v2, which every player supports."""
    header = {"version": 2, "width": cast.columns, "height": cast.rows}
    if cast.timestamp is not None:
        header["timestamp"] = cast.timestamp
    events = ([round(moment.seconds, 6), moment.code, moment.data] for moment in cast.moments if moment.code in "oirm")
    return "".join(json.dumps(line) + "\n" for line in (header, *events))


def _inside_script(text: str) -> str:
    """A JSON string that cannot end the script element that contains it."""
    return json.dumps(text).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
