"""`python -m benchmarks.instructgpt --out DIR`: see README.md."""

from __future__ import annotations

import sys

from benchmarks.instructgpt.command import main

if __name__ == "__main__":
    sys.exit(main())
