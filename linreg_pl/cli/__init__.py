"""The command line. Empty, for `--help` and `report` import neither torch nor numpy."""
