"""The ends of sites' tunnels in user space, all of a lab in one process: `python -m oxyctl.agents.sites CONFIG.json`.

Each end has two sides, and moves packets from one to the other: a TUN device, GRE (a raw socket) or GUE (UDP). A site
router has a device and GRE or GUE; the edge has GRE, or a device that the kernel's GRE is routed into, and GUE.

config     the schema of CONFIG.json
side       what all sides have in common: counters, and how packets that are too big are handled
device     a side that is a TUN device
gre        sides over raw sockets, distinguished by outer peer and key, never by the inner packet
gue        sides over UDP, distinguished by their context
runs       datagrams of one size sent in one call (UDP_SEGMENT)
sockets    opens and configures all of these in the namespaces of nodes
unreachables   keeps a kernel with its own GRE from answering our packets with 'port unreachable'
prober     the health of a tunnel, as the site sees it
tunnel     one end: its sides and its prober, opened and closed together
loop       all of them in one epoll loop; reloads CONFIG.json on SIGHUP; serves the counters
"""
