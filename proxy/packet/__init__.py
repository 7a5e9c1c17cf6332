"""The packet plane: one packet in, one path out. No I/O, no clock."""
