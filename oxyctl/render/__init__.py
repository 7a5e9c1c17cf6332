"""The output of commands: tables that fit the terminal, CSV, and readable numbers."""
