"""Why an origin beside the session's own cannot be had: records tell refused, silent and unreachable apart."""

import errno
import os

import pytest

from proxy.errors import ProxyError
from proxy.inspect.dials import Dial
from proxy.inspect.http.origins import fault_of
from proxy.session.messages import DialAnswer


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (errno.ECONNREFUSED, "origin_refused"),
        (errno.ETIMEDOUT, "origin_timeout"),
        (errno.EHOSTUNREACH, "origin_unreachable"),
    ],
)
def test_what_the_kernel_said_of_a_connection(code, fault):
    told = []
    dial = Dial(None, None, None, None, None, told.append)
    dial.answered(DialAnswer(1, error=os.strerror(code)), [], "192.0.2.1", 80, None, ())
    (error,) = told
    assert isinstance(error, ProxyError)
    assert (fault_of(error), str(error)) == (fault, os.strerror(code))
