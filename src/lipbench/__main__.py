"""`python -m lipbench` is the command `lipbench`."""

import sys

from lipbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
