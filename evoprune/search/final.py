"""The full training of the masks that a search has chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from evoprune import seeds
from evoprune.errors import RunError, is_of_the_machine
from evoprune.evaluation.chunks import split
from evoprune.masks.mask import Mask
from evoprune.runs.checkpoints import Content
from evoprune.search.session import Session
from evoprune.training.final import FinalTraining, Training, train_from_w0, train_together
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
    """Trains masks fully, each distinct one once: as one population where that changes no bit, else one after another.

    A training that the journal has is read back. A control may diverge, and is recorded so.

    Args:
        session: The session.
        chosen: Masks by role.
        plan: How they are trained.

    Raises:
        RunError: The winner's training diverged, or the machine failed.
    """
    epochs = session.problem.recipe.epochs + (plan.last if plan.restart else 0)
    distinct = {_name(mask, plan): mask for mask in chosen.values()}
    done: dict[str, FinalTraining] = {}
    with session.bar(epochs * len(distinct), "training", unit="epoch") as bar:
        for group in split(list(distinct.values()), _most_at_once(session, plan)):
            roles = [role for role, mask in chosen.items() if mask in group]
            bar.set_postfix_str(", ".join(roles))
            done |= _read_or_train(session, group, plan, bar.update)
            if "winner" in roles:
                winner = chosen["winner"]
                _require_convergence(session, plan, winner, done[_name(winner, plan)])
            bar.update(len(done) * epochs - bar.n)
    return {role: done[_name(mask, plan)] for role, mask in chosen.items()}


def _name(mask: Mask, plan: Plan) -> str:
    """Returns what identifies the training of a mask in a run: its hash, and the state that it continues from."""
    return mask.hash if plan.restart or mask.snapshot is None else f"{mask.hash}-{mask.snapshot.digest}"


def _most_at_once(session: Session, plan: Plan) -> int:
    """Returns how many masks are trained as one population: a chunk, but one where company may change the last bits.

    A schedule may look at all individuals that it is given, and ``auto`` at their number.
    """
    if session.evaluating is None or plan.schedule is not None:
        return 1
    job = session.evaluator.job
    if job.brief.inherit and not plan.restart:
        return 1  # they continue after different numbers of epochs
    return job.chunk if job.engine.company_changes_no_bit(job.problem) else 1


def _read_or_train(
    session: Session, group: Sequence[Mask], plan: Plan, advance: Callable[[int], None]
) -> dict[str, FinalTraining]:
    """Returns the trainings of masks by their name. From the first that the journal lacks on, they are trained together."""
    trained: dict[str, Content] = {}
    done: dict[str, FinalTraining] = {}

    def train(masks: Sequence[Mask]) -> Content:
        name = _name(masks[0], plan)
        if name not in trained:
            trainings = _train(session, masks, plan, advance)
            trained.update({_name(m, plan): training.to_facts() for m, training in zip(masks, trainings, strict=True)})
        return trained.pop(name)

    for i, mask in enumerate(group):
        name = _name(mask, plan)
        facts, tensors = session.journal.step(name, partial(train, group[i:]))
        done[name] = FinalTraining.from_facts(facts, tensors, session.problem)
    return done


def _train(session: Session, masks: Sequence[Mask], plan: Plan, advance: Callable[[int], None]) -> list[FinalTraining]:
    """Trains masks as one population, and one after another if that fails: together they need more memory."""
    if len(masks) > 1:
        with suppress(Exception):
            return _train_together(session, masks, plan, advance)
        return [training for mask in masks for training in _train(session, [mask], plan, lambda count: None)]
    try:
        return _train_together(session, masks, plan, advance)
    except Exception as error:
        if not is_of_the_machine(error):
            raise
        raise RunError(
            f"the machine failed in the final training of mask {masks[0].hash[:12]}: {type(error).__name__}: {error}; the "
            f"results so far are on disk, if out= was given, and the same command resumes."
        ) from error


def _train_together(session: Session, masks: Sequence[Mask], plan: Plan, advance: Callable[[int], None]) -> list[FinalTraining]:
    training = Training(
        engine=session.engine,
        seed=session.order,
        threads=session.threads,
        on_epoch=partial(advance, len(masks)),
        schedule=plan.schedule,
        free_after=plan.free_after if session.execution.engine == "auto" else None,
    )
    if not plan.restart:
        snapshots = [mask.snapshot for mask in masks if mask.snapshot is not None]
        return train_together(session.problem, masks, replace(training, snapshots=snapshots))
    restart = seeds.integer(session.seed, "restart")
    if plan.schedule is None:
        return train_together(session.problem, masks, replace(training, seed=restart, free_after=None))
    return [train_from_w0(session.problem, mask, replace(training, epochs=plan.last), restart) for mask in masks]


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
