"""The combination: k-starts to a first sparsity, then dissipating gradients to the final one."""

from __future__ import annotations

import os

from evoprune.errors import InputError, look_up
from evoprune.problem.problem import Problem
from evoprune.runs.result import Result
from evoprune.search.kstarts import search_starts
from evoprune.search.session import Plan, Where
from evoprune.training.dissipation import Dissipation
from evoprune.workers.base import Workers

SELECT = ("start", "end")


def combine(
    problem: Problem,
    *,
    k: int = 2,
    first_sparsity: float = 0.5,
    sparsity: float = 0.9,
    fitness: str = "combined",
    layer_densities: str = "varied",
    fitness_epochs: int = 1,
    dissipate_epochs: int = 8,
    movement: str = "absolute",
    scope: str = "global",
    select: str = "start",
    restart: bool = False,
    controls: bool = True,
    seed: int | None = None,
    engine: str = "auto",
    workers: str | Workers = "auto",
    evaluation_timeout: float | None = None,
    retry_failed: bool = False,
    threads: int = 1,
    chunk_size: int | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """k-starts to a first sparsity, and on to the final one by dissipating gradients (arXiv:2209.02201).

    ::

        masks = k random masks of the first sparsity
        fitness = briefly train each masked network from W0
        winner = the fittest mask
        go on training the winner; at the end of each of the next epochs, remove the weights that moved least

    With ``select="end"`` the masks dissipate during the brief training already, and the fittest of what is left wins.

    Args:
        problem: The problem; its recipe's epochs include the brief training and the dissipating.
        k: Number of starts.
        first_sparsity: Sparsity of the starts.
        sparsity: Sparsity at the end.
        fitness: See :data:`evoprune.evaluation.terms.FITNESS`.
        layer_densities: Of the starts; see :func:`evoprune.masks.random.layer_survivors`.
        fitness_epochs: Epochs of the brief training; 0 judges the untrained masked networks, by loss, accuracy or magnitude.
        dissipate_epochs: Number of removals. The first is at the end of the brief training's last epoch
            (``select="start"``), or of the first epoch (``"end"``).
        movement: See :class:`evoprune.training.dissipation.Dissipation`.
        scope: Likewise.
        select: ``start``: choose before anything dissipates; ``end``: choose among the masks that have dissipated.
        restart: Train what is left from W0 for all epochs with another order of the batches, for comparison.
        controls: Do the same with a random one of the starts, and with the one of the least validation loss.
        seed: See :func:`k_starts`; so are the arguments that follow.
        engine: As above.
        workers: As above.
        evaluation_timeout: As above.
        retry_failed: As above.
        threads: As above.
        chunk_size: As above.
        out: As above.
        force: As above.
        progress: As above.

    Returns:
        The winner, its trained network, the controls and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation failed, or the winner's final training diverged.
    """
    look_up("select", select, dict.fromkeys(SELECT, True))
    if select == "end" and fitness_epochs == 0:
        raise InputError("select is 'end' with fitness_epochs 0, in which nothing dissipates; expected at least 1.")
    first = max(1, fitness_epochs) if select == "start" else 1
    dissipation = Dissipation(dissipate_epochs, sparsity, None, movement, scope, first)
    dissipation.require(problem, first_sparsity)
    search = {
        "sparsity": first_sparsity, "layer_densities": layer_densities, "fitness": fitness, "fitness_epochs": fitness_epochs,
        "seed": seed, "engine": engine, "chunk_size": chunk_size, "dissipation": dissipation if select == "end" else None,
    }  # fmt: skip
    where = Where(workers, threads, out, force, progress, evaluation_timeout, retry_failed)
    # what repeats the brief training keeps its engine, bit for bit
    plan = Plan("combine", k, restart, controls, dissipation, fitness_epochs if engine == "auto" else None)
    return search_starts(problem, plan, search, where)
