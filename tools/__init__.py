"""Programs for work on the project; only tests import them."""
