"""The searches: k-starts, dissipating gradients, their combination; and the training of a baseline's, or of any, mask."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from evoprune import baselines, seeds
from evoprune.baselines import BASELINES
from evoprune.callbacks import Callback
from evoprune.dissipation import Dissipation
from evoprune.errors import InputError, look_up
from evoprune.evaluate import Workers
from evoprune.evolution import Evolution
from evoprune.initialize import survivors_of
from evoprune.mask import Mask
from evoprune.problem import Problem
from evoprune.result import Result
from evoprune.search import Found, Plan, Where, search_starts, train_found
from evoprune.search_evolution import search_generations

SELECT = ("start", "end")


def k_starts(
    problem: Problem,
    *,
    k: int = 16,
    sparsity: float = 0.9,
    fitness: str = "combined",
    layer_densities: str = "varied",
    fitness_epochs: int = 2,
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
    """Trains k random sparse networks briefly from W0, and the fittest fully (arXiv:2209.02201).

    Two controls are trained in the same way: a random one of the k, and the one of the least validation loss::

        masks = k random masks
        fitness = briefly train each masked network from W0, for the first epochs of the recipe
        winner = the fittest mask
        go on training the winner for the rest of the recipe's epochs, and each control

    Brief training is deterministic, so "go on" is reached by replaying it.

    Args:
        problem: The problem; its recipe's epochs include the brief training.
        k: Number of starts.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        fitness: See :data:`evoprune.fitness.FITNESS`.
        layer_densities: See :func:`evoprune.initialize.layer_survivors`.
        fitness_epochs: Epochs of the brief training; 0 judges the untrained masked networks, by loss, accuracy or magnitude.
        restart: Train winner and controls from W0 for all epochs with another order of the batches, for comparison.
        controls: Train the two controls.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.ENGINES`; ``auto`` chooses by measured costs. A resumed run keeps its own.
        workers: See :func:`evoprune.parallel.choose_workers`.
        evaluation_timeout: Likewise.
        retry_failed: Go back to before the first mask that the machine failed, by a lack of memory or the like, and evaluate it
            again; else it keeps the worst fitness, which the run has used.
        threads: Threads that torch uses in every process.
        chunk_size: Masks that are evaluated together where the engine takes several at a time. None: a quarter of the k, at
            most 8, so that four processes find work.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error.

    Returns:
        The winner, its trained network, the controls and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation failed, or the winner's final training diverged.
    """
    search = {
        "sparsity": sparsity, "layer_densities": layer_densities, "fitness": fitness, "fitness_epochs": fitness_epochs,
        "seed": seed, "engine": engine, "chunk_size": chunk_size,
    }  # fmt: skip
    where = Where(workers, threads, out, force, progress, evaluation_timeout, retry_failed)
    return search_starts(problem, Plan("kstarts", k, restart, controls), search, where)


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
        fitness: See :data:`evoprune.fitness.FITNESS`.
        layer_densities: Of the starts; see :func:`evoprune.initialize.layer_survivors`.
        fitness_epochs: Epochs of the brief training; 0 judges the untrained masked networks, by loss, accuracy or magnitude.
        dissipate_epochs: Number of removals. The first is at the end of the brief training's last epoch
            (``select="start"``), or of the first epoch (``"end"``).
        movement: See :class:`evoprune.dissipation.Dissipation`.
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


def evolve(
    problem: Problem,
    evolution: Evolution | None = None,
    *,
    sparsity: float = 0.9,
    fitness: str | Sequence[str] = "loss",
    layer_densities: str = "varied",
    fitness_epochs: int = 1,
    restart: bool = False,
    controls: bool = True,
    trained_bests: int = 8,
    callbacks: Sequence[Callback] = (),
    seed: int | None = None,
    engine: str = "auto",
    workers: str | Workers = "auto",
    evaluation_timeout: float | None = None,
    retry_failed: bool = False,
    threads: int = 1,
    chunk_size: int = 8,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Evolves sparse masks over generations, and trains the fittest fully; k-starts is its first generation.

    ::

        population = random masks, or what other methods found
        fitness = briefly train each masked network from W0
        for each generation:
            children = mutants of masks of the population, and crossovers of pairs
            fitness of the children
            population = the fittest k of both
        go on training the fittest mask of all

    Every mask keeps its number of survivors, unless the mutation ``sparsity`` is among the operators. After each generation
    there is a checkpoint, and every evaluation is on disk before it is used. A mask is evaluated once.

    Args:
        problem: The problem; its recipe's epochs include the brief training.
        evolution: Operators, selection, first generation, and when to stop; None takes the defaults.
        sparsity: Fraction of the prunable weights to remove, in [0, 1).
        fitness: See :data:`evoprune.fitness.FITNESS`. Several names are as many objectives, all maximised (NSGA-II, Deb et al.
            2002); then the fittest is the one of the Pareto front with the largest first objective.
        layer_densities: Of random masks; see :func:`evoprune.initialize.layer_survivors`.
        fitness_epochs: Epochs of the brief training; 0 judges the untrained masked networks, by loss, accuracy or magnitude.
        restart: Train the fittest mask and its control from W0 with another order of the batches, for comparison.
        controls: Also train the fittest mask of the first generation, which k-starts would have chosen; where sparsity rises,
            of the first one at the asked sparsity.
        trained_bests: So many of the generations' fittest masks, evenly spread, are trained fully, too, and recorded in
            ``bests.csv``, to see what fitness is worth.
        callbacks: Called after each generation; see :class:`evoprune.callbacks.Callback`.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.ENGINES`; ``auto`` chooses by measured costs. A resumed run keeps its own.
        workers: See :func:`evoprune.parallel.choose_workers`.
        evaluation_timeout: Likewise.
        retry_failed: Go back to before the first mask that the machine failed, by a lack of memory or the like, and evaluate it
            again; else it keeps the worst fitness, which the run has used.
        threads: Threads that torch uses in every process.
        chunk_size: Masks that are evaluated together where the engine takes several at a time.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error, and a line a generation.

    Returns:
        The fittest mask, its trained network, hall of fame, last population and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: Every evaluation of the first generation failed, or the winner's final training diverged.
    """
    search = {
        "sparsity": sparsity, "layer_densities": layer_densities, "fitness": fitness, "fitness_epochs": fitness_epochs,
        "seed": seed, "engine": engine, "chunk_size": chunk_size,
    }  # fmt: skip
    evolution = Evolution() if evolution is None else evolution
    where = Where(workers, threads, out, force, progress, evaluation_timeout, retry_failed)
    plan = Plan("evolve", evolution.k, restart, controls)
    return search_generations(problem, evolution, plan, search, trained_bests, callbacks, where)


def dissipate(
    problem: Problem,
    *,
    sparsity: float | None = None,
    fraction: float | None = None,
    dissipate_epochs: int = 8,
    movement: str = "absolute",
    scope: str = "global",
    restart: bool = False,
    seed: int | None = None,
    engine: str = "auto",
    threads: int = 1,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Trains the dense network, and removes in the first epochs the weights that barely moved (arXiv:2209.02201).

    ::

        for each epoch of the recipe:
            train the network
            in the first epochs: remove the survivors that moved least, for good

    Args:
        problem: The problem; its recipe's epochs include the dissipating.
        sparsity: Sparsity to reach; each epoch's threshold is found for it. None: 0.9, where no fraction is given.
        fraction: Remove what moved by at most this fraction; the sparsity emerges.
        dissipate_epochs: Number of removals: one at the end of each of so many first epochs.
        movement: See :class:`evoprune.dissipation.Dissipation`; its ``random`` is the control.
        scope: Likewise.
        restart: Train what is left from W0 for all epochs with another order of the batches, for comparison.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.ENGINES`; ``auto`` chooses by measured costs, and again as the network gets sparser.
        threads: Threads that torch uses.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error.

    Returns:
        The mask, its trained network and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: The final training diverged.
    """
    sparsity = 0.9 if sparsity is None and fraction is None else sparsity
    dissipation = Dissipation(dissipate_epochs, sparsity, fraction, movement, scope)
    dissipation.require(problem, 0.0)
    settings = {**asdict(dissipation), "restart": restart}
    method = "random-dropout" if movement == "random" else "dissipate"
    found = Found(baselines.dense(problem))
    plan = Plan(method, 1, restart, False, dissipation, 0 if engine == "auto" else None)
    where = Where("serial", threads, out, force, progress)
    return train_found(problem, plan, lambda: found, settings, seed, engine, where)


def baseline(
    problem: Problem,
    method: str,
    *,
    sparsity: float = 0.9,
    seed: int | None = None,
    engine: str = "auto",
    threads: int = 1,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Finds the mask of a baseline, and trains it fully from W0.

    Args:
        problem: The problem.
        method: Name of the baseline, see :data:`evoprune.baselines.BASELINES`.
        sparsity: Fraction of the prunable weights to remove, in [0, 1); ``dense`` removes none.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.ENGINES`; ``auto`` chooses by measured costs.
        threads: Threads that torch uses.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error.

    Returns:
        The mask, its trained network and the records.

    Raises:
        InputError: A value out of range, an unknown name, or an ``out`` that holds another run or cannot be written.
        RunError: The final training diverged.
    """
    if isinstance(method, Mask):
        raise InputError("method is a mask; expected the name of a baseline. To train a mask: ep.train_mask(problem, mask).")
    known = look_up("baseline", method, BASELINES)
    seed = problem.seed if seed is None else seeds.check_seed(seed)
    survivors_of(sparsity, problem.prunable_count)  # refuses bad values now

    def find() -> Found:
        mask = known.prune(problem, sparsity=sparsity, seed=seed)
        epochs = problem.recipe.epochs
        return Found(mask, known.search_epochs(problem, epochs), known.search_cost(problem, sparsity, epochs))

    settings = {"sparsity": float(sparsity)}
    where = Where("serial", threads, out, force, progress)
    return train_found(problem, Plan(method, 1), find, settings, seed, engine, where)


def train_mask(
    problem: Problem,
    mask: Mask | str | os.PathLike[str],
    *,
    seed: int | None = None,
    engine: str = "auto",
    threads: int = 1,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: bool = False,
) -> Result:
    """Trains a mask that was found elsewhere, fully from W0, with records and all.

    Args:
        problem: The problem.
        mask: The mask, of any number of survivors, or the path of one that :meth:`evoprune.mask.Mask.save` wrote, or of a run
            folder. Of arrays of zeros and ones it is ``ep.Mask.from_layers({"fc1.weight": array, ...})``.
        seed: Seed of the run; None takes the problem's.
        engine: See :data:`evoprune.engines.ENGINES`; ``auto`` chooses by measured costs.
        threads: Threads that torch uses.
        out: Run folder to record in and, where it holds this run already, to resume from; None records nothing.
        force: Start over where ``out`` holds a run with other settings.
        progress: Show progress bars on standard error.

    Returns:
        The mask, its trained network and the records; what it took to find the mask is not known, and not counted.

    Raises:
        InputError: The mask does not fit the network, or keeps nothing; or a value is out of range, or ``out`` cannot be used.
        RunError: The training diverged.
    """
    if not isinstance(mask, Mask):
        if not isinstance(mask, (str, os.PathLike)):
            raise InputError(
                f"mask is {type(mask).__name__}; expected ep.Mask, such as ep.Mask.from_layers({{'fc1.weight': array, ...}}), "
                f"or the path of one."
            )
        path = Path(mask).expanduser().absolute()
        mask = Mask.load(path / "mask.npz" if path.is_dir() else path)
    mask.require(problem.shapes)
    if not mask.survivors:
        raise InputError("the mask keeps no weights; expected at least one.")
    found = Found(Mask(mask.bits, mask.shapes))
    settings = {"of": mask.hash, "sparsity": mask.sparsity}
    where = Where("serial", threads, out, force, progress)
    return train_found(problem, Plan("train", 1), lambda: found, settings, seed, engine, where)
