"""`python -m dimgx`."""

from __future__ import annotations

from dimgx.cli import main

if __name__ == "__main__":
    main()
