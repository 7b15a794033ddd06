"""Dissipating gradients against what one computes by hand."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import evoprune as ep
from evoprune import seeds
from evoprune.comparison.budget import options_of
from evoprune.comparison.cells import Comparison
from evoprune.comparison.subject import Subject
from evoprune.engines import auto
from evoprune.engines.registry import ENGINES
from evoprune.masks.random import random_mask
from evoprune.search.combine import Combine, CombineOptions
from evoprune.search.dissipate import Dissipate, DissipateOptions
from evoprune.training.dissipation import EDGES, MOVEMENTS, SCOPES, Dissipating, Dissipation, movement_scores
from evoprune.training.final import Training, train_fully
from evoprune.training.loop import train
from evoprune.training.schedule import Moment

N = 1000


def full(problem: ep.Problem) -> ep.Mask:
    return ep.Mask(np.ones(problem.prunable_count, bool), problem.shapes)


def flat(problem: ep.Problem, state: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([state[name].numpy().reshape(-1) for name in problem.shapes])


@pytest.fixture(scope="module")
def wide() -> ep.Problem:
    return ep.Problem("mlp", widths=(24, 16), recipe=ep.Recipe(epochs=4), dtype="float64", seed=3)


@given(st.integers(1, 12), st.floats(0.1, 0.999), st.integers(0, 900))
def test_the_density_falls_by_the_same_factor(epochs: int, sparsity: float, removed: int) -> None:
    dissipation, before = Dissipation(epochs, sparsity), N - removed
    end = round((1 - sparsity) * N)
    counts = [before]
    if before < end or end == 0:
        return
    for epoch in range(1, epochs + 1):
        counts.append(dissipation.target(epoch, counts[-1], N))
    assert counts[-1] == end
    exact = [before * (end / before) ** (i / epochs) for i in range(epochs + 1)]
    assert np.allclose(counts, exact, atol=epochs)
    assert counts == sorted(counts, reverse=True)


def test_scores_by_hand() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 4.0]]))
        network[1].weight.copy_(torch.tensor([[0.5, 0.5]]))
    x = torch.randn(40, 2)
    problem = ep.Problem(network, ep.Data(train=(x, x[:, :1])), ep.Recipe(epochs=1), dtype="float64")
    mask = ep.Mask(np.array([True, True, True, False, True, True]), problem.shapes)
    values = np.array([1.5, -2.0, 0.25, 0.5, 0.75])  # the fourth weight is removed

    def scores(**options: str) -> list[float]:
        return movement_scores(problem, mask, values, Dissipation(1, 0.5, **options)).tolist()

    assert scores(movement="relative") == [0.5, 0.0, np.inf, 0.0, 0.5]
    mean = (1 + 2 + 0 + 4 + 0.5 + 0.5) / 6
    assert scores(movement="absolute") == pytest.approx([0.5 / mean, 0, 0.25 / mean, 0, 0.25 / mean])
    assert scores(movement="absolute", scope="layer") == pytest.approx([0.5 / 1.75, 0, 0.25 / 1.75, 0, 0.5])


@pytest.mark.parametrize("movement", ["relative", "absolute"])
def test_a_fraction_removes_what_stayed_within_it(wide: ep.Problem, movement: str) -> None:
    result = ep.dissipate(wide, fraction=0.2, dissipate_epochs=1, movement=movement, engine="module")
    before = ENGINES["module"].build(wide, [full(wide)])
    train(before, wide, 1, seeds.integer(wide.seed, "order"))
    w, w0 = flat(wide, before.state(0)), flat(wide, wide.network().state_dict())
    size = np.abs(w0) if movement == "relative" else np.abs(w0).mean()
    np.testing.assert_array_equal(result.mask.bits, ~(np.abs(w - w0) <= 0.2 * size))
    assert 0 < result.mask.survivors < len(w0)
    assert result.summary["survivors"] == result.trainings["winner"].history[0]["survivors"]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("movement", MOVEMENTS)
def test_a_sparsity_is_met_by_removing_the_least_scores(wide: ep.Problem, movement: str, scope: str) -> None:
    dissipation = Dissipation(3, 0.9, None, movement, scope)
    population = ENGINES["module"].build(wide, [full(wide)])
    masks = [full(wide)]

    class Checked(Dissipating):
        def masks_after(self, moment: Moment) -> list[ep.Mask] | None:
            values = moment.population.survivor_values(0, moment.population.weights).numpy()
            scores = movement_scores(wide, masks[-1], values, dissipation, [5, moment.epoch])
            kept = super().masks_after(moment)
            if moment.epoch > 3:
                assert kept is None
                return None
            inside = kept[0].bits[masks[-1].bits]
            assert not (kept[0].bits & ~masks[-1].bits).any()
            if scope == "global":
                assert scores[inside].min() >= scores[~inside].max()
            else:
                before = [layer.sum() for layer in masks[-1].layers.values()]
                after = [layer.sum() for layer in kept[0].layers.values()]
                fraction = kept[0].survivors / masks[-1].survivors
                assert np.abs(np.array(after) - fraction * np.array(before)).max() <= 1
            masks.extend(kept)
            return kept

    train(population, wide, 4, 5, schedule=Checked(dissipation))
    assert [mask.survivors for mask in masks] == [wide.prunable_count, *expected_counts(wide, 3, 0.9)]


def expected_counts(problem: ep.Problem, epochs: int, sparsity: float) -> list[int]:
    n = problem.prunable_count
    counts = [round(n * (1 - sparsity) ** (i / epochs)) for i in range(1, epochs)]
    return [*counts, round((1 - sparsity) * n)]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_what_dissipated_is_exactly_zero_from_then_on(engine: str, optimizer: str) -> None:
    recipe = ep.Recipe(epochs=4, optimizer=optimizer, lr=0.05 if optimizer == "SGD" else 0.005)
    problem = ep.Problem("mlp", widths=(24, 16), recipe=recipe)
    assert optimizer != "SGD" or recipe.momentum == 0.9
    population = ENGINES[engine].build(problem, [full(problem)])
    seen = []

    def after_epoch(epoch: int, population: object, loss: object) -> None:
        weights = flat(problem, population.state(0))
        seen.append(population.masks[0].survivors)
        assert not weights[~population.masks[0].bits].any()
        assert np.count_nonzero(weights[population.masks[0].bits]) > 0.9 * seen[-1]

    trained = train(population, problem, 4, 0, after_epoch, Dissipation(2, 0.9).start())
    assert seen == [*expected_counts(problem, 2, 0.9)] + [seen[1]] * 2
    assert len(trained.population.survivor_values(0, trained.gradients)) == seen[-1]


class Plain(nn.Module):
    """Two linear layers that no nn.Sequential chains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x.flatten(1))))


def normalised() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("make", [Plain, normalised])
def test_networks_that_are_no_single_chain(make: type[nn.Module], engine: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem = ep.Problem(make(), ep.Problem().data, ep.Recipe(epochs=4), dtype="float64")
    found = [
        train(ENGINES[name].build(problem, [full(problem)]), problem, 4, 7, schedule=Dissipation(3, 0.9).start())
        for name in (engine, "module")
    ]
    assert found[0].population.masks == found[1].population.masks
    for name, tensor in found[0].population.state(0).items():
        torch.testing.assert_close(tensor, found[1].population.state(0)[name], rtol=1e-9, atol=1e-12)


def test_engines_agree(wide: ep.Problem, engine: str) -> None:
    masks = [random_mask(wide.shapes, 0.5, np.random.default_rng(i), "erk") for i in range(2)]
    alone = [train_fully(wide, mask, Training("module", 7, schedule=Dissipation(3, 0.95).start)) for mask in masks]
    group = masks[: ENGINES[engine].capacity]
    trained = train(ENGINES[engine].build(wide, group), wide, 4, 7, schedule=Dissipation(3, 0.95).start())
    for k, mask in enumerate(trained.population.masks):
        assert mask == alone[k].mask
        for name, tensor in trained.population.state(k).items():
            torch.testing.assert_close(tensor, alone[k].state[name], rtol=1e-9, atol=1e-12)
    assert trained.epoch_costs[:, 0].sum() == alone[0].cost(4)


def test_auto_changes_the_engine_as_the_network_gets_sparser(
    wide: ep.Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = wide.prunable_count * wide.recipe.batch_size
    nothing = [0.0] * (len(auto.FEATURES) - 1)
    costs = {"module": [1, *nothing], "stacked": [9, *nothing], "sparse": [0.0] * len(auto.FEATURES)}
    costs["sparse"][auto.FEATURES.index("sparse_linear")] = 2 / n  # sparse pays below half density
    (tmp_path / "costs.json").write_text(json.dumps({"cpu": costs}))
    monkeypatch.setattr(auto, "COSTS", tmp_path / "costs.json")
    monkeypatch.setattr(auto, "user_costs", lambda: tmp_path / "none")
    options = {"k": 2, "fitness_epochs": 1, "first_sparsity": 0.2, "sparsity": 0.9, "dissipate_epochs": 3}
    both = ep.combine(wide, chunk_size=1, **options)
    assert both.summary["engine"] == "module, sparse"
    assert both.mask == ep.combine(wide, engine="module", **options).mask
    changing = ep.dissipate(wide, sparsity=0.9, dissipate_epochs=3)
    assert changing.trainings["winner"].engines == ["module", "sparse"]
    steady = ep.dissipate(wide, sparsity=0.9, dissipate_epochs=3, engine="module")
    assert changing.mask == steady.mask
    for name, tensor in changing.model.state_dict().items():
        torch.testing.assert_close(tensor, steady.model.state_dict()[name], rtol=1e-9, atol=1e-12)


def test_equal_scores_let_the_smaller_weights_go() -> None:
    x = torch.zeros(40, 3)
    x[:, 2] = torch.randn(40)  # the weights of two inputs get no gradient, and without weight decay none of them moves
    recipe = ep.Recipe(epochs=1, weight_decay=0.0)
    problem = ep.Problem(nn.Sequential(nn.Linear(3, 8)), ep.Data(train=(x, x.repeat(1, 3)[:, :8])), recipe)
    result = ep.dissipate(problem, sparsity=0.5, dissipate_epochs=1, movement="relative")
    w0 = problem.w0.reshape(8, 3)
    still = np.abs(w0[:, :2]).reshape(-1)
    kept = result.mask.layers["0.weight"]
    assert kept[:, 2].all()
    assert set(still[kept[:, :2].reshape(-1)]) == set(np.sort(still)[-4:])


def test_removals_are_described(wide: ep.Problem) -> None:
    training = ep.dissipate(wide, sparsity=0.9, dissipate_epochs=2).trainings["winner"]
    assert [removal["epoch"] for removal in training.removals] == [1, 2]
    before = wide.prunable_count
    for removal in training.removals:
        assert sum(removal["layers"].values()) == removal["survivors"] == sum(removal["kept"])
        assert sum(removal["removed"]) == before - removal["survivors"]
        last = np.flatnonzero(removal["removed"])[-1]
        assert EDGES[last] <= np.log10(removal["threshold"]) <= EDGES[last + 1]
        before = removal["survivors"]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("movement", MOVEMENTS)
@pytest.mark.parametrize("sparsity", [0.99, 0.999])
def test_collapse_is_reported(movement: str, sparsity: float) -> None:
    problem = ep.Problem(recipe=ep.Recipe(epochs=3), seed=1)
    result = ep.dissipate(problem, sparsity=sparsity, dissipate_epochs=2, movement=movement)
    assert result.summary["survivors"] == round((1 - sparsity) * problem.prunable_count)
    assert result.summary["collapse"] == str(result.mask.collapse(problem))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 0.9, "fraction": 0.1}, "expected one of them"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"fraction": -1.0}, "fraction is -1.0"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"dissipate_epochs": 0}, "dissipate_epochs is 0"),
        ({"dissipate_epochs": 9}, "the recipe has 4 epochs"),
        ({"movement": "relativ"}, "relative"),
        ({"scope": "layers"}, "layer"),
    ],
)
def test_bad_values_are_refused(wide: ep.Problem, options: dict[str, object], message: str) -> None:
    with pytest.raises(ep.InputError, match=message):
        ep.dissipate(wide, **{"dissipate_epochs": 2, **options})


def test_a_course_without_a_sparsity_to_reach_is_refused(wide: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match=r"course is 'cubic', but fraction 0.1"):
        ep.dissipate(wide, fraction=0.1, course="cubic", dissipate_epochs=2)


def test_a_first_sparsity_above_the_last_is_refused(wide: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match=r"from sparsity 0.95 to 0.9"):
        ep.combine(wide, first_sparsity=0.95, sparsity=0.9, dissipate_epochs=2)


@pytest.mark.parametrize("movement", MOVEMENTS)
def test_weights_that_never_moved_are_said(movement: str) -> None:
    problem = ep.Problem(model="mlp", widths=(12,), data="digits", recipe=ep.Recipe(epochs=2, lr=1e-30))
    options = {"sparsity": 0.8, "dissipate_epochs": 2, "movement": movement, "engine": "module"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        result = ep.dissipate(problem, **options)
    assert result.mask.survivors == round(0.2 * result.mask.bits.size)
    texts = [str(warning.message) for warning in said if "moved alike" in str(warning.message)]
    assert len(texts) == (0 if movement in ("random", "magnitude") else 1)
    assert all("check the recipe's lr" in text for text in texts)


@pytest.mark.parametrize(("epochs", "removals"), [(1, 1), (3, 2), (6, 3), (8, 4), (15, 8), (20, 8)])
def test_epochs_are_left_after_the_last_removal_unless_the_user_says_otherwise(epochs: int, removals: int) -> None:
    problem = ep.Problem("mlp", widths=(6,), recipe=ep.Recipe(epochs=epochs), seed=0)
    assert Dissipate.settings(problem, DissipateOptions())["epochs"] == removals
    assert Dissipate.settings(problem, DissipateOptions(dissipate_epochs=1))["epochs"] == 1
    assert Combine.settings(problem, CombineOptions())["dissipation"]["epochs"] == removals
    assert Combine.settings(problem, CombineOptions(fitness_epochs=epochs))["dissipation"]["epochs"] == 1  # after those
    assert Dissipate.cost(problem, DissipateOptions(sparsity=0.0))(epochs) == epochs
    assert options_of(Comparison({}, {"epochs": epochs}, {}), "dissipate")["dissipate_epochs"] == removals
    assert options_of(Comparison({}, {}, {}, subject=Subject(problem)), "combine")["dissipate_epochs"] == removals
