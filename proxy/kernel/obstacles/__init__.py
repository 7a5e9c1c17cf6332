"""Obstacles to the kernel off-ramp on this machine: facts, and conclusions from them.

survey      reads facts from the kernel and its tools; changes nothing
judge       from facts to obstacles, each with its fix. Pure
firewall    whether other programs' chains would drop our packets. Pure
probes      kernel features that the off-ramp needs, found by trying them
"""
