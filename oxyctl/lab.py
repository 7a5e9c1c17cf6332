"""Tells importers of the former `oxyctl.lab`, which was never public, where its modules are now."""

raise ImportError(
    "oxyctl.lab has moved: its modules are in oxyctl.topology, oxyctl.plan, oxyctl.build, oxyctl.supervise and "
    "oxyctl.operate, and none of them is a public interface. To use labs from Python, import oxyctl.testing"
)
