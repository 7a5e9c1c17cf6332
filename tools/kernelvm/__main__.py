"""`python -m tools.kernelvm fetch|features|run|auto [-- COMMAND ...]`; the exit code is the command's."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from tools.kernelvm import features, image
from tools.kernelvm.machine import Machine

TASKS = {
    "fetch": "download the newest kernel",
    "features": "say what the running kernel lacks",
    "run": "boot a stock kernel and run COMMAND there, as root, in the current directory",
    "auto": "run COMMAND here where the running kernel has all that is needed, else as `run`",
}


def main(arguments: list[str]) -> int:
    """The exit code: the command's; 2 for a mistake; 125 if the guest did not reach its end."""
    parser = argparse.ArgumentParser(prog="python -m tools.kernelvm", description=__doc__)
    parser.add_argument("task", choices=TASKS, help="; ".join(f"{name}: {what}" for name, what in TASKS.items()))
    parser.add_argument("--memory", default="1G", help="of the guest (%(default)s)")
    parser.add_argument(
        "--processors", type=int, default=1, help="of the guest (%(default)s); two cost more than they bring"
    )
    parser.add_argument("--timeout", type=float, default=900, metavar="SECONDS", help="for all of it (%(default)s)")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, command = parser.parse_args(arguments[:cut]), arguments[cut + 1 :]
    if options.task in ("run", "auto") and not command:
        parser.error("-- COMMAND is missing")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _do(options, command)
    except image.ImageError as error:
        print(f"kernelvm: {error}", file=sys.stderr)
        return 2


def _do(options: argparse.Namespace, command: list[str]) -> int:
    if options.task == "fetch":
        print(image.fetch())
        return 0
    if options.task == "features":
        print("missing:", ", ".join(sorted(features.missing())) or "nothing")
        return 0
    if options.task == "auto":
        if not (missing := features.missing()):
            os.execvp(command[0], command)
        print(f"kernelvm: this kernel has no {', '.join(sorted(missing))}: in a machine of its own", file=sys.stderr)
    machine = Machine(image.newest(), options.memory, options.processors, options.timeout)
    return machine.run(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
