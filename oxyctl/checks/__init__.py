"""Runs the checks of a lab: `oxyctl lab check`. Their schema is in `oxyctl.topology.checks`.

session    a running lab as checks see it: traffic and programs inside nodes, what its proxies say
probes     the verdict on what is tried from inside a node
records    the verdict on flows and counters
links      links impaired between checks, and the verdict on the tunnels of sites
runner     which check when, how often, how many at once
evidence   what helps to understand a failure: log lines, flow records
result     what is told of each
junit      the same as JUnit XML
"""
