"""The benchmark: ``python tests/bench [log] [ingest] [csv]``. Prints medians and ratios; asserts nothing.

Ratios within one run compare machines; absolute figures belong to the machine that they were taken on.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import csv_rows
import ingest
import log_cost

BENCHMARKS = {"log": log_cost.main, "ingest": ingest.main, "csv": csv_rows.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument(
        "which", nargs="*", choices=[*BENCHMARKS, []], help="which to run; all when none is named"
    )
    chosen = parser.parse_args().which or list(BENCHMARKS)
    print(f"# Python {platform.python_version()}, {platform.machine()}")
    for name in chosen:
        print(f"\n## {name}")
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
