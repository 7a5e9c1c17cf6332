"""Turns a lab into the steps that create it, and two plans into their difference. Pure: no I/O, no clock.

steps           what a plan is made of, as plain data
make            a `Lab` to a `Plan`
draft           a plan in the making: what planners add to
nodes/          one planner for each kind of node: one file and one line in `PLANNERS` for a new kind
site_tunnels    the tunnels of sites as devices, rules and entries of agents; site_onramps: what proxy.yaml says of them
diff            what must go, come or change so that one plan becomes another
serving         which programs serve which nodes
hints           what to try in a lab that is up
"""
