"""The records that a page is made of: confusion, lineage, and the size of the inputs."""

import shutil
from pathlib import Path

import pytest
import torch
from deap import base
from safetensors.torch import load_file
from support.pages import make_run, small_problem
from support.tables import read_table

import evoprune as ep
from evoprune.figures.of_run.lineage import read_births, read_lineage
from evoprune.masks.mask import Mask
from evoprune.runs import records, sums
from evoprune.search.evolution.lineage import Traced, ancestors, enter


@pytest.fixture(scope="module")
def evolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run("evolve", tmp_path_factory.mktemp("evolve") / "run")


def test_the_confusion_counts_the_predictions_of_the_recorded_network_on_the_test_set(evolution: Path) -> None:
    problem = small_problem()
    network = problem.network().eval()
    network.load_state_dict(load_file(evolution / "model.safetensors"))
    x, y = problem.part("test")
    wanted = torch.zeros(10, 10, dtype=torch.long)
    with torch.no_grad():
        for label, predicted in zip(y.tolist(), network(x).argmax(dim=1).tolist(), strict=True):
            wanted[label, predicted] += 1
    counts = torch.tensor([[int(row[str(i)]) for i in range(10)] for row in records.read_rows(evolution / "confusion.csv")])
    assert counts.tolist() == wanted.tolist()
    result = records.read_json(evolution / "result.json")
    assert result is not None
    assert counts.diag().sum() / counts.sum() == pytest.approx(result["test_accuracy"])


def test_a_run_on_numbers_has_no_confusion(tmp_path: Path) -> None:
    data = ep.Data(train=(torch.randn(60, 6), torch.randn(60, 2)))
    problem = ep.Problem(model="mlp", widths=(5,), data=data, loss="mse", recipe=ep.Recipe(epochs=1), seed=0)
    ep.prune(problem, "erk", out=tmp_path / "run", sparsity=0.5)
    assert not (tmp_path / "run" / "confusion.csv").exists()


class PerPixel(torch.nn.Module):
    """Two classes for each of six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).view(-1, 2, 6)


def test_a_run_with_several_labels_an_example_has_no_confusion_of_examples(tmp_path: Path) -> None:
    x = torch.randn(60, 6)
    problem = ep.Problem(model=PerPixel(), data=ep.Data(train=(x, (x > 0).long())), recipe=ep.Recipe(epochs=1), seed=0)
    ep.prune(problem, "erk", out=tmp_path / "run", sparsity=0.5, engine="module")
    assert not (tmp_path / "run" / "confusion.csv").exists()


def test_a_result_has_the_shape_of_the_inputs_and_the_cost_of_a_dense_epoch(evolution: Path) -> None:
    result = records.read_json(evolution / "result.json")
    assert result is not None
    assert result["input_shape"] == [1, 8, 8]
    weights = 64 * 10 + 10 * 8 + 8 * 10
    assert result["dense_multiply_adds"] == 3 * weights * len(small_problem().part("train")[0])


def test_the_winner_comes_from_the_first_generation_by_known_operators(evolution: Path) -> None:
    births = read_births(evolution)
    assert births
    for gen, operator, *parents in births.values():
        assert (operator == "start") == (gen == 0) == (not parents)
        assert operator in ("start", "informed", "uniform")
        assert len(parents) <= (2 if operator == "uniform" else 1)
        assert all(births[parent][0] < gen for parent in parents)
    winner, *others = read_lineage(evolution)
    result = records.read_json(evolution / "result.json")
    assert result is not None
    assert winner.mask == result["start"]
    assert winner.fitness == pytest.approx(result["winner_fitness"])
    known = {each.mask for each in (winner, *others)}
    assert all(parent in known for each in (winner, *others) for parent in each.parents)


def test_the_lineage_of_an_interrupted_evolution_is_that_of_the_whole_one(evolution: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    class Interrupt:
        def on_generation(self, state: object) -> None:
            raise StopError

    options = {"k": 2, "fitness_epochs": 1, "generations": 2, "trained_bests": 2, "crossover_probability": 0.5, "sparsity": 0.6}
    for _ in range(3):
        with pytest.raises(StopError):
            ep.prune(small_problem(), "evolve", out=tmp_path / "run", callbacks=(Interrupt(),), **options)
    ep.prune(small_problem(), "evolve", out=tmp_path / "run", **options)
    assert (tmp_path / "run" / "lineage.csv").read_bytes() == (evolution / "lineage.csv").read_bytes()


@pytest.mark.parametrize("options", [{"inherit": True, "first_sparsity": 0.3}, {"steady_state": True, "slots": 1}])
def test_every_kind_of_evolution_records_where_its_winner_comes_from(options: dict[str, object], tmp_path: Path) -> None:
    given = {"k": 2, "fitness_epochs": 1, "generations": 2, "trained_bests": 0, "sparsity": 0.6, **options}
    recipe = ep.Recipe(epochs=3)
    problem = ep.Problem(model="mlp", widths=(10, 8), data="digits", recipe=recipe, seed=0)
    ep.prune(problem, "evolve", out=tmp_path / "run", **given)
    births = read_births(tmp_path / "run")
    assert {0, 1} <= {birth[0] for birth in births.values()}
    assert all(bool(parents) == (operator != "start") for _, operator, *parents in births.values())
    assert all(parent in births for _, _, *parents in births.values() for parent in parents)
    assert set(births) <= {row["mask"] for row in read_table(tmp_path / "run" / "evaluations.csv")}
    lineage, result = read_lineage(tmp_path / "run"), records.read_json(tmp_path / "run" / "result.json")
    assert result is not None
    assert lineage[-1].operator == "start"
    assert lineage[0].mask == result.get("key", result["start"])
    assert lineage[0].mask.partition("-")[0] == result["start"]
    assert ("key" in result) == ("inherit" in options)


def test_of_two_births_of_the_same_bits_the_winners_is_shown(tmp_path: Path, evolution: Path) -> None:
    shutil.copytree(evolution, tmp_path / "run")
    folder = tmp_path / "run"
    births, result = read_births(folder), records.read_json(folder / "result.json")
    assert result is not None
    start = next(mask for mask, (_, operator, *_) in births.items() if operator == "start")
    mine, other = f"{result['start']}-1", f"{result['start']}-2"
    rows = [f"0,{start},start,,", f"1,{mine},swap,{start},", f"1,{other},swap,{start},"]
    table = "\n".join(["gen,mask,operator,parent,other_parent", *rows, ""]).encode()
    for key in (mine, other):
        contents = {"lineage.csv": table, "result.json": records.json_bytes({**result, "key": key})}
        with sums.replacing(folder, contents):
            for name, content in contents.items():
                (folder / name).write_bytes(content)
        assert [each.mask for each in read_lineage(folder)] == [key, start]


def flip(mask: Mask, i: int) -> tuple[Mask]:
    mask[i] = not mask[i]
    return (mask,)


def swap(a: Mask, b: Mask) -> tuple[Mask, Mask]:
    a[0:2], b[0:2] = b[0:2], a[0:2]
    return a, b


def test_an_operator_is_noted_with_the_parents_from_which_its_children_were_copied() -> None:
    clone = base.Toolbox().clone
    a, b = (Mask.from_layers({"w": torch.tensor(bits)}) for bits in ([1, 0, 0, 1], [0, 1, 1, 1]))
    for mask in (a, b):
        mask.fitness.values = (1.0,)
    lineage = {}
    enter(lineage, 0, [a, b])
    assert lineage == {a.key: [0, "start"], b.key: [0, "start"]}
    one, two = Traced("swap", swap)(clone(a), clone(b))
    del one.fitness.values
    (again,) = Traced("flip", flip)(one, i=3)
    assert lineage.keys() == {a.key, b.key}
    enter(lineage, 1, [again, two])
    assert lineage[again.key] == [1, "swap + flip", a.key, b.key]
    assert lineage[two.key] == [1, "swap", b.key, a.key]
    (late,) = Traced("flip", flip)(clone(a), i=0)
    enter(lineage, 2, [late])
    assert ancestors(lineage, [late.key]) == {a.key: [0, "start"], late.key: [2, "flip", a.key]}
