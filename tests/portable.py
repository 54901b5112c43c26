"""Takes away what only some systems have, so that the tests run on what is left.

`DIMGX_TEST_PORTABLE=1 python -m pytest` does so in the tests' process, `python -m tests.portable`
is the command without it.
"""

from __future__ import annotations

import os
import sys

IS_WANTED = os.environ.get("DIMGX_TEST_PORTABLE") == "1"


def take_away() -> None:
    from dimgx import system

    system.FEATURES = frozenset()


if __name__ == "__main__":
    take_away()
    from dimgx.cli import main

    sys.exit(main())
