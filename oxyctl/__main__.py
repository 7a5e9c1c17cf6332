"""`python -m oxyctl` is `oxyctl`."""

from oxyctl.cli import main

if __name__ == "__main__":
    main()
