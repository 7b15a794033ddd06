"""The full training of the masks that a search has chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from evoprune import seeds
from evoprune.errors import RunError, is_of_the_machine
from evoprune.masks.mask import Mask
from evoprune.runs.checkpoints import Content
from evoprune.search.session import Session
from evoprune.training.final import FinalTraining, Training, train_from_w0, train_fully
from evoprune.training.schedule import Schedule


@dataclass(frozen=True)
class Plan:
    """How chosen masks are trained.

    Attributes:
        restart: Train the mask that was found again, from W0 with another order of the batches.
        schedule: Makes the schedule by which the masks change while they are trained; None for no change.
        last: The epoch at whose end the schedule changes masks for the last time; 0 without a schedule.
        free_after: Epochs after which the engine may change, if it is ``auto``; see :class:`evoprune.training.final.Training`.
        chose: The masks were chosen among several.
    """

    restart: bool = False
    schedule: Callable[[], Schedule] | None = None
    last: int = 0
    free_after: int | None = None
    chose: bool = False


def train_chosen(session: Session, chosen: Mapping[str, Mask], plan: Plan) -> dict[str, FinalTraining]:
    """Trains masks fully, each distinct one once. A training that the journal has is read back.

    A control may diverge, and is recorded so.

    Args:
        session: The session.
        chosen: Masks by role.
        plan: How they are trained.

    Raises:
        RunError: The winner's training diverged, or the machine failed.
    """
    problem = session.problem
    epochs = problem.recipe.epochs + (plan.last if plan.restart else 0)
    trainings: dict[str, FinalTraining] = {}
    done: dict[str, FinalTraining] = {}
    with session.bar(epochs * len(chosen), "training", unit="epoch") as bar:

        def train(mask: Mask) -> Content:
            return _train(session, mask, plan, lambda: bar.update() and None).to_facts()

        for role, mask in chosen.items():
            bar.set_postfix_str(role)
            if mask.hash not in done:
                facts, tensors = session.journal.step(mask.hash, partial(train, mask))
                done[mask.hash] = FinalTraining.from_facts(facts, tensors, problem)
            trainings[role] = done[mask.hash]
            if role == "winner":
                _require_convergence(session, plan, mask, trainings[role])
            bar.update(len(trainings) * epochs - bar.n)
    return trainings


def _train(session: Session, mask: Mask, plan: Plan, advance: Callable[[], None]) -> FinalTraining:
    training = Training(
        engine=session.engine,
        seed=session.order,
        threads=session.threads,
        on_epoch=advance,
        schedule=plan.schedule,
        free_after=plan.free_after if session.execution.engine == "auto" else None,
    )
    try:
        if plan.restart:
            restart = seeds.integer(session.seed, "restart")
            epochs = plan.last if plan.schedule is not None else None
            return train_from_w0(session.problem, mask, replace(training, epochs=epochs), restart)
        return train_fully(session.problem, mask, training)
    except Exception as error:
        if not is_of_the_machine(error):
            raise
        raise RunError(
            f"the machine failed in the final training of mask {mask.hash[:12]}: {type(error).__name__}: {error}; the results "
            f"so far are on disk, if out= was given, and the same command resumes."
        ) from error


def _require_convergence(session: Session, plan: Plan, mask: Mask, training: FinalTraining) -> None:
    divergence = training.divergence()
    if not divergence:
        return
    kept = "Nothing is recorded; with out= the results so far are kept."
    path = session.journal.keep_mask(mask)
    if path is not None:
        kept = f"The results so far are kept in {session.journal.folder}, and the mask that was trained in {path}."
    raise RunError(
        f"the final training of the winner, mask {mask.hash[:12]}, diverged ({divergence}) with lr "
        f"{session.problem.recipe.lr:g}; lower lr{', or choose by the fitness loss' if plan.chose else ''}. {kept}"
    )
