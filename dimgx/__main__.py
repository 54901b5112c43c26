"""`python -m dimgx`."""

from __future__ import annotations

import sys

from dimgx.cli import end_at_once, main

if __name__ == "__main__":
    end_at_once()
    sys.exit(main())
