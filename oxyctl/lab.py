"""Says where the modules of `oxyctl.lab` are now: they were never public, and whoever imports one is told so."""

raise ImportError(
    "oxyctl.lab has moved: its modules are in oxyctl.topology, oxyctl.plan, oxyctl.build, oxyctl.supervise and "
    "oxyctl.operate, and none of them is a public interface. To use labs from Python, import oxyctl.testing"
)
