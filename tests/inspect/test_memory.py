"""The memory of bulk: an inspector keeps what it frees, rather than to return it to the kernel at each event."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from proxy.inspect.sockets import MAX_READ

FAULTS = f"""
import resource
from proxy.inspect import __main__ as main

def pass_on():
    for _ in range(100):
        pieces = [b"x" * {MAX_READ} for _ in range(3)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

main._keep_memory()
pass_on()
before = faults()
pass_on()
print(faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_pieces_of_bulk_are_not_asked_of_the_kernel_again_and_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 50  # without it: 3,000
