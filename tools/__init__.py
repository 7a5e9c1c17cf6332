"""Programs for working on the project; nothing of it imports them but tests."""
