"""What runs inside client nodes, that of all of them in one process: `python -m oxyctl.agents CONFIG.json`.

config     what CONFIG.json says
client     one client: its TUN device, and its tunnel while there is one
pump       packets between the two, as flat as it gets
fleet      all clients in one epoll loop: dial, pump, dial again
slow       the same pump by way of two lines: a tunnel with an impairment
line       one direction of an impaired link: loss, rate, delay
sites/     a process of its own: ends of sites' tunnels in user space, GRE and GUE
impair     a process of its own: links between nodes and networks, where the kernel cannot impair them
"""
