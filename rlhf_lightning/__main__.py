"""`python -m rlhf_lightning`."""

import logging
import sys

# Before it is imported: on some CPUs it asks for a package that nothing here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from rlhf_lightning.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
