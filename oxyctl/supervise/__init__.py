"""The supervisor of a lab, its PID 1, and the run directory, which holds the lab's state.

state           the run directory: which labs exist, and where each keeps its files
supervisor      builds the lab, waits until it is ready, serves its socket, takes it down
lab             the state of the running lab, shared by all other modules
requests        the requests of the supervisor's socket; control: their answers
processes       programs: started in their namespaces, logged, reaped (program_output, shared_programs)
probes          readiness of each kind of node (program_probes: of a user's program)
node_lifecycle  stops, starts, kills and restarts nodes (backoff, recovery)
changes         changes a running lab into another plan (transition)
links           impairs links: by the kernel, or in user space (impairment_relay)
status          the status of a lab for `lab status`; site_status: of the tunnels of sites
trust           keeps bundles of trusted certificates up to date
"""
