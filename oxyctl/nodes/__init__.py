"""What each kind of node is made of. A new kind is one file here and one line in `AnyNode`."""

from oxyctl.nodes.base import Node
from oxyctl.nodes.process import ProcessNode
from oxyctl.nodes.proxy import ProxyNode
from oxyctl.nodes.router import RouterNode
from oxyctl.nodes.upstream import UpstreamNode
from oxyctl.nodes.warp import WarpNode

AnyNode = ProxyNode | WarpNode | UpstreamNode | RouterNode | ProcessNode

__all__ = ["AnyNode", "Node", "ProcessNode", "ProxyNode", "RouterNode", "UpstreamNode", "WarpNode"]
