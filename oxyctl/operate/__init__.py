"""Operations on a lab from outside, for users and tests: what `oxyctl lab ...` does.

up, down        bring a lab up, completely or not at all; take it down
leftovers       finds and deletes files that dead labs have left behind
kernel_tunnels  which tunnels this kernel supports, determined by creating them
ask             requests to a running supervisor
enter           `exec`: a program inside a node (enter_many: in many nodes; run_inside: behind pipes)
shell           `shell`: an interactive shell inside a node
logs            `logs`: merged by time, optionally followed
recorded_flows  flow records of a proxy that is not running
"""
