"""`python -m oxyctl.agents.sites CONFIG.json`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from oxyctl.agents.sites.config import Config
from oxyctl.agents.sites.loop import Loop


def main(path: str) -> None:
    """Open the tunnel ends in the file `path`, and move packets until the process is stopped."""

    def read() -> Config:
        try:
            return msgspec.json.decode(Path(path).read_bytes(), type=Config)
        except (OSError, msgspec.MsgspecError) as error:
            sys.exit(f"{path}: {error}")

    Loop(read).run()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m oxyctl.agents.sites CONFIG.json")
    main(sys.argv[1])
