"""Parses and builds packets and messages: headers, checksums, options. No I/O, no clock, no state."""
