import numpy as np
import pytest

import evoprune as ep
from evoprune import fitness as registry
from evoprune.brief import torch_threads
from evoprune.engines.module import ModulePopulation
from evoprune.fitness import FITNESS, TERMS, FitnessFunction
from evoprune.train import train


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


def test_a_fitness_of_the_users_own(digits: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TERMS", TERMS.copy())
    monkeypatch.setattr(registry, "FITNESS", FITNESS.copy())
    monkeypatch.setattr("evoprune.brief.TERMS", registry.TERMS)
    monkeypatch.setattr("evoprune.evaluate.FITNESS", registry.FITNESS)
    ep.register_fitness("mine", lambda trained, validation: validation.accuracy)
    ep.register_fitness("both", ["mine", "magnitude"])
    toolbox = ep.make_toolbox(digits, fitness="both", fitness_epochs=1)
    masks = toolbox.population(n=3)
    values = np.array(toolbox.map(toolbox.evaluate, masks))[:, 0]
    evaluations = [toolbox.evaluate.func.known[mask.hash] for mask in masks]
    terms = np.array([[e.validation_accuracy, e.terms["magnitude"]] for e in evaluations])
    np.testing.assert_allclose(values, (terms / terms.mean(0)).sum(1), rtol=1e-12)


@pytest.mark.parametrize("name", ["magnitude", "combined"])
def test_built_in_names_are_taken(name: str) -> None:
    with pytest.raises(ep.InputError, match="built in"):
        ep.register_fitness(name, lambda trained, validation: validation.loss)


def test_an_unknown_term_is_refused() -> None:
    with pytest.raises(ep.InputError, match=r"unknown fitness term 'gradiant'.*Did you mean 'gradient'"):
        ep.register_fitness("mine", ["gradiant", "magnitude"])
    assert "mine" not in FITNESS
