"""Draws the curves that ``main.py simulate --loop --json`` wrote, the mean over its runs.

    .venv/bin/python -m benchmarks.satisfaction curves-7.json [curves-8.json ...]

The figures are in ``docs/simulator.md``.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.plot import line_chart, write_chart

CHART = Path("docs/img/satisfaction.svg")

Curves = Mapping[str, Sequence[float]]


def mean_curves(files: Sequence[Path]) -> Curves:
    """True satisfaction by round of every arm, each run counting alike."""
    runs = [json.loads(path.read_text(encoding="utf-8"))["arms"] for path in files]
    return {name: np.mean([run[name]["satisfaction"] for run in runs], axis=0).tolist() for name in runs[0]}


def chart(curves: Curves) -> str:
    points = {name: [(float(n), value) for n, value in enumerate(curve, 1)] for name, curve in curves.items()}
    return line_chart("True satisfaction with recommended lists", "round", "mean true affinity, 0 to 1", points)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--chart", type=Path, default=CHART)
    asked = parser.parse_args(arguments)
    curves = mean_curves(asked.files)
    write_chart(asked.chart, chart(curves))
    for name, curve in curves.items():
        print(f"{name}: {' '.join(f'{value:.3f}' for value in curve)}")


if __name__ == "__main__":
    main()
