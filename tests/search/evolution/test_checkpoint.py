import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from deap import tools

import evoprune as ep
from evoprune.operators import Evidence
from evoprune.runs.run import Run
from evoprune.search.evolution.checkpoint import load_state, save_state
from evoprune.search.evolution.state import State

SHAPES = {"a": (20, 10), "b": (10, 5)}


def journal(folder: Path) -> Run:
    return Run(folder, "evolve", {}, {})


def make_state(gen: int = 3, objectives: int = 1) -> State:
    rng = np.random.default_rng(gen)
    masks = [ep.random_mask(SHAPES, 0.8, rng) for _ in range(5)]
    for i, mask in enumerate(masks):
        mask.fitness.values = (0.1 * i,) * objectives
    masks[3].fitness.values = (-math.inf,) * objectives
    masks[1].evidence = Evidence(masks[1].hash, np.array([3, 1], np.int32), np.array([7, 9], np.int32))
    hall_of_fame = tools.HallOfFame(2) if objectives == 1 else tools.ParetoFront()
    hall_of_fame.update(masks[:3])
    logbook = tools.Logbook()
    logbook.header = ["gen", "mean"]
    for g in range(gen):
        logbook.record(gen=g, mean=0.1 * g, std=math.nan)
        logbook.chapters["loss"].record(gen=g, mean=-1 / 3)
        logbook.chapters["layers"].record(gen=g, a=[1.0, 2.0])
    variation, selection = np.random.default_rng(5), random.Random(6)
    variation.random(3)
    selection.gauss(0, 1)  # leaves a second one for the next call
    population = [masks[3], masks[1], masks[1], masks[4]]
    bests = [(0, masks[0]), (2, masks[4])]
    return State(population, hall_of_fame, variation, selection, gen, logbook, bests, 2, 1.25)


def hall(objectives: int = 1) -> tools.HallOfFame:
    return tools.HallOfFame(2) if objectives == 1 else tools.ParetoFront()


@pytest.mark.parametrize("objectives", [1, 2])
def test_a_state_comes_back(tmp_path: Path, objectives: int) -> None:
    state = make_state(objectives=objectives)
    save_state(journal(tmp_path), state)
    back = load_state(journal(tmp_path), SHAPES, lambda: hall(objectives))
    assert back is not None
    assert (back.gen, back.improved, back.seconds, len(back.bests)) == (3, 2, 1.25, 2)
    for name in ("population", "hall_of_fame"):
        ours, theirs = list(getattr(back, name)), list(getattr(state, name))
        assert ours == theirs
        assert [mask.fitness.values for mask in ours] == [mask.fitness.values for mask in theirs]
    assert [(gen, mask.hash) for gen, mask in back.bests] == [(gen, mask.hash) for gen, mask in state.bests]
    assert [mask.evidence is None for mask in back.population] == [True, False, False, True]
    evidence = back.population[1].evidence
    assert evidence is not None
    assert (evidence.mask, evidence.still.tolist(), evidence.grow.tolist()) == (state.population[1].hash, [3, 1], [7, 9])
    assert evidence.still.dtype == np.int32
    assert back.variation.random(4).tolist() == state.variation.random(4).tolist()
    assert [back.selection.gauss(0, 1) for _ in range(3)] == [state.selection.gauss(0, 1) for _ in range(3)]


def test_a_hall_of_fame_goes_on(tmp_path: Path) -> None:
    state = make_state()
    save_state(journal(tmp_path), state)
    back = load_state(journal(tmp_path), SHAPES, hall)
    assert back is not None
    better = ep.random_mask(SHAPES, 0.8, np.random.default_rng(99))
    better.fitness.values = (0.15,)
    for one in (state, back):
        one.hall_of_fame.update([better])
    assert [m.hash for m in back.hall_of_fame] == [m.hash for m in state.hall_of_fame]
    assert [m.fitness.values for m in back.hall_of_fame] == [(0.2,), (0.15,)]


def test_a_logbook_goes_on(tmp_path: Path) -> None:
    state = make_state()
    save_state(journal(tmp_path), state)
    back = load_state(journal(tmp_path), SHAPES, hall)
    assert back is not None
    assert back.logbook.select("gen", "mean") == state.logbook.select("gen", "mean")
    assert all(math.isnan(row["std"]) for row in back.logbook)
    assert back.logbook.chapters["loss"].select("mean") == [-1 / 3] * 3
    assert back.logbook.chapters["layers"][2]["a"] == [1.0, 2.0]
    back.logbook.record(gen=3, mean=7.0, std=0.0)
    assert back.logbook.stream.split() == ["3", "7"]  # the records before were shown before


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for gen in (8, 9, 10, 11):
        save_state(journal(tmp_path), make_state(gen))
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        f"generation-{gen:06d}.{kind}" for gen in (10, 11) for kind in ("json", "safetensors")
    ]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    elif how == "cut":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    path.write_bytes(content)
    if how == "gone":
        path.unlink()


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone"])
@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path: Path, kind: str, how: str) -> None:
    for gen in (3, 4):
        save_state(journal(tmp_path), make_state(gen))
    damage(tmp_path / "checkpoint" / f"generation-000004.{kind}", how)
    if (kind, how) == ("json", "gone"):  # the state was never finished
        back = load_state(journal(tmp_path), SHAPES, hall)
    else:
        with pytest.warns(UserWarning, match=r"generation-000004\.json is damaged"):
            back = load_state(journal(tmp_path), SHAPES, hall)
    assert back is not None
    assert back.gen == 3
    assert not list((tmp_path / "checkpoint").glob("generation-000004.json"))


def test_damaged_ones_do_not_push_out_what_is_saved_next(tmp_path: Path) -> None:
    for gen in (8, 9):
        save_state(journal(tmp_path), make_state(gen))
        damage(tmp_path / "checkpoint" / f"generation-{gen:06d}.safetensors", "cut")
    with pytest.warns(UserWarning, match="is damaged"):
        assert load_state(journal(tmp_path), SHAPES, hall) is None
    for gen in (1, 2, 3):
        save_state(journal(tmp_path), make_state(gen))
    back = load_state(journal(tmp_path), SHAPES, hall)
    assert back is not None
    assert back.gen == 3


def test_values_edited_by_hand_are_noticed(tmp_path: Path) -> None:
    save_state(journal(tmp_path), make_state())
    path = tmp_path / "checkpoint" / "generation-000003.json"
    content = json.loads(path.read_text())
    content["gen"] = 2
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="its checksum differs"):
        assert load_state(journal(tmp_path), SHAPES, hall) is None


def test_masks_of_another_network_are_noticed(tmp_path: Path) -> None:
    save_state(journal(tmp_path), make_state())
    with pytest.warns(UserWarning, match="another hash"):
        assert load_state(journal(tmp_path), {"a": (250, 1)}, hall) is None


def test_no_checkpoint(tmp_path: Path) -> None:
    assert load_state(journal(tmp_path / "nowhere"), SHAPES, hall) is None


def test_saving_again_over_one_is_the_same(tmp_path: Path) -> None:
    state = make_state()
    save_state(journal(tmp_path), state)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}
    save_state(journal(tmp_path), state)
    assert {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()} == before


def test_a_snapshot_stays_as_it_is() -> None:
    state = make_state()
    waiting = ep.random_mask(SHAPES, 0.8, np.random.default_rng(9))
    state.pending = [[waiting]]
    snapshot = state.copy()
    assert all(a is b for a, b in zip(snapshot.population, state.population, strict=True))  # they stay the same
    waiting.fitness.values = (1.0,)
    state.population.pop()
    state.hall_of_fame.update([waiting])
    state.bests.append((3, waiting))
    state.logbook.record(gen=3, mean=0.0)
    state.variation.random()
    state.selection.random()
    assert not snapshot.pending[0][0].fitness.valid
    assert (len(snapshot.population), len(snapshot.bests), len(snapshot.logbook)) == (4, 2, 3)
    assert waiting not in list(snapshot.hall_of_fame)
    fresh = make_state()
    assert snapshot.variation.bit_generator.state == fresh.variation.bit_generator.state
    assert snapshot.selection.getstate() == fresh.selection.getstate()
