"""``python -m curvkit_core`` is the whole command line."""

from __future__ import annotations

import sys

from curvkit_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
