"""The map over chunks: requests on the wire, and real SCOOP processes."""

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import python

import evoprune as ep
from evoprune.errors import LostTaskError
from evoprune.evaluation import evaluator as evaluate
from evoprune.evaluation.job import remember
from evoprune.workers.choose import choose_workers
from evoprune.workers.chunks import equal_pieces
from evoprune.workers.serial import serial
from evoprune.workers.wire import evaluations_of, work

SCRIPT = """
import sys, json
import torch
import evoprune as ep
from evoprune.evaluation.evaluator import Evaluator
from scoop import futures

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(6, 40, bias=False), torch.nn.LayerNorm(40), torch.nn.ReLU())
        self.head = torch.nn.Linear(40, 3)
    def forward(self, x):
        return self.head(self.inner(x))

def term(trained, validation):
    return validation.accuracy - validation.loss

def loss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)

ep.register_fitness("mine", term)

if __name__ == "__main__":
    torch.manual_seed(1)
    x = torch.randn(8000, 6)
    problem = ep.Problem(model=Net(), data=ep.Data(train=(x, (x[:, 0] > 0).long())), recipe=ep.Recipe(epochs=4), loss=loss)
    toolbox = ep.make_toolbox(problem, fitness="mine", fitness_epochs=4)
    masks = toolbox.population(n=24)
    ours = toolbox.map(toolbox.evaluate, masks)
    workers = sorted({e.worker for e in toolbox.evaluate.func.known.values()})
    toolbox.register("map", futures.map)
    toolbox.evaluate.func.known.clear()
    foreign = list(toolbox.map(toolbox.evaluate, masks[:4]))
    print("RESULT" + json.dumps({"ours": ours, "foreign": foreign, "workers": workers, "scoop": ep.parallel.under_scoop()}))
"""


def masks_of(problem: ep.Problem, count: int) -> list[ep.Mask]:
    rng = np.random.default_rng(0)
    return [ep.random_mask(problem.shapes, 0.9, rng) for _ in range(count)]


def test_a_worker_asks_once_for_a_problem_it_does_not_have(digits: ep.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_problems", {})
    evaluator = ep.Evaluator(digits, epochs=1)
    (mask,) = masks_of(digits, 1)
    request = (digits.hash, asdict(evaluator.brief), [np.packbits(mask.bits).tobytes()])
    assert work(request[0], None, *request[1:], None) == ("unknown problem", None)
    outcome, (fields,) = work(request[0], evaluator.payload, *request[1:], None)
    assert outcome == "ok"
    assert work(request[0], None, *request[1:], None)[0] == "ok"
    assert fields["terms"] == evaluator.evaluate([mask], serial)[0].terms


def test_a_worker_returns_its_traceback(digits: ep.Problem) -> None:
    outcome, text = work(digits.hash, b"rubbish", {"threads": 1}, [], None)
    assert outcome == "error"
    assert "Traceback" in text


def test_requests_and_replies_are_small_and_plain() -> None:
    problem = ep.Problem(data="digits", model="lenet-300-100", recipe=ep.Recipe(epochs=1))
    evaluator = ep.Evaluator(problem, epochs=1)
    masks = masks_of(problem, 4)
    packed = [np.packbits(mask.bits).tobytes() for mask in masks]
    request = pickle.dumps((evaluator.key, None, asdict(evaluator.brief), packed, None))
    assert len(request) < 1.1 * problem.prunable_count / 8 * len(masks) + 1000
    remember(evaluator.key, problem)
    reply = work(evaluator.key, None, asdict(evaluator.brief), packed[:1], None)
    json.dumps(reply)  # plain values
    assert len(pickle.dumps(reply)) < 1000


@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12), workers=st.integers(1, 9))
def test_masks_are_shared_out_in_equal_pieces(sizes: list[int], workers: int) -> None:
    chunks = [list(range(8 * i, 8 * i + size)) for i, size in enumerate(sizes)]
    pieces = equal_pieces(chunks, workers)
    assert sorted(mask for piece in pieces for mask in piece) == [mask for chunk in chunks for mask in chunk]
    lengths = [len(piece) for piece in pieces]
    assert lengths == sorted(lengths, reverse=True)
    assert min(lengths) >= 1
    assert max(lengths) <= min(max(sizes), min(lengths) + 1)
    assert len(pieces) % workers == 0 or max(lengths) == 1


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        (None, "not iterable"),
        ([], "other masks"),
        ([{}], "evidence"),
        ([{"mask": "another"}], "other masks"),
        ([{"status": "great"}], "an evaluation is"),
        ([{"terms": {"loss": 1.0}}], "an evaluation is"),
        ([{"seconds": "long"}], "could not convert"),
    ],
)
def test_rubbish_is_not_taken_for_evaluations(digits: ep.Problem, reply: object, wrong: str) -> None:
    (mask,) = masks_of(digits, 1)
    fields = asdict(ep.Evaluator(digits, epochs=1).evaluate([mask], serial)[0])
    assert evaluations_of("ok", [fields], [mask])[0].terms == fields["terms"]
    rubbish = [fields | changes if changes else {} for changes in reply] if reply else reply
    with pytest.raises(LostTaskError, match=wrong):
        evaluations_of("ok", rubbish, [mask])


def test_scoop_is_not_chosen_where_it_does_not_run() -> None:
    assert choose_workers("auto") is serial
    with pytest.raises(ep.InputError, match=r"python -m evoprune\.scoop"):
        choose_workers("scoop")
    with pytest.raises(ep.InputError, match="expected auto, serial, scoop, dask:N"):
        choose_workers("dask")


def result_of(output: str) -> dict[str, object]:
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


@pytest.mark.process
def test_scoop_evaluates_a_module_of_the_users_own_bit_for_bit(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    code, output = python(script, folder=tmp_path)
    assert code == 0, output
    alone = result_of(output)
    code, output = python("-m", "evoprune.scoop", "-n", 2, script, folder=tmp_path)
    assert code == 0, output
    together = result_of(output)
    assert (alone["scoop"], together["scoop"]) == (False, True)
    assert together["ours"] == alone["ours"]
    assert together["foreign"] == alone["foreign"] == alone["ours"][:4]
    assert (len(alone["workers"]), len(together["workers"])) == (1, 2)
