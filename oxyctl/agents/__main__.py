"""`python -m oxyctl.agents CONFIG.json`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from oxyctl.agents.client import Client
from oxyctl.agents.config import Config
from oxyctl.agents.fleet import Fleet


def main(path: str) -> None:
    """Open the TUN devices of all clients, then move packets until the process is killed."""

    def read() -> Config:
        return msgspec.json.decode(Path(path).read_bytes(), type=Config)

    clients = []
    for each in read().clients:
        try:
            clients.append(Client(each))
        except OSError as error:
            sys.exit(f"{each.node}: cannot open TUN device {each.interface}: {error}")
    Fleet(clients).run(read)


if __name__ == "__main__":
    main(sys.argv[1])
