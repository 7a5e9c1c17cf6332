"""A lab: from a YAML file to a running process tree on this machine, and back to nothing.

    model       what a lab file may say, and what makes no sense in it
    addresses   who has which address, also where the file leaves it open
    steps       what a plan is made of, as plain data
    plan        pure: Lab -> Plan
    state       the run directory: which labs there are, and where each keeps its files
    launch      `up`: start a supervisor, follow it, take down what was built when anything fails
    reap        `down`: end a lab, and delete what is provably its own
    isolation   the namespaces that make a process tree a lab
    supervisor  PID 1 of a lab: builds, starts, probes, reports, reaps
    build       executes the links of a plan
    processes   the programs of a lab: started in their namespaces, logged, reaped
    probes      what 'ready' means
    status      what is told about a running lab
    enter       `exec`: one more program inside a node

Invariant: whatever a lab makes outside its run directory lives in namespaces that end with its supervisor.
"""
