"""A lab: from a YAML file to a running process tree on this machine, and back to nothing.

    model       what a lab file may say, and what makes no sense in it
    expand      `count:` and `defaults:` written out
    grow        sites written out: their LANs and hosts
    sites       what follows for each site: numbers, addresses inside its tunnel, MTU
    tunnels     the tunnels of sites as steps; wan: what proxy.yaml says of them
    abilities   which tunnels the kernel carries, found by trying
    addresses   who has which address, also where the file leaves it open
    routing     which way each node sends what is not for its own networks (ways, circles)
    overlaps    subnets that overlap, and whether somebody would have to tell them apart
    steps       what a plan is made of, as plain data
    plan        pure: Lab -> Plan
    state       the run directory: which labs there are, and where each keeps its files
    launch      `up`: start a supervisor, follow it, take down what was built when anything fails
    remains     what labs left that nobody took down, and what of it is ours to delete
    reap        `down`: end a lab, and delete what is provably its own
    isolation   the namespaces that make a process tree a lab
    supervisor  PID 1 of a lab: builds, starts, probes, reports, reaps
    build       executes the links of a plan
    devices     devices and rules that are no links
    files       files that only one node sees
    processes   the programs of a lab: started in their namespaces, logged, reaped
    output      what programs write: pumped into logs that never outgrow their bound
    links       impaired links: by the kernel, else by the relay
    relay       the process that impairs links in user space, kept alive
    probes      what 'ready' means (answers: of a program of the user's)
    status      what is told about a running lab; site_status: of the tunnels of its sites
    enter       `exec`: one more program inside a node
    everywhere  `exec` in many nodes at once
    shell       `shell`: the user's own, with a prompt that says where
    logs        `logs`: read back, merged by time, followed

Invariant: whatever a lab makes outside its run directory lives in namespaces that end with its supervisor.
"""
