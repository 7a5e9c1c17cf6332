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
END_S = 15.0


class Recording:
    """A capture of the lab `lab` into `directory`/capture.pcapng; what it says is in capture.log beside it.

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
        """Return once packets are captured. OxyctlError says why that is impossible."""
        process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        said = process.stderr.readline()
        if not said.startswith(READY):
            said += _rest(process)
            raise OxyctlError(f"no capture: {said.strip().removeprefix('error: ')}")
        self._process = process

    def stop(self) -> Path:
        """The finished file, even if the lab has ended meanwhile. OxyctlError: the capture failed."""
        process, self._process = self._process, None
        if process is None:
            return self.file
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _rest(process)
            raise OxyctlError(f"the capture did not end within {END_S:.0f} s; {self.file} may be cut short") from None
        said = _rest(process)
        self.log.write_text(said)
        if process.returncode != 0:
            raise OxyctlError(f"the capture failed: {said.strip()}")
        return self.file

    def __enter__(self) -> Recording:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _rest(process: subprocess.Popen[str]) -> str:
    """The process's remaining output; a quiet capture prints so little that the pipe holds it."""
    assert process.stderr is not None
    with process.stderr as stderr:
        said = stderr.read()
    process.wait()
    return said
