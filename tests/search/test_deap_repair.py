"""Operators of DEAP that change the number of survivors."""

import pickle
import random
import warnings

import pytest
from deap import base, tools
from support.toolboxes import SEEDED, make_toolbox, run, through_global, through_pool

import evoprune as ep
from evoprune.operators import CROSSOVERS, MUTATIONS, keep_survivors, repair

# The number of survivors

FOREIGN_MATES = {"cxTwoPoint": (tools.cxTwoPoint, {}), "cxUniform": (tools.cxUniform, {"indpb": 0.3})}

FOREIGN_MUTATIONS = {"mutFlipBit": (tools.mutFlipBit, {"indpb": 0.05})}


def drifting(problem: ep.Problem, **options: object) -> base.Toolbox:
    toolbox = make_toolbox(problem, **options)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutFlipBit, indpb=0.02)
    return toolbox


@pytest.mark.parametrize("own_map", [True, False])
def test_a_drifting_number_of_survivors_is_said_once(problem: ep.Problem, own_map: bool) -> None:
    toolbox = drifting(problem)
    if not own_map:
        toolbox.register("map", map)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(toolbox)
    (warning,) = said
    assert f"survivors is evaluated, where {toolbox.evaluate.func.check_survivors.survivors:,} were expected" in str(
        warning.message
    )
    assert "keep_survivors" in str(warning.message)
    assert "repair=True" in str(warning.message)


@pytest.mark.parametrize("own_map", [True, False])
def test_repair_keeps_the_number_in_the_population(problem: ep.Problem, own_map: bool) -> None:
    toolbox = drifting(problem, repair=True)
    if not own_map:
        toolbox.register("map", map)
    population = run(toolbox)
    assert {mask.survivors for mask in population} == {toolbox.evaluate.func.check_survivors.survivors}
    evaluated = toolbox.evaluate.func.known
    assert all(mask.fitness.values == (evaluated[mask.hash].terms["loss"],) for mask in population)
    again = drifting(problem, repair=True)
    assert run(again) == population


def test_equal_masks_are_repaired_equally(problem: ep.Problem) -> None:
    masks = [ep.random_mask(problem.shapes, 0.85, SEEDED(0)) for _ in range(2)]
    for mask in masks:
        make_toolbox(problem, repair=True).evaluate(mask)
    assert masks[0] == masks[1]
    assert masks[0].survivors == round(0.1 * problem.prunable_count)


@pytest.mark.process
@pytest.mark.parametrize("way", [through_pool("map", "fork"), through_global])
def test_a_copy_is_not_repaired_in_vain(problem: ep.Problem, way) -> None:
    toolbox = make_toolbox(problem, repair=True)
    right, wrong = toolbox.individual(), ep.random_mask(problem.shapes, 0.85, SEEDED(0))
    assert way(toolbox, [right]) == [toolbox.evaluate(right)]
    with pytest.raises(ep.InputError, match=r"this process has a copy.*keep_survivors"):
        way(toolbox, [wrong])


@pytest.mark.parametrize("operator", [*FOREIGN_MATES, *FOREIGN_MUTATIONS])
def test_a_decorated_operator_keeps_survivors(problem: ep.Problem, operator: str) -> None:
    function, options = (FOREIGN_MATES | FOREIGN_MUTATIONS)[operator]
    toolbox = make_toolbox(problem)
    toolbox.register("vary", function, **options)
    toolbox.decorate("vary", keep_survivors(rng=SEEDED(0)))
    parents = toolbox.population(n=2 if operator in FOREIGN_MATES else 1)
    random.seed(1)
    children = toolbox.vary(*map(toolbox.clone, parents))
    assert [child.survivors for child in children] == [parent.survivors for parent in parents]
    assert children[0] != parents[0]
    random.seed(1)
    copied = pickle.loads(pickle.dumps(toolbox.vary))
    assert [child.survivors for child in copied(*map(toolbox.clone, parents))] == [child.survivors for child in children]


@pytest.mark.sampled(7)
@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
@pytest.mark.parametrize("crossover", sorted(CROSSOVERS))
def test_operators_of_the_package_do_not_drift(problem: ep.Problem, mutation: str, crossover: str) -> None:
    toolbox = make_toolbox(problem, sparsity=0.8, evidence=0.1, repair=True)  # which would undo it
    rng = SEEDED(0)
    options = {"sparsity": {"low": 0.7, "high": 0.9}, "informed": {"missing": "random"}}.get(mutation, {})
    toolbox.register("mutate", MUTATIONS[mutation], fraction=0.1, rng=rng, **options)
    toolbox.register("mate", CROSSOVERS[crossover], rng=rng)
    numbers = {mask.survivors for mask in run(toolbox, 1)}
    assert (numbers == {toolbox.evaluate.func.check_survivors.survivors}) == (mutation != "sparsity")


def test_where_sparsity_is_an_objective_any_number_will_do(problem: ep.Problem) -> None:
    toolbox = drifting(problem, fitness=("loss", "sparsity"))
    toolbox.register("select", tools.selNSGA2)
    run(toolbox, 1)


@pytest.mark.parametrize("survivors", [0, 3, 9, 12])
def test_repair_meets_the_number(survivors: int) -> None:
    mask = ep.random_mask({"w": (3, 4)}, 0.5, SEEDED(0))
    before = mask.bits.copy()
    assert repair(mask, rng=SEEDED(1), survivors=survivors) == (mask,)
    assert mask.survivors == survivors
    assert (before <= mask.bits).all() or (before >= mask.bits).all()


@pytest.mark.parametrize("survivors", [-1, 13, 1.0, True])
def test_repair_refuses_other_numbers(survivors: object) -> None:
    with pytest.raises(ep.InputError, match="from 0 to the 12 weights"):
        repair(ep.random_mask({"w": (3, 4)}, 0.5, SEEDED(0)), rng=SEEDED(1), survivors=survivors)


def test_an_evaluator_repairs_to_a_number(problem: ep.Problem) -> None:
    with pytest.raises(ep.InputError, match="repair is True, but survivors is None"):
        ep.Evaluator(problem, epochs=1, repair=True)
