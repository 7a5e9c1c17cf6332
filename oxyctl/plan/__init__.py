"""Turns a lab into the steps that create it, and compares two plans. Pure: no I/O, no clock.

steps           the parts of a plan, as plain data
make            a `Lab` to a `Plan`
draft           a plan under construction, to which planners add
nodes/          one planner for each kind of node; a new kind is one file here and one line in `PLANNERS`
site_tunnels    the tunnels of sites as devices, rules and entries of agents; site_onramps: their part of proxy.yaml
diff            what to remove, add or change to turn one plan into another
serving         which programs serve which nodes
trust           trusted certificates: the bundles of nodes, the lab's authority
hints           suggested commands for a running lab
"""
