"""What `make demo` prints can be typed: it is what was run, quoted for a shell."""

from __future__ import annotations

import shlex

from examples import demo


def test_a_printed_command_is_the_one_that_ran(capfd):
    words = ["printf", "%s|", "%{http_code}, %{size} bytes\\n", "it's"]
    assert demo.run(*words) == 0
    blank, shown, printed = capfd.readouterr().out.split("\n")
    assert (blank, shlex.split(shown.removeprefix("$ "))) == ("", words)
    assert printed == "%{http_code}, %{size} bytes\\n|it's|"
