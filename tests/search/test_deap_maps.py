"""DEAP's maps over processes, threads and forks."""

import concurrent.futures
import multiprocessing
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from deap import algorithms, base, tools
from support.processes import python, python_anew
from support.toolboxes import SEEDED, make_toolbox, through_global, through_pool

import evoprune as ep
from evoprune.operators import keep_survivors
from evoprune.system import forks
from evoprune.training.threads import torch_threads


@pytest.fixture
def busy() -> None:
    """The parent has used several threads, which a forked child has not."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    torch.randn(600, 600) @ torch.randn(600, 600)
    torch.randn(2_000_000).exp().sum()
    yield
    torch.set_num_threads(before)


def describe(problem: ep.Problem, mask: ep.Mask) -> tuple[str, str]:
    return str(mask.collapse(problem)), ep.baselines.snip(problem, sparsity=0.5).hash


def _executor(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
        return list(executor.map(toolbox.evaluate, masks, timeout=60))


def _threads(toolbox: base.Toolbox, masks: list[ep.Mask]) -> list[tuple[float, ...]]:
    with multiprocessing.pool.ThreadPool(1) as pool:
        return pool.map_async(toolbox.evaluate, masks).get(timeout=60)


MAPS = {
    "fork": through_pool("map", "fork"),
    "fork, imap": through_pool("imap", "fork"),
    "fork, starmap": through_pool("starmap", "fork"),
    "fork, a task a child": through_pool("map", "fork", maxtasksperchild=1),
    "fork, executor": _executor,
    "fork, evaluator in a global": through_global,
    "thread": _threads,
}


@pytest.mark.process
@pytest.mark.parametrize("name", MAPS)
def test_maps_over_processes_answer_with_equal_values(name: str, toolbox: base.Toolbox, busy: None) -> None:
    masks = toolbox.population(n=3)
    given = toolbox.evaluate.func
    expected = [ep.Evaluator(given.problem, fitness="loss", epochs=1, engine=given.brief.engine)(mask) for mask in masks]
    assert MAPS[name](toolbox, masks) == expected


@pytest.mark.process
@pytest.mark.parametrize("context", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_started_processes_answer_with_equal_values(context: str, tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
import evoprune as ep
toolbox = ep.make_toolbox(ep.Problem(model="mlp", widths=(24, 16), seed=0), fitness="loss", fitness_epochs=1)
if __name__ == "__main__":
    masks = toolbox.population(n=2)
    with multiprocessing.get_context({context!r}).Pool(1) as pool:
        assert pool.map_async(toolbox.evaluate, masks).get(timeout=100) == list(map(toolbox.evaluate, masks))
""")
    code, output = python(script)
    assert code == 0, output


@pytest.mark.process
def test_all_else_works_in_a_forked_process_too(problem: ep.Problem, toolbox: base.Toolbox, busy: None) -> None:
    mask = toolbox.individual()
    large = ep.Problem("lenet-300-100", "digits", seed=1)  # whose weights torch copies with several threads
    with multiprocessing.get_context("fork").Pool(1) as pool:
        for each, found in ((problem, mask), (large, ep.random_mask(large.shapes, 0.9, SEEDED(0)))):
            assert pool.apply_async(describe, (each, found)).get(timeout=60) == describe(each, found)


@pytest.mark.process
def test_several_threads_are_refused_in_a_forked_process(problem: ep.Problem) -> None:
    toolbox = make_toolbox(problem, threads=2)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        call = pool.apply_async(toolbox.evaluate, (toolbox.individual(),))
        with pytest.raises(ep.InputError, match=r"threads is 2, but a forked process can use one only.*spawn"):
            call.get(timeout=60)


def test_a_forked_process_keeps_one_thread(monkeypatch: pytest.MonkeyPatch, busy: None) -> None:
    assert not forks.is_forked()
    monkeypatch.setattr(forks, "_IMPORTED_BY", os.getppid())
    assert forks.is_forked()
    with torch_threads(1):
        pass
    assert torch.get_num_threads() == 1


def test_an_autograd_that_a_fork_broke_is_no_fact_about_a_mask(monkeypatch: pytest.MonkeyPatch, toolbox: base.Toolbox) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing.")

    monkeypatch.setattr(forks, "_IMPORTED_BY", os.getppid())
    monkeypatch.setattr(torch.Tensor, "backward", broken)
    with pytest.raises(ep.InputError, match=r"PyTorch cannot train in this forked process.*spawn"):
        toolbox.evaluate(toolbox.individual())


# Islands: whole algorithms in workers


def deme(toolbox: base.Toolbox, population: list[ep.Mask], statistics: tools.Statistics, best: tools.HallOfFame) -> object:
    random.seed(5)
    found = algorithms.eaSimple(population, toolbox, 0.5, 0.5, 1, stats=statistics, halloffame=best, verbose=False)
    return *found, best


def island(problem: ep.Problem, select: object) -> tuple[object, ...]:
    toolbox = make_toolbox(problem, evidence=0.1, workers="serial")
    toolbox.register("mutate", ep.operators.informed, fraction=0.1, missing="random", rng=SEEDED(0))
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.decorate("mate", keep_survivors(rng=SEEDED(1)))
    if select is not None:
        toolbox.register("select", select, tournsize=3)
    return toolbox, toolbox.population(n=4), ep.make_statistics(), tools.HallOfFame(1)


@pytest.mark.process
@pytest.mark.parametrize("select", [None, tools.selTournament])
def test_a_deme_evolves_in_a_forked_worker(problem: ep.Problem, select: object, busy: None) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        population, logbook, best = pool.apply_async(deme, island(problem, select)).get(timeout=100)
    expected, log, fittest = deme(*island(problem, select))
    assert population == expected
    assert [mask.fitness for mask in population] == [mask.fitness for mask in expected]
    assert [mask.evidence.still.tolist() for mask in population if mask.fitness.valid]
    assert logbook == log
    assert best.items == fittest.items


def test_a_toolbox_that_holds_its_algorithm_pickles(problem: ep.Problem) -> None:
    toolbox, population, *_ = island(problem, None)
    toolbox.register("algorithm", algorithms.eaSimple, toolbox=toolbox, cxpb=0.5, mutpb=0.5, ngen=1, verbose=False)
    algorithm = pickle.loads(pickle.dumps(toolbox.algorithm))  # a pool's pickler cannot, whatever the toolbox
    random.seed(5)
    found, _ = algorithm(pickle.loads(pickle.dumps(population)))
    assert found == deme(*island(problem, None))[0]


def test_a_copied_toolbox_draws_what_the_original_draws(toolbox: base.Toolbox) -> None:
    masks = toolbox.population(n=8)
    for i, mask in enumerate(masks):
        mask.fitness.values = (float(i),)
    copied = pickle.loads(pickle.dumps(toolbox))
    for alias in ("clone", "map", "individual", "population", "evaluate", "select"):
        assert hasattr(copied, alias)
    assert copied.individual() == toolbox.individual()
    assert [m.fitness.values for m in copied.select(masks, 5)] == [m.fitness.values for m in toolbox.select(masks, 5)]


SWEEP = """
import multiprocessing, sys
import torch
import evoprune as ep

x = torch.randn(3000, 784, generator=torch.Generator().manual_seed(0))
y = torch.arange(3000) % 10

def sweep(seed):
    problem = ep.Problem(model="mlp", data=ep.Data(train=(x, y)), seed=seed, recipe=ep.Recipe(epochs=1))
    return ep.baselines.snip(problem, sparsity=0.5).survivors

if __name__ == "__main__":
    torch.set_num_threads(2)
    for _ in range(3):
        torch.nn.functional.linear(torch.randn(4000, 640, requires_grad=True), torch.randn(640, 640)).sum().backward()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map_async(sweep, [0, 1]).get(60))
"""


@pytest.mark.process
def test_a_forked_process_makes_its_own_problem(tmp_path: Path) -> None:
    (tmp_path / "sweep.py").write_text(SWEEP)
    code, output = python_anew(tmp_path / "sweep.py", deadline=100)
    assert code == 0, output
    assert output.splitlines()[-1] == "[54592, 54592]"
