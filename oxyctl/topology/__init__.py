"""Reads and validates lab files. Pure but for reading the file; knows nothing about how a lab is built.

file            a lab file to a `Lab`
model           a lab: networks, nodes, checks
nodes/          what may be said of each kind of node: one file and one line in `AnyNode` for a new kind
checks/         what may be said of each kind of check: one file and one line in `AnyCheck` for a new kind
expand          `count:` and `defaults:` written out; expand_sites: the LANs and hosts of sites
validate        what makes no sense, with the place where it is written
addresses       which node has which address, also where the file leaves it open
links           what the file says of each link: MTU, impairment
routing         the routes of each node (routes, shortest_paths, routing_loops)
overlaps        subnets that overlap, and whether some node would have to tell them apart
sites           numbers, addresses, context and MTU of each site's tunnel; tenant_routes: routes that tenants state
schema          the JSON Schema of lab files
library         lab files by name
words, quantities   values that lab files have in common
"""
