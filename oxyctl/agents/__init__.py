"""What runs inside client nodes, that of all of them in one process: `python -m oxyctl.agents CONFIG.json`.

config     what CONFIG.json says
client     one client: its TUN device, and its tunnel while there is one
pump       packets between the two, as flat as it gets
fleet      all clients in one epoll loop: dial, pump, dial again
"""
