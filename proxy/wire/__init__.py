"""Bytes to meaning and back: headers, checksums, options. No I/O, no clock, no state."""
