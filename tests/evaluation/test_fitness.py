import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tables import read_table

import evoprune as ep
from evoprune.engines.module import ModulePopulation
from evoprune.evaluation.evaluation import FAILURE
from evoprune.evaluation.terms import BUILT_IN_TERMS, FITNESS, TERMS, FitnessFunction, Outcome, Term
from evoprune.training.loop import train
from evoprune.training.threads import torch_threads
from evoprune.workers.base import attempt, pack
from evoprune.workers.wire import evaluations_of, pack_masks, work


def test_terms_by_hand(digits: ep.Problem) -> None:
    evaluator = ep.Evaluator(digits, epochs=1)
    mask = ep.random_mask(digits.shapes, 0.8, np.random.default_rng(0))
    (value,) = evaluator(mask)
    evaluation = evaluator.known[mask.hash]
    population = ModulePopulation(digits, [mask])
    with torch_threads(1):
        train(population, digits, 1, evaluator.brief.seed)
    state = population.state(0)
    expected = sum(float(state[name].double().abs().sum()) for name in digits.shapes)
    assert value == evaluation.terms["magnitude"] == pytest.approx(expected, rel=1e-12)
    assert evaluation.terms["loss"] == -evaluation.validation_loss


def test_combined_divides_by_the_means_of_the_initial_population() -> None:
    population = [{"magnitude": 2.0, "gradient": 10.0}, {"magnitude": 4.0, "gradient": 30.0}]
    combined = FITNESS["combined"]
    divisors = combined.calibrate(population)
    assert divisors == {"magnitude": 3.0, "gradient": 20.0}
    assert combined.value({"magnitude": 6.0, "gradient": 10.0}, divisors) == 2.5


def test_negative_terms_stay_larger_is_fitter() -> None:
    both = FitnessFunction("both", ("magnitude", "loss"))
    divisors = both.calibrate([{"magnitude": 1.0, "loss": -1.0}, {"magnitude": 1.0, "loss": -3.0}])
    assert divisors == {"magnitude": 1.0, "loss": 2.0}
    assert both.value({"magnitude": 1.0, "loss": -1.0}, divisors) > both.value({"magnitude": 1.0, "loss": -3.0}, divisors)


def test_a_term_of_mean_zero_divides_by_one() -> None:
    assert FITNESS["combined"].calibrate([{"magnitude": 0.0, "gradient": 1.0}])["magnitude"] == 1.0


def test_combined_without_a_population_is_refused(digits: ep.Problem) -> None:
    mask = ep.random_mask(digits.shapes, 0.8, np.random.default_rng(0))
    with pytest.raises(ep.InputError, match=r"toolbox\.map"):
        ep.Evaluator(digits, fitness="combined", epochs=1)(mask)


def test_every_fitness_ranks_a_population(digits: ep.Problem, fitness: str, engine: str) -> None:
    toolbox = ep.make_toolbox(digits, fitness=fitness, fitness_epochs=1, engine=engine)
    values = toolbox.map(toolbox.evaluate, toolbox.population(n=3))
    assert len({value for (value,) in values}) == 3
    assert np.isfinite(values).all()


def test_a_fitness_of_the_users_own(digits: ep.Problem, registering: None) -> None:
    ep.register_fitness("mine", lambda trained, validation: validation.accuracy)
    ep.register_fitness("both", ["mine", "magnitude"])
    toolbox = ep.make_toolbox(digits, fitness="both", fitness_epochs=1)
    masks = toolbox.population(n=3)
    values = np.array(toolbox.map(toolbox.evaluate, masks))[:, 0]
    evaluations = [toolbox.evaluate.func.known[mask.hash] for mask in masks]
    terms = np.array([[e.validation_accuracy, e.terms["magnitude"]] for e in evaluations])
    np.testing.assert_allclose(values, (terms / terms.mean(0)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("name", ["magnitude", "combined", "accuracy"])
def test_built_in_names_are_taken(name: str) -> None:
    with pytest.raises(ep.InputError, match="built in"):
        ep.register_fitness(name, lambda trained, validation: validation.loss)


def test_a_column_of_the_records_is_no_name() -> None:
    with pytest.raises(ep.InputError, match="'status' is a column of the records"):
        ep.register_fitness("status", lambda outcome: outcome.train_loss)


def test_another_definition_of_a_name_is_refused(registering: None) -> None:
    for _ in range(2):  # a file that is imported twice
        ep.register_fitness("mine", broken)
        ep.register_fitness("both", ["mine", "loss"])
    for other in (moved, ["loss"]):
        with pytest.raises(ep.InputError, match=r"'mine' is registered already"):
            ep.register_fitness("mine", other)
    with pytest.raises(ep.InputError, match=r"'both' is registered already"):
        ep.register_fitness("both", moved)
    assert set(TERMS.own) == {"mine"}
    assert TERMS["mine"] is broken


def test_an_unknown_term_is_refused() -> None:
    with pytest.raises(ep.InputError, match=r"unknown fitness term 'gradiant'.*Did you mean 'gradient'"):
        ep.register_fitness("mine", ["gradiant", "magnitude"])
    assert "mine" not in FITNESS


@pytest.fixture
def registering() -> Iterator[None]:
    """Lets a test register terms, and forgets them."""
    yield
    for registry in (TERMS, FITNESS):
        for name in registry.own:
            registry.forget(name)


def moved(outcome: Outcome) -> np.ndarray:
    """Sum over the survivors of |w - w0|."""
    population, found = outcome.population, []
    for k, mask in enumerate(population.masks):
        values = population.survivor_values(k, population.weights).numpy()
        found.append(np.abs(values - outcome.problem.w0[mask.bits]).sum(dtype=np.float64))
    return np.array(found)


def test_a_term_uses_w0(digits: ep.Problem, engine: str, registering: None) -> None:
    ep.register.fitness("moved", moved)
    masks = [ep.random_mask(digits.shapes, 0.8, np.random.default_rng(seed)) for seed in range(3)]
    evaluator = ep.Evaluator(digits, fitness="moved", epochs=1, engine=engine)
    for mask, evaluation in zip(masks, evaluator.evaluate(masks), strict=True):
        population = ModulePopulation(digits, [mask])
        train(population, digits, 1, evaluator.brief.seed)
        w, w0 = population.state(0), digits.network().state_dict()
        layers = {name: torch.from_numpy(layer) for name, layer in mask.layers.items()}
        expected = sum(float((w[name] - w0[name])[layer].abs().double().sum()) for name, layer in layers.items())
        assert evaluator.values(evaluation) == (pytest.approx(expected, rel=1e-5),)


def test_a_term_sees_all_there_is(digits: ep.Problem, engine: str, registering: None) -> None:
    seen = []

    @ep.register.fitness("looks")
    def looks(outcome: Outcome) -> np.ndarray:
        size = outcome.population.size
        assert outcome.problem is digits
        assert len(outcome.population.masks) == len(outcome.train_loss) == len(outcome.validation.loss) == size
        assert outcome.epoch_costs.shape == (2, size)
        assert [g.shape for g in outcome.gradients] == [w.shape for w in outcome.population.weights]
        seen.append(size)
        return -outcome.train_loss

    masks = [ep.random_mask(digits.shapes, 0.8, np.random.default_rng(seed)) for seed in range(3)]
    evaluations = ep.Evaluator(digits, fitness="looks", epochs=2, engine=engine).evaluate(masks)
    assert [e.note for e in evaluations] == [""] * 3
    assert all(np.isfinite(e.terms["looks"]) for e in evaluations)
    assert sum(seen) == 3


@pytest.mark.parametrize(
    "term",
    [
        lambda outcome: outcome.validation.loss,
        lambda trained, validation: validation.loss,
        lambda trained, validation=None: validation.loss,
        lambda outcome, scale=1.0: scale * outcome.validation.loss,
        lambda outcome, *, scale=1.0: scale * outcome.validation.loss,
        lambda *arguments: arguments[0].validation.loss,
        functools.partial(lambda scale, outcome: scale * outcome.validation.loss, 1.0),
    ],
)
def test_terms_of_one_argument_and_of_two(digits: ep.Problem, term: Term) -> None:
    mask = ep.random_mask(digits.shapes, 0.8, np.random.default_rng(0))
    evaluator = ep.Evaluator(digits, fitness=term, epochs=1)
    (value,) = evaluator(mask)
    assert value == evaluator.known[mask.hash].validation_loss


def test_a_function_is_taken_where_a_name_is(digits: ep.Problem) -> None:
    masks = [ep.random_mask(digits.shapes, 0.8, np.random.default_rng(seed)) for seed in range(2)]
    evaluator = ep.Evaluator(digits, fitness=(moved, "loss"), epochs=1)
    assert [objective.name for objective in evaluator.objectives] == ["own.moved", "loss"]
    for evaluation in evaluator.evaluate(masks):
        assert evaluator.values(evaluation) == (evaluation.terms["own.moved"], evaluation.terms["loss"])
    assert set(TERMS) == set(BUILT_IN_TERMS)


def broken(trained: object, validation: object) -> np.ndarray:
    raise KeyError("no such layer")


FAILING = {
    "raises": (broken, "KeyError: 'no such layer'"),
    "accuracy of a regression": (lambda trained, validation: validation.accuracy, "is nan"),
    "infinite": (lambda trained, validation: np.full(len(validation.loss), np.inf), "is inf"),
    "a scalar": (lambda trained, validation: validation.loss.sum(), r"values of shape \(\); expected \(1,\)"),
    "one too many": (lambda trained, validation: np.append(validation.loss, 1.0), r"shape \(2,\); expected \(1,\)"),
    "nothing": (lambda trained, validation: None, r"shape \(\)"),
    "text": (lambda trained, validation: ["good"] * len(validation.loss), "could not convert string"),
}


@pytest.fixture(scope="module")
def regression(tensors: ep.Data) -> ep.Problem:
    x, _ = tensors.train
    return ep.Problem(torch.nn.Linear(6, 2), ep.Data(train=(x, x[:, :2])), recipe=ep.Recipe(epochs=1))


@pytest.mark.sampled(11)
@pytest.mark.parametrize("how", FAILING)
def test_a_term_that_fails_fails_only_who_asks_for_it(how: str, regression: ep.Problem, engine: str, registering: None) -> None:
    term, reason = FAILING[how]
    rng = np.random.default_rng(0)
    masks = [ep.random_mask(regression.shapes, 0.5, rng) for _ in range(3)]
    before = ep.Evaluator(regression, fitness="loss", epochs=1, engine=engine)
    expected = before.evaluate(masks)
    ep.register_fitness("mine", term)
    ep.register_fitness("mixed", ["loss", "mine"])
    evaluator = ep.Evaluator(regression, fitness="loss", epochs=1, engine=engine)
    evaluations = evaluator.evaluate(masks)
    for evaluation, same in zip(evaluations, expected, strict=True):
        assert (evaluation.status, evaluation.note) == (same.status, same.note)
        assert evaluation.terms == same.terms
    for fitness in ("mine", "mixed", ("loss", "mine")):
        asking = ep.Evaluator(regression, fitness=fitness, epochs=1, engine=engine)
        for evaluation in asking.evaluate(masks):
            assert evaluation.status == FAILURE
            assert re.search(f"mine.*{reason}", evaluation.note), evaluation.note


def test_a_term_that_fails_for_one_mask_fails_that_mask_alone(digits: ep.Problem, registering: None) -> None:
    def picky(outcome: Outcome) -> np.ndarray:
        return np.array([np.nan if mask.sparsity > 0.85 else 1.0 for mask in outcome.population.masks])

    ep.register_fitness("mine", picky)
    masks = [ep.random_mask(digits.shapes, sparsity, np.random.default_rng(0)) for sparsity in (0.8, 0.9)]
    for fitness, failures in (("loss", [False, False]), ("mine", [False, True])):
        evaluations = ep.Evaluator(digits, fitness=fitness, epochs=1, engine="stacked").evaluate(masks)
        assert [e.status == FAILURE for e in evaluations] == failures


def test_a_term_travels_with_the_job_that_it_is_of(regression: ep.Problem, registering: None) -> None:
    ep.register_fitness("mine", broken)
    mask = ep.random_mask(regression.shapes, 0.5, np.random.default_rng(0))
    for fitness, failed in (("loss", False), ("mine", True)):
        job = ep.Evaluator(regression, fitness=fitness, epochs=1).job
        outcome = attempt(pack(work, (job.key, job.payload, pack_masks([mask]), None)))
        (evaluation,) = evaluations_of(outcome, [mask], job)
        assert (evaluation.status == FAILURE) == failed
        assert set(evaluation.terms) == {*BUILT_IN_TERMS, *(["mine"] if failed else [])}


def test_a_failing_term_is_an_empty_cell(regression: ep.Problem, registering: None, tmp_path: Path) -> None:
    ep.register_fitness("mine", broken)
    result = ep.k_starts(regression, k=2, sparsity=0.5, fitness="loss", fitness_epochs=1, out=tmp_path / "run")
    assert result.summary["failed"] == 0
    rows = read_table(tmp_path / "run" / "evaluations.csv")
    assert all(not np.isfinite(row.get("mine", np.nan)) and np.isfinite(row["loss"]) for row in rows)
