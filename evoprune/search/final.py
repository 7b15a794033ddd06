"""The full training of the masks that a search has chosen."""

from __future__ import annotations

from collections.abc import Mapping

from tqdm import tqdm

from evoprune import seeds
from evoprune.errors import RunError, is_of_the_machine
from evoprune.masks.mask import Mask
from evoprune.problem.problem import Problem
from evoprune.runs.run import Run
from evoprune.search.session import Plan
from evoprune.training.final import FinalTraining, Training, train_from_w0, train_fully


def train_chosen(
    problem: Problem,
    chosen: Mapping[str, Mask],
    plan: Plan,
    how: tuple[str, int, int],
    seed: int,
    run: Run | None,
    progress: bool,
) -> dict[str, FinalTraining]:
    """Trains masks fully, each distinct one once; a training that the run folder has is read back.

    A control may diverge, and is recorded so.

    Args:
        problem: The problem.
        chosen: Masks by role.
        plan: Whether they dissipate, and are trained again from W0.
        how: Engine, threads, and the seed of the batches.
        seed: The run's seed.
        run: The run; None records nothing.
        progress: Show a progress bar.

    Raises:
        RunError: The winner's training diverged.
    """
    engine, threads, order = how
    restarted = plan.restart and plan.dissipation is not None
    epochs = problem.recipe.epochs + (plan.dissipation.last if restarted and plan.dissipation else 0)
    done: dict[str, FinalTraining] = {}
    trainings = {}
    with tqdm(total=epochs * len(chosen), desc="training", unit="epoch", disable=not progress) as bar:

        def advance() -> None:
            bar.update()

        schedule, last = (None, None) if plan.dissipation is None else (plan.dissipation.start, plan.dissipation.last)
        training = Training(engine, order, threads, advance, schedule, last if plan.restart else None, plan.free_after)

        def train_mask(mask: Mask) -> FinalTraining:
            try:
                if plan.restart:
                    return train_from_w0(problem, mask, training, seeds.integer(seed, "restart"))
                return train_fully(problem, mask, training)
            except Exception as error:
                if not is_of_the_machine(error):
                    raise
                raise RunError(
                    f"the machine failed in the final training of mask {mask.hash[:12]}: {type(error).__name__}: {error}; what "
                    f"was found before is on disk, where out= was given, and the same command resumes."
                ) from error

        for role, mask in chosen.items():
            bar.set_postfix_str(role)
            if mask.hash not in done and run is None:
                done[mask.hash] = train_mask(mask)
            elif mask.hash not in done and run is not None:
                facts, tensors = run.step(mask.hash, lambda mask=mask: train_mask(mask).to_facts())  # type: ignore[misc]
                done[mask.hash] = FinalTraining.from_facts(facts, tensors, problem)
            trainings[role] = done[mask.hash]
            if role == "winner":
                _require_convergence(problem, plan, mask, trainings[role], run)
            bar.update((len(trainings) * epochs) - bar.n)
    return trainings


def _require_convergence(problem: Problem, plan: Plan, mask: Mask, training: FinalTraining, run: Run | None) -> None:
    divergence = training.divergence()
    if not divergence:
        return
    kept = "Nothing is recorded; with out= what is found before is kept."
    if run is not None:
        path = run.checkpoint / f"{mask.hash}.npz"
        mask.save(path)
        kept = f"What was found before is kept in {run.folder}, and the mask that was trained in {path}."
    raise RunError(
        f"the final training of the winner, mask {mask.hash[:12]}, diverged ({divergence}) with lr {problem.recipe.lr:g}; "
        f"lower lr{', or choose by the fitness loss' if plan.k > 1 else ''}. {kept}"
    )
