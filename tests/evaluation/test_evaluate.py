import math
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

import evoprune as ep
from evoprune.engines.module import ModulePopulation
from evoprune.engines.population import Engine
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.evaluation import FAILURE, NO_BETTER_THAN_CHANCE, OK
from evoprune.evaluation.job import KEPT, BriefTraining, Job, recall
from evoprune.problem.usercode import versions
from evoprune.training.measure import Measured
from evoprune.training.threads import torch_threads


class Explosive(nn.Sequential):
    """Raises where its first layer has fewer than ten survivors."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.count_nonzero(self[0].weight) < 10:
            raise ValueError("too thin")
        return super().forward(x)


def population(problem: ep.Problem, count: int, sparsity: float = 0.8) -> list[ep.Mask]:
    rng = np.random.default_rng(2)
    return [ep.random_mask(problem.shapes, sparsity, rng) for _ in range(count)]


def test_an_evaluation_depends_on_the_mask_alone(digits: ep.Problem, engine: str) -> None:
    masks = population(digits, 3)
    together = ep.Evaluator(digits, epochs=1, engine=engine).evaluate(masks)
    for mask, evaluation in zip(reversed(masks), reversed(together), strict=True):
        (alone,) = ep.Evaluator(digits, epochs=1, engine=engine).evaluate([mask])
        assert alone.terms == evaluation.terms
        assert alone.mask == evaluation.mask == mask.hash


def test_each_distinct_mask_is_evaluated_once(digits: ep.Problem) -> None:
    a, b = population(digits, 2)
    seen: list[str] = []
    evaluator = ep.Evaluator(digits, epochs=1)
    evaluator.evaluate([a, b, a], on_result=lambda evaluations: seen.extend(e.mask for e in evaluations))
    evaluator.evaluate([b], on_result=lambda evaluations: seen.extend(e.mask for e in evaluations))
    assert seen == [a.hash, b.hash]


def test_results_are_handed_over_before_they_are_used(digits: ep.Problem) -> None:
    def refuse(evaluations: list[ep.Evaluation]) -> None:
        raise OSError("disk full")

    evaluator = ep.Evaluator(digits, epochs=1)
    with pytest.raises(OSError, match="disk full"):
        evaluator.evaluate(population(digits, 1), on_result=refuse)
    assert not evaluator.known


def test_divergence_is_a_failure_with_its_reason() -> None:
    problem = ep.Problem(model="mlp", recipe=ep.Recipe(epochs=1, lr=1e9))
    evaluator = ep.Evaluator(problem, epochs=1)
    (mask,) = population(problem, 1)
    assert evaluator(mask) == (-math.inf,)
    evaluation = evaluator.known[mask.hash]
    assert (evaluation.status, math.isnan(evaluation.validation_accuracy)) == (FAILURE, True)
    assert "magnitude is nan" in evaluation.note


def test_what_a_mask_raises_fails_that_mask_alone(tensors: ep.Data) -> None:
    problem = ep.Problem(model=Explosive(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), data=tensors)
    good = ep.random_mask(problem.shapes, 0.1, np.random.default_rng(0))
    bad = ep.random_mask(problem.shapes, 0.9, np.random.default_rng(0))
    evaluations = evaluate_chunk(ep.Evaluator(problem, epochs=1).job, [good, bad, good])
    assert [e.status != FAILURE for e in evaluations] == [True, False, True]
    assert "ValueError: too thin" in evaluations[1].note


def test_worse_than_chance_is_marked(tensors: ep.Data) -> None:
    x, y = tensors.train
    noise = torch.randint(0, 3, y.shape, generator=torch.Generator().manual_seed(0))
    problem = ep.Problem(model=nn.Linear(6, 3), data=ep.Data(train=(x, noise)), recipe=ep.Recipe(lr=1, batch_size=4))
    (evaluation,) = ep.Evaluator(problem, epochs=2).evaluate(population(problem, 1, 0.0))
    assert evaluation.validation_loss > problem.chance_loss
    assert evaluation.status == NO_BETTER_THAN_CHANCE


def test_collapse_is_noted(digits: ep.Problem) -> None:
    layers = population(digits, 1)[0].layers
    layers["fc2.weight"][:] = False
    (evaluation,) = ep.Evaluator(digits, epochs=1).evaluate([ep.Mask.from_layers(layers)])
    assert "no survivors in fc2.weight" in evaluation.note
    assert "no path to 10 outputs" in evaluation.note
    assert evaluation.status in (OK, NO_BETTER_THAN_CHANCE)


def test_threads_are_restored(digits: ep.Problem) -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        ep.Evaluator(digits, epochs=1, threads=1).evaluate(population(digits, 1))
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_an_evaluator_pickles_without_its_records(digits: ep.Problem) -> None:
    (mask,) = population(digits, 1)
    toolbox = ep.make_toolbox(digits, sparsity=0.8, fitness_epochs=1)
    value = toolbox.evaluate(mask)
    content = pickle.dumps(toolbox.evaluate)
    assert len(content) < 4000  # half of it is the docstring that DEAP copies
    assert pickle.loads(content)(mask) == value


def payload(problem: ep.Problem, **changes: object) -> bytes:
    """Returns a job's payload with some of its parts changed."""
    return pickle.dumps(pickle.loads(ep.Evaluator(problem, epochs=1).job.payload) | changes)


def test_a_payload_that_makes_another_problem_is_refused(digits: ep.Problem) -> None:
    for part in digits.identify():
        other = payload(digits, identified=digits.identify() | {part: "0" * 64})
        with pytest.raises(ep.InputError, match=f"another hash than in the main process; these differ: {part}"):
            recall("run:hash", other)


def test_a_worker_with_other_versions_is_refused(digits: ep.Problem) -> None:
    other = payload(digits, versions=versions() | {"torch": "2.4.0"})
    with pytest.raises(ep.InputError, match=r"torch is [\d.]+, there 2\.4\.0"):
        recall("run:hash", other)


def test_a_problem_that_cannot_be_sent_is_said(tensors: ep.Data) -> None:
    lock = threading.Lock()

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with lock:
            return nn.functional.cross_entropy(outputs, targets)

    problem = ep.Problem(model=nn.Linear(6, 3), data=tensors, loss=loss, identity="with a lock")
    with pytest.raises(ep.InputError, match=r"cannot be sent to workers: cannot pickle '_thread\.lock' object"):
        _ = ep.Evaluator(problem, epochs=1).job.payload


def test_a_global_that_changes_gives_workers_another_job(tensors: ep.Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SLOPE", 0.1)
    job = ep.Evaluator(ep.Problem(model=nn.Linear(6, 3), data=tensors, loss=sloping), epochs=1).job
    key, payload = job.key, job.payload
    assert (job.key, job.payload) == (key, payload)
    monkeypatch.setitem(globals(), "SLOPE", 0.2)
    assert job.key != key
    assert job.payload != payload


def sloping(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(SLOPE * outputs, targets)  # type: ignore[name-defined]  # noqa: F821


def test_a_process_keeps_jobs_and_only_the_last(digits: ep.Problem) -> None:
    a, b = ep.Evaluator(digits, epochs=1).job, ep.Evaluator(digits, epochs=1).job
    assert a.key != b.key
    assert a.key.rpartition(":")[2] == b.key.rpartition(":")[2] == digits.hash
    assert recall(a.key, None) is None
    first = recall(a.key, a.payload)
    assert first is not None
    assert recall(a.key, None) is first
    for _ in range(KEPT):
        another = ep.Evaluator(digits, epochs=1).job
        recall(another.key, another.payload)
    assert recall(a.key, None) is None


def test_a_job_brings_its_own_terms_and_engine_whatever_a_worker_has_registered(digits: ep.Problem) -> None:
    class Mine(ModulePopulation):
        pass

    job = Job(digits, BriefTraining(1, 0, "mine"), {"mine": lambda trained, validation: validation.loss}, Engine(Mine, 1))
    there = Job.of(job.payload)
    assert there.identify() == job.identify()
    masks = population(digits, 2)
    here, found = evaluate_chunk(job, masks), evaluate_chunk(there, masks)
    assert there.engine.kind.__name__ == "Mine"
    assert [e.terms for e in here] == [e.terms for e in found]
    assert [e.terms["mine"] for e in found] == [e.validation_loss for e in found]


def test_a_fitness_is_given_by_name_or_itself(digits: ep.Problem) -> None:
    def mine(trained: object, validation: Measured) -> np.ndarray:
        return validation.accuracy

    masks = population(digits, 2)
    evaluator = ep.Evaluator(digits, fitness=[mine, "loss"], epochs=1)
    found = [evaluator.values(evaluation) for evaluation in evaluator.evaluate(masks)]
    assert [objective.name.rpartition(".")[2] for objective in evaluator.objectives] == ["mine", "loss"]
    assert found == [
        (evaluator.known[mask.hash].validation_accuracy, evaluator.known[mask.hash].terms["loss"]) for mask in masks
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "fitness_epochs is -1"),
        ({"epochs": 4}, "the recipe has 3 epochs"),
        ({"threads": 0}, "threads is 0"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"engine": "modul"}, "Did you mean 'module'"),
        ({"fitness": "magnitud"}, "Did you mean 'magnitude'"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": 1}, "Did you mean 'epochs'"),
    ],
)
def test_bad_values_are_refused(digits: ep.Problem, options: dict[str, object], message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.Evaluator(digits, **options)
