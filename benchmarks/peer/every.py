"""All stages with their default options; `make benchmark`. Results go to benchmarks/peer/results/.

python -m benchmarks.peer.every [--repetitions N] [--device cuda] ... (options that all stages have)
"""

from __future__ import annotations

import sys

from benchmarks.peer import ppo, reward, sft
from benchmarks.peer.command import RESULTS


def main() -> None:
    """Run one stage after the other; every one writes its files before the next begins."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(__doc__)
        return
    ppo.main([*given, "--out", f"{RESULTS}/ppo.json"])
    reward.main([*given, "--out", f"{RESULTS}/reward.json"])
    sft.main([*given, "--out", f"{RESULTS}/sft.json"])
    sft.main([*given, "--full", "--mode", "unpacked", "--out", f"{RESULTS}/sft_full.json"])


if __name__ == "__main__":
    main()
