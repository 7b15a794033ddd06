"""An evolution for processes to evaluate, and what is known of them from outside."""

import time
from pathlib import Path

import psutil

# An evolution of masks of a small network. BEHAVIOUR says what an evaluation does at the mask POISON, PAUSE that it waits after
# a generation for a file to come, beside the run folder. WORKERS evaluate.
EVOLVE = """
import csv, os, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
import evoprune as ep
from evoprune.evaluation import brief; from evoprune.cli import main as cli; from evoprune.workers import wire

OUT, BEHAVIOUR, POISON = Path(sys.argv[1]), os.environ.get("BEHAVIOUR", ""), os.environ.get("POISON", "")

def term(trained, validation):
    if POISON in [mask.hash for mask in trained.population.masks]:
        if BEHAVIOUR == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if BEHAVIOUR == "hang":
            time.sleep(1000)
        if BEHAVIOUR == "raise":
            raise ValueError("poisoned")
        if BEHAVIOUR == "exit":
            sys.exit(3)
    return -validation.loss

def rubbish(job, masks):
    found = evaluate_chunk(job, masks)
    return [replace(e, terms={"loss": "rubbish"}) if e.mask == POISON else e for e in found]

ep.register_fitness("mine", term)
evaluate_chunk = brief.evaluate_chunk
if BEHAVIOUR == "rubbish":
    wire.evaluate_chunk = rubbish

def make_problem():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3000, 20, generator=generator)
    data = ep.Data(train=(x, (x[:, 0] > 0).long() + (x[:, 1] * x[:, 2] > 0).long()))
    recipe = ep.Recipe(epochs=3, batch_size=50)
    model = torch.nn.Sequential(torch.nn.Linear(20, 60), torch.nn.ReLU(), torch.nn.Linear(60, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return ep.Problem(model=model, data=data, recipe=recipe)

class Replay:  # works in this process, and finishes chunks in the order in which another run's arrived

    def __init__(self, folder):
        self.serial = ep.workers.Serial()
        rows = list(csv.DictReader((folder / "evaluations.csv").open(newline="")))
        self.order, self.done = [row["mask"] for row in rows], {}

    def submit(self, function, *arguments):
        self.serial.submit(function, *arguments)
        ticket, outcome = self.serial.wait()
        self.done[ticket] = outcome
        return ticket

    def wait(self):
        ticket = min(self.done, key=lambda ticket: min(self.order.index(e["mask"]) for e in self.done[ticket].value))
        return ticket, self.done.pop(ticket)

    def count(self):
        return 2

    def close(self):
        pass

class Pause:
    def on_generation(self, state):
        if os.environ.get("PAUSE") == str(state.gen - 1):
            OUT.with_name("paused").touch()
            end = time.monotonic() + 300
            while not OUT.with_name("go").exists():
                time.sleep(0.01)
                if time.monotonic() > end:
                    sys.exit("nobody says go")

def main():
    timeout = float(os.environ["TIMEOUT"]) if "TIMEOUT" in os.environ else None
    options = {"steady_state": True} if "STEADY" in os.environ else {}
    workers, replay = os.environ.get("WORKERS", "auto"), os.environ.get("REPLAY")
    if replay is not None:
        workers, options["slots"] = Replay(Path(replay)), 2
    result = ep.evolve(make_problem(), ep.Evolution(k=4, generations=3, **options), fitness="mine", sparsity=0.8,
                       fitness_epochs=3, trained_bests=2, chunk_size=3, engine="sparse", out=OUT, callbacks=[Pause()],
                       evaluation_timeout=timeout, workers=workers)
    print("DONE", [tuple(record.items()) for record in result.logbook][-1])

if __name__ == "__main__":
    cli.guard(main)
"""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def assert_all_end(pids: list[int]) -> None:
    end = time.monotonic() + 10
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < end, f"processes are left: {left}"
        time.sleep(0.05)


def listening(pids: list[int]) -> list[tuple[str, int]]:
    """Returns the addresses on which processes listen."""
    sockets = [socket for pid in pids for socket in psutil.Process(pid).net_connections("tcp")]
    return [tuple(socket.laddr) for socket in sockets if socket.status == psutil.CONN_LISTEN]


def evaluations(folder: Path) -> int:
    path = folder / "evaluations.csv"
    return max(0, path.read_text().count("\n") - 1) if path.exists() else 0
