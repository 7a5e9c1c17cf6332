"""Flows: which packets belong together, and the outcome. No I/O, no clock."""
