"""Two proxies of one namespace have nothing in common that the kernel keeps for them."""

from __future__ import annotations

import pytest

from proxy.errors import ProxyError
from proxy.kernel.resource_locks import ResourceLocks
from proxy.settings import KernelOffRamp
from tests.netns import Namespace, needs_root

pytestmark = [pytest.mark.netns, needs_root]

FIRST = KernelOffRamp()
OTHER = KernelOffRamp(instance="b", mark=0x6F80_0000, first_table=0x6F80_0000, first_zone=0x7000)


def refused(own: KernelOffRamp) -> str:
    with pytest.raises(ProxyError) as error:
        ResourceLocks(own)
    return str(error.value).split("'kernel: ")[1].rstrip("'")


def test_what_is_in_use_is_named_and_free_again_afterwards():
    def meet() -> list[str]:
        first, other = ResourceLocks(FIRST), ResourceLocks(OTHER)
        change = {"instance": "b", "mark": FIRST.mark + 0x1_0000, "first_table": FIRST.first_table - 0x1_0000}
        said = [refused(FIRST), *(refused(replaced(name, value)) for name, value in change.items())]
        first.close()
        ResourceLocks(FIRST).close()
        other.close()
        return said

    def replaced(name: str, value: object) -> KernelOffRamp:
        others = {"instance": "c", "mark": 0x7F00_0000, "first_table": 0x7F00_0000, "first_zone": 1}
        return KernelOffRamp(**others | {name: value})  # type: ignore[arg-type]

    one, two = Namespace(), Namespace()
    try:
        everything = "{instance: ..., mark: ..., first_table: ..., first_zone: ...}"
        assert one.run(meet) == [everything, "{instance: ...}", "{mark: ...}", "{first_table: ...}"]
        held = one.run(ResourceLocks, FIRST)
        two.run(ResourceLocks, FIRST).close()  # another namespace
        held.close()
    finally:
        one.close()
        two.close()
