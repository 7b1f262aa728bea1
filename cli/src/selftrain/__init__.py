"""The command line of selftrain. The work itself is in `selftrain_core`."""

__version__ = "0.1.0"
