"""The program, for ``python -m vispco`` and ``torchrun -m vispco``."""

import sys

from vispco.cli import main

if __name__ == "__main__":
    sys.exit(main())
