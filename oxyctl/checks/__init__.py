"""Runs the checks of a lab: `oxyctl lab check`. Their schema is in `oxyctl.topology.checks`.

session    a running lab as checks see it: traffic and programs inside nodes, records of proxies
probes     checks from inside a node
records    checks of flow records and metrics
links      steps that impair links, and checks of sites' tunnels
nodes      steps that stop, start and kill nodes
policies   steps that change policies
runner     order, repetition and concurrency of checks
evidence   log lines and flow records that may explain a failure
result     verdicts and results
junit      results as JUnit XML
"""

DEFAULT_JOBS = 8  # here, so that the command line can show it without importing the runner
