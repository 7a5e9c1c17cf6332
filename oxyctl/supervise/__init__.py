"""The supervisor of a lab, its PID 1; and the run directory, which holds the lab's state.

state           the run directory: which labs there are, and where each keeps its files
supervisor      builds the lab, waits until it is ready, serves its socket, ends it
lab             the running lab, as all the others here know it
questions       what a supervisor can be asked; control: the answers
processes       programs: started in their namespaces, logged, reaped (program_output, shared_programs)
probes          what 'ready' means for each kind of node (program_probes: for a user's own program)
node_lifecycle  nodes stopped, started, killed, restarted (backoff, recovery)
changes         a lab that becomes another plan (transition)
links           impaired links: by the kernel, else in user space (impairment_relay)
status          what `lab status` shows; site_status: the tunnels of sites
"""
