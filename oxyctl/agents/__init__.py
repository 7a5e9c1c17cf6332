"""The tunnel clients of a lab, all in one process: `python -m oxyctl.agents CONFIG.json`.

config     the schema of CONFIG.json
client     one client: its TUN device, and its tunnel to the proxy while it is connected
pump       the hot loop: packets between the two
fleet      all clients in one epoll loop: connect, pump, reconnect
impaired_tunnel   the same pump through two lines: a tunnel with an impairment
line       one direction of an impaired link: loss, rate, delay
sites/     a separate process: the ends of sites' tunnels in user space, GRE and GUE
impair     a separate process: impaired links between nodes and networks, where the kernel has no netem
"""
