"""A back end of workers: processes of Python's own pool. Four methods."""

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import evoprune as ep


@ep.register.workers("futures")
class Futures:
    def __init__(self, name, evaluation_timeout=None):
        self.size = int(name.partition(":")[2])
        self.pool = ProcessPoolExecutor(self.size, mp_context=multiprocessing.get_context("spawn"))
        self.futures = set()

    def submit(self, function, *arguments):
        future = self.pool.submit(ep.workers.attempt, ep.workers.pack(function, arguments))
        self.futures.add(future)
        return future

    def wait(self):
        done = next(iter(wait(self.futures, return_when=FIRST_COMPLETED).done))
        self.futures.remove(done)
        return done, done.result()

    def count(self):
        return self.size

    def close(self):
        self.pool.shutdown()
