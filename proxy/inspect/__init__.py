"""Inspection of sessions: terminates TLS, parses what is inside, applies policy, and forwards it."""
