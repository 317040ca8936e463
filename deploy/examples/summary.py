"""Print a summary of a run: the last values, the aggregates over the ranks, the files and how to view them.

Usage::

    python deploy/examples/summary.py runs/digits
"""

import csv
import sys
from pathlib import Path

AGGREGATES = ("mean", "std", "min", "max")


def newest_metrics(directory: Path) -> Path:
    """Return the last written metrics file in or below ``directory``, which may hold several runs."""
    found = sorted(directory.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        sys.exit(f"{directory} has no metrics.csv; has a run written to it?")
    return found[-1]


def read_columns(metrics: Path) -> dict[str, list[str]]:
    """Read the file's columns, each with the values of the rows that have one."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows if row[name]] for name in rows[0]} if rows else {}


def print_values(columns: dict[str, list[str]]) -> None:
    """Print one line for each metric: the primary rank's last value, and the last aggregates if any."""
    print(f"{'metric':<20}{'values':>8}{'last':>12}" + "".join(f"{name:>12}" for name in AGGREGATES))
    for name, values in columns.items():
        if name == "step" or name.rpartition("/")[2] in (*AGGREGATES, "count"):
            continue
        last = [values, *(columns.get(f"{name}/{aggregate}", []) for aggregate in AGGREGATES)]
        cells = "".join(f"{float(column[-1]):>12.5g}" if column else " " * 12 for column in last)
        print(f"{name:<20}{len(values):>8}{cells}")


def print_places(metrics: Path) -> None:
    """Print the path of each backend's output, and the command to view it."""
    directory = metrics.parent
    program = Path(sys.executable).parent
    places = [
        ("metrics", metrics, f"column -s, -t {metrics} | less -S"),
        ("config", directory / "config.json", f"less {directory / 'config.json'}"),
        (
            "mlflow",
            directory / "mlflow.db",
            f"{program / 'mlflow'} ui --backend-store-uri sqlite:///{directory / 'mlflow.db'}",
        ),
        *(
            ("wandb", run, f"{program / 'wandb'} leet {run}")
            for run in sorted((directory / "wandb").glob("*run-*"))
        ),
    ]
    for name, path, command in places:
        if path.exists():
            print(f"\n{name:<8} {path}\n         view: {command}", end="")
    print()


def main() -> None:
    """Print the summary of the directory that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: summary.py DIRECTORY")
    metrics = newest_metrics(Path(sys.argv[1]))
    print_values(read_columns(metrics))
    print_places(metrics)


if __name__ == "__main__":
    main()
