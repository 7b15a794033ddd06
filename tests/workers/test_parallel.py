"""The map over chunks: requests on the wire, and real SCOOP processes."""

import json
import pickle
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import python, python_anew

import evoprune as ep
from evoprune.errors import LostTaskError
from evoprune.evaluation.brief import evaluate_chunk
from evoprune.evaluation.job import forget_all, remember
from evoprune.workers.base import Broken, Lost, Outcome, Returned, attempt, pack
from evoprune.workers.choose import choose_workers
from evoprune.workers.chunks import equal_pieces
from evoprune.workers.policy import evaluate, run
from evoprune.workers.serial import Serial
from evoprune.workers.wire import UNKNOWN_JOB, evaluations_of, pack_masks, work

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
    print("RESULT" + json.dumps({"ours": ours, "foreign": foreign, "workers": workers, "scoop": ep.workers.under_scoop()}))
"""


def masks_of(problem: ep.Problem, count: int) -> list[ep.Mask]:
    rng = np.random.default_rng(0)
    return [ep.random_mask(problem.shapes, 0.9, rng) for _ in range(count)]


def test_a_worker_asks_for_a_job_that_it_does_not_have(digits: ep.Problem) -> None:
    evaluator = ep.Evaluator(digits, epochs=1)
    key, payload = evaluator.job.key, evaluator.job.payload
    masks = masks_of(digits, 1)
    assert work(key, None, pack_masks(masks), None) == UNKNOWN_JOB
    (fields,) = work(key, payload, pack_masks(masks), None)
    assert work(key, None, pack_masks(masks), None) != UNKNOWN_JOB
    assert fields["terms"] == evaluator.evaluate(masks)[0].terms


def test_a_worker_returns_its_traceback_and_ends_not() -> None:
    outcome = attempt(pack(work, ("key", b"rubbish", [], None)))
    assert isinstance(outcome, Broken)
    assert "Traceback" in outcome.traceback
    assert attempt(pack(sys.exit, (3,))) == Lost("its evaluation ended the process: SystemExit(3)")
    with pytest.raises(ep.InputError, match="a task cannot be sent to workers"):
        pack(print, (threading.Lock(),))


def test_requests_and_replies_are_small_and_plain() -> None:
    problem = ep.Problem(data="digits", model="lenet-300-100", recipe=ep.Recipe(epochs=1))
    job = ep.Evaluator(problem, epochs=1).job
    masks = masks_of(problem, 4)
    request = pack(work, (job.key, None, pack_masks(masks), None))
    assert len(request) < 1.1 * problem.prunable_count / 8 * len(masks) + 1000
    remember(job.key, job)
    reply = work(job.key, None, pack_masks(masks[:1]), None)
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
    evaluator = ep.Evaluator(digits, epochs=1)
    fields = asdict(evaluator.evaluate([mask])[0])
    assert evaluations_of(Returned([fields]), [mask], evaluator.job)[0].terms == fields["terms"]
    rubbish = [fields | changes if changes else {} for changes in reply] if reply else reply
    with pytest.raises(LostTaskError, match=wrong):
        evaluations_of(Returned(rubbish), [mask], evaluator.job)


def test_workers_are_chosen_by_name() -> None:
    assert isinstance(choose_workers("auto"), Serial)
    with pytest.raises(ep.InputError, match=r"python -m evoprune\.scoop"):
        choose_workers("scoop")
    with pytest.raises(ep.InputError, match="expected auto, serial, scoop, pool:N, dask:N"):
        choose_workers("ray:2")
    with pytest.raises(ep.InputError, match="expected pool:N, with N processes"):
        choose_workers("pool:none")
    with pytest.raises(ep.InputError, match="the methods submit, wait, count and close"):
        choose_workers(print)


class Scripted:
    """Workers in this process; a function of a task's masks, and of how often they were sent, says which tasks are lost."""

    def __init__(self, lost: Callable[[tuple[bytes, ...], int], bool], evaluation_timeout: float | None = None) -> None:
        self.lost, self.evaluation_timeout = lost, evaluation_timeout
        self.sent: Counter[tuple[bytes, ...]] = Counter()
        self.tasks: deque[tuple[int, bytes, bool]] = deque()

    def submit(self, function: object, *arguments: object) -> int:
        key, payload, packed, _ = arguments
        self.sent[tuple(packed)] += 1
        is_lost = self.lost(tuple(packed), self.sent[tuple(packed)])
        self.tasks.append((self.sent.total(), pack(function, (key, payload, packed, None)), is_lost))
        return self.sent.total()

    def wait(self) -> tuple[int, Outcome]:
        ticket, task, is_lost = self.tasks.popleft()
        return ticket, Lost("killed") if is_lost else attempt(task)

    def count(self) -> int:
        return 2

    def close(self) -> None:
        self.tasks.clear()


LOSSES = {"chunks": (lambda packed, times: len(packed) > 1, 0), "at first": (lambda packed, times: times == 1, 0),
          "always": (lambda packed, times: True, 4)}  # fmt: skip


@pytest.mark.parametrize("slots", [None, 1])
@pytest.mark.parametrize("losses", LOSSES)
def test_a_chunk_is_given_up_mask_by_mask_and_a_mask_after_another_try(
    digits: ep.Problem, losses: str, slots: int | None
) -> None:
    masks = masks_of(digits, 4)
    job = ep.Evaluator(digits, epochs=1).job
    chunks = [masks[:2], masks[2:]]
    expected = {e.mask: e.terms for chunk in chunks for e in evaluate_chunk(job, chunk)}
    lost, failures = LOSSES[losses]
    workers = Scripted(lost, evaluation_timeout=60)
    found = [e for evaluations in evaluate(workers, job, chunks, slots) for e in evaluations]
    assert sorted(e.mask for e in found) == sorted(expected)
    assert sum(e.has_failed for e in found) == failures
    assert {e.note for e in found if e.has_failed} == ({"killed; evaluation_timeout is 60 s"} if failures else set())
    assert all(e.terms == expected[e.mask] for e in found if not e.has_failed)
    assert max(workers.sent.values()) <= 2
    assert not workers.tasks


def test_the_job_is_sent_once_to_each_worker_that_lacks_it(digits: ep.Problem) -> None:
    """Workers in two processes answer that they lack it; no more than two tasks at a time bring it."""
    job = ep.Evaluator(digits, epochs=1).job
    with_payload: list[int] = []

    class Forgetful(Scripted):
        def submit(self, function: object, *arguments: object) -> int:
            ticket = super().submit(function, *arguments)
            if arguments[1] is not None:
                with_payload.append(ticket)
            else:
                forget_all()
            return ticket

    found = list(evaluate(Forgetful(lambda *_: False), job, [[mask] for mask in masks_of(digits, 6)]))
    assert len(found) == 6
    assert len(with_payload) == 2


def test_tasks_of_an_evaluation_that_was_left_are_no_others(digits: ep.Problem) -> None:
    masks, workers = masks_of(digits, 4), Scripted(lambda *_: False)
    job = ep.Evaluator(digits, epochs=1).job
    next(evaluate(workers, job, [masks[:1], masks[1:2]]))
    assert workers.tasks
    found = [e.mask for evaluations in evaluate(workers, job, [masks[2:]]) for e in evaluations]
    assert sorted(found) == sorted(mask.hash for mask in masks[2:])


def test_tasks_are_run_and_tried_again_where_they_are_lost() -> None:
    lost = iter([True, False, True, True, False])

    class Flaky(Serial):
        def wait(self) -> tuple[int, Returned | Lost]:
            ticket, outcome = super().wait()
            return ticket, Lost("killed") if next(lost) else outcome

    assert list(run(Flaky(), divmod, [(7, 2), (9, 4), (1, 1)])) == [
        (1, Returned((2, 1))),
        (0, Lost("killed")),
        (2, Returned((1, 0))),
    ]


def result_of(output: str) -> dict[str, object]:
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


@pytest.mark.slow
@pytest.mark.process
def test_scoop_evaluates_a_module_of_the_users_own_bit_for_bit(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    code, output = python(script, folder=tmp_path)
    assert code == 0, output
    alone = result_of(output)
    code, output = python_anew("-m", "evoprune.scoop", "-n", 2, script, folder=tmp_path)
    assert code == 0, output
    together = result_of(output)
    assert (alone["scoop"], together["scoop"]) == (False, True)
    assert together["ours"] == alone["ours"]
    assert together["foreign"] == alone["foreign"] == alone["ours"][:4]
    assert (len(alone["workers"]), len(together["workers"])) == (1, 2)
