"""Reads and validates lab files. Pure except for reading the file; knows nothing about how a lab is built.

file            a lab file to a `Lab`
model           a lab: networks, nodes, checks
nodes/          the keys of each kind of node; a new kind is one file here and one line in `AnyNode`
checks/         the keys of each kind of check; a new kind is one file here and one line in `AnyCheck`
expand          expands `count:` and `defaults:`; expand_sites: the LANs and hosts of sites
validate        errors that types do not catch, with their positions
addresses       the addresses of each node, given in the file or chosen
links           the settings of each link: MTU, impairment
routing         the routes of each node (routes, shortest_paths, routing_loops)
overlaps        subnets that overlap, and whether any node has routes to both
sites           numbers, addresses, context and MTU of each site's tunnel; tenant_routes: routes of tenants
schema          the JSON Schema of lab files
library         finds lab files by name
choices, quantities values that all parts of lab files share
"""
