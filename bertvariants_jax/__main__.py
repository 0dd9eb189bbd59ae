"""`python -m bertvariants_jax` is the command line."""

import sys

from bertvariants_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
