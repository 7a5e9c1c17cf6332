"""Policies: rules in phases, written in YAML, that decide about tunnels, flows, names, requests and channels."""
