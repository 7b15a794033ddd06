"""The comparisons see an engine that is broken on purpose."""

from typing import Any

import numpy as np
import pytest
from support.engines import assert_as_module, full_masks
from support.networks import problem_of
from torch import Tensor

import evoprune as ep
from evoprune.engines.registry import ENGINES
from evoprune.engines.sparse import fused
from evoprune.engines.sparse.individual import Individual
from evoprune.engines.sparse.layout import Value
from evoprune.engines.sparse.population import SparsePopulation

NOT_EQUAL = r"Not equal to tolerance|not close"


@pytest.fixture(params=["sequential", "stride"])
def problem(request: pytest.FixtureRequest) -> ep.Problem:
    return problem_of(request.param)


def test_a_row_in_the_place_of_another(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Individual._set_mask

    def wrong(self: Individual, mask: ep.Mask) -> None:
        right(self, mask)
        self.pointers[1] += 1  # the first row takes a weight of the second

    monkeypatch.setattr(Individual, "_set_mask", wrong)
    with pytest.raises(AssertionError, match=NOT_EQUAL):
        assert_as_module(problem, full_masks(problem, 2))


def test_a_shifted_place(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Individual._set_mask

    def wrong(self: Individual, mask: ep.Mask) -> None:
        right(self, mask)
        self.columns[0] += 1

    monkeypatch.setattr(Individual, "_set_mask", wrong)
    with pytest.raises(AssertionError, match=NOT_EQUAL):
        assert_as_module(problem, full_masks(problem, 2))


def test_a_missed_update(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    right = SparsePopulation._gather

    def wrong(self: SparsePopulation, *given: Any, **more: Any) -> Any:
        data = right(self, *given, **more)
        return data._replace(sizes=data.sizes[:-1]) if len(data.sizes) > 1 else data  # the last step is left out

    monkeypatch.setattr(SparsePopulation, "_gather", wrong)
    with pytest.raises(AssertionError, match=NOT_EQUAL):
        assert_as_module(problem, full_masks(problem, 2))


def test_a_forgotten_momentum(problem: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fused.update_of

    def wrong(*given: Any) -> Any:
        found = right(*given)
        for first, _ in found.memories:
            first.zero_()
        return found

    monkeypatch.setattr(fused, "update_of", wrong)
    with pytest.raises(AssertionError, match=NOT_EQUAL):
        assert_as_module(problem, full_masks(problem, 2), epochs=2)


def test_a_value_that_lies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Value.reshaped

    def wrong(self: Value, shape: Any) -> Value:
        found = right(self, shape)
        found.places.reshape(-1)[:2] = found.places.reshape(-1)[1::-1]
        return found

    monkeypatch.setattr(Value, "reshaped", wrong)
    problem = problem_of("unflatten")
    with pytest.raises(AssertionError, match=NOT_EQUAL):
        assert_as_module(problem, full_masks(problem, 2))


def test_a_pattern_that_stays_when_the_mask_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of("sequential")
    before, after = full_masks(problem, 2)

    def state(engine: str) -> dict[str, Tensor]:
        population = ENGINES[engine].build(problem, [before])
        optimizer = problem.recipe.make_optimizer(list(population.parameters()))
        population.set_masks([after], optimizer)
        x, _ = problem.part("train")
        return {"outputs": population(x[:5]).detach()}

    np.testing.assert_allclose(state("sparse")["outputs"], state("module")["outputs"], rtol=1e-9)
    right = Individual.set_mask

    def wrong(self: Individual, mask: ep.Mask) -> Tensor:
        columns = self.columns
        source = right(self, mask)
        self.columns = np.resize(columns, self.columns.shape)
        return source

    monkeypatch.setattr(Individual, "set_mask", wrong)
    with pytest.raises(AssertionError, match=NOT_EQUAL):
        np.testing.assert_allclose(state("sparse")["outputs"], state("module")["outputs"], rtol=1e-9)


def test_an_individual_whose_mask_stays_is_not_rebuilt() -> None:
    problem = problem_of("sequential")
    masks = full_masks(problem, 3)
    population = SparsePopulation(problem, masks[:2])
    optimizer = problem.recipe.make_optimizer(list(population.parameters()))
    places = [vector.data_ptr() for vector in population.weights]
    columns = population.individuals[0].columns
    population.set_masks([masks[0], masks[2]], optimizer)
    assert population.weights[0].data_ptr() == places[0]
    assert population.individuals[0].columns is columns
    assert population.weights[1].data_ptr() != places[1]
