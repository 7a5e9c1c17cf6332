"""A capture in a separate process, for tests and other programs that continue meanwhile."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from oxyctl.errors import OxyctlError

READY = "capturing at "
STOP_TIMEOUT_S = 15.0


class Recording:
    """A capture of the lab `lab` into `directory`/capture.pcapng; its messages go to capture.log in the same directory.

        with Recording("quickstart", tmp_path) as recording:
            ...
        recording.file

    What passes after `start` has returned, and before `stop` is called, is in the file.
    """

    def __init__(
        self, lab: str, directory: Path, targets: Sequence[str] = ("all",), *, filter_: str | None = None
    ) -> None:
        self.file, self.log = directory / "capture.pcapng", directory / "capture.log"
        self._command = [sys.executable, "-P", "-m", "oxyctl", "capture", "--quiet", "--lab", lab]
        self._command += ["--write", str(self.file), *(["--filter", filter_] if filter_ else []), "--", *targets]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Return once packets are captured. OxyctlError: it could not start, and why."""
        process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        output = process.stderr.readline()
        if not output.startswith(READY):
            output += _read_rest(process)
            raise OxyctlError(f"no capture: {output.strip().removeprefix('error: ')}")
        self._process = process

    def stop(self) -> Path:
        """The finished file, even if the lab has ended meanwhile. OxyctlError: the capture failed."""
        process, self._process = self._process, None
        if process is None:
            return self.file
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _read_rest(process)
            raise OxyctlError(
                f"the capture did not end within {STOP_TIMEOUT_S:.0f} s; {self.file} may be truncated"
            ) from None
        output = _read_rest(process)
        self.log.write_text(output)
        if process.returncode != 0:
            raise OxyctlError(f"the capture failed: {output.strip()}")
        return self.file

    def __enter__(self) -> Recording:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _read_rest(process: subprocess.Popen[str]) -> str:
    """The process's remaining output; a quiet capture prints so little that the pipe holds it."""
    assert process.stderr is not None
    with process.stderr as stderr:
        output = stderr.read()
    process.wait()
    return output
