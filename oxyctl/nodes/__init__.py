"""What each kind of node is made of. A new kind is one file here and one line in `AnyNode`."""

from oxyctl.nodes.base import Node
from oxyctl.nodes.gre_site import GreSiteNode
from oxyctl.nodes.gue_site import GueSiteNode
from oxyctl.nodes.process import ProcessNode
from oxyctl.nodes.proxy import ProxyNode
from oxyctl.nodes.router import RouterNode
from oxyctl.nodes.site import SiteNode
from oxyctl.nodes.upstream import UpstreamNode
from oxyctl.nodes.warp import WarpNode

AnyNode = ProxyNode | WarpNode | UpstreamNode | RouterNode | ProcessNode | GreSiteNode | GueSiteNode

__all__ = [
    "AnyNode",
    "GreSiteNode",
    "GueSiteNode",
    "Node",
    "ProcessNode",
    "ProxyNode",
    "RouterNode",
    "SiteNode",
    "UpstreamNode",
    "WarpNode",
]
