"""What commands print: tables that fit, CSV, and numbers a person can read."""
