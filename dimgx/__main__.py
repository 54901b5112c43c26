"""`python -m dimgx`."""

from __future__ import annotations

import sys

from dimgx.cli import main

if __name__ == "__main__":
    sys.exit(main())
