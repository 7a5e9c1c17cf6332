"""Operations on a lab from outside, for users and tests: the work behind `oxyctl lab ...`.

up, down        bring a lab up, all of it or nothing; take it down
leftovers       what dead labs left behind, and what of it is provably theirs
kernel_tunnels  which tunnels this kernel has, found by trying
ask             a question to a running supervisor
enter           `exec`: one more program inside a node (enter_many: in many nodes; run_inside: behind pipes)
shell           `shell`: an interactive shell inside a node
logs            `logs`: read back, merged by time, followed
recorded_flows  where a proxy that is gone left its flow records
"""
