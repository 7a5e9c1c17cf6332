"""Which packets belong together, and what became of them. No I/O, no clock."""
