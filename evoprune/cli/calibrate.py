"""The command ``evoprune calibrate``: the costs of the engines on this machine, from which ``auto`` chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evoprune.cli.forms import form, parse
from evoprune.errors import InputError


@dataclass(frozen=True)
class CalibrateOptions:
    """Options of the command."""

    repeats: int = 3
    """Measurements of each engine at each point, in turns; the median counts."""
    out: Path | None = None
    """File for the costs. None: the one in the user's cache, which --engine auto reads."""


def calibrate(arguments: Sequence[str], prog: str | None) -> None:
    """Measures the engines on small networks, which takes a few minutes, and writes their costs.

    Args:
        arguments: The command line.
        prog: The command's name in ``--help``.

    Raises:
        InputError: A number of repeats that is not positive.
    """
    options = parse(form(CalibrateOptions), "Measure the engines on this machine, for --engine auto.", arguments, prog)
    from tqdm import tqdm

    from evoprune.engines import auto
    from evoprune.engines.calibrate import Measured, fit, measure, points, slowdowns
    from evoprune.runs import records
    from evoprune.training.threads import torch_threads

    if options.repeats < 1:
        raise InputError(f"repeats is {options.repeats}; expected a positive integer, such as 3.")
    found: list[Measured] = []
    with torch_threads(1):
        for problem, network, sparsity, k in tqdm(points(), unit="point"):
            found += measure(problem, network, sparsity, k, options.repeats)
    costs = fit(found)
    misses = slowdowns(found, costs)
    path = options.out or auto.user_costs()
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(path, {"cpu": costs, "features": list(auto.FEATURES)})
    print(f"auto takes the fastest engine at {sum(miss <= 1.1 for miss in misses)} of {len(misses)} points within 10 %")
    print(f"at worst it takes {max(misses):.2f} times as long; costs written to {path}")
