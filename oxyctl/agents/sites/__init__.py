"""Ends of sites' tunnels in user space, all of a lab in one process: `python -m oxyctl.agents.sites CONFIG.json`.

Each end has two legs, and moves packets from one to the other: a TUN device, GRE (a raw socket) or GUE (UDP). A site
router has a device and GRE or GUE; the edge has GRE, or a device that the kernel's GRE is routed into, and GUE.

config     what CONFIG.json says
leg        what all legs have in common: counters, and what becomes of a packet that is too big
device     the leg that is a TUN device
gre        legs over raw sockets: told apart by outer peer and key, never by what is inside
gue        legs over UDP: told apart by their context
runs       packets of one size sent in one call (UDP_SEGMENT)
sockets    opening and configuring all of these, in the namespaces of nodes
refusals   keeping a kernel that knows GRE from telling peers that we do not
prober     the health of a tunnel, as the site sees it
tunnel     one end: its legs and its prober, opened and closed
loop       all of them in one epoll loop; CONFIG.json read again on SIGHUP; counters for whoever asks
"""
