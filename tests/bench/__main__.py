"""The benchmark: ``python tests/bench [log] [ingest] [csv] [tree]``.

It prints medians and ratios, and asserts nothing.

Ratios within one run compare machines; absolute figures belong to the machine that they were taken on.
"""

from __future__ import annotations

import argparse
import platform

import csv_rows
import ingest
import log_cost
import tree

BENCHMARKS = {"log": log_cost.main, "ingest": ingest.main, "csv": csv_rows.main, "tree": tree.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument(
        "which", nargs="*", choices=[*BENCHMARKS, []], help="which to run; all when none is named"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="how much of the work to do; 0.01 only tries it out"
    )
    arguments = parser.parse_args()
    chosen = arguments.which or list(BENCHMARKS)
    print(f"# Python {platform.python_version()}, {platform.machine()}")
    for name in chosen:
        print(f"\n## {name}")
        BENCHMARKS[name](arguments.scale)


if __name__ == "__main__":
    main()
