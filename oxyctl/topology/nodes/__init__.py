"""The schema of each kind of node. A new kind is one file here and one line in `AnyNode`.

The file of the same name in `oxyctl.plan.nodes` plans how it is built.
"""

from oxyctl.topology.nodes.gre_site import GreSiteNode
from oxyctl.topology.nodes.gue_site import GueSiteNode
from oxyctl.topology.nodes.process import ProcessNode
from oxyctl.topology.nodes.proxy import ProxyNode
from oxyctl.topology.nodes.router import RouterNode
from oxyctl.topology.nodes.site import SiteNode
from oxyctl.topology.nodes.upstream import UpstreamNode
from oxyctl.topology.nodes.warp import WarpNode

AnyNode = ProxyNode | WarpNode | UpstreamNode | RouterNode | ProcessNode | GreSiteNode | GueSiteNode

__all__ = [
    "AnyNode",
    "GreSiteNode",
    "GueSiteNode",
    "ProcessNode",
    "ProxyNode",
    "RouterNode",
    "SiteNode",
    "UpstreamNode",
    "WarpNode",
]
