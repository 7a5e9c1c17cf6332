"""Policies without a proxy: reads and tests files, compares them, and replays recorded flows against them."""
