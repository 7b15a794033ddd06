"""Evaluate on a cluster: the same result, bit for bit, on whatever workers."""

import sys

import evoprune as ep


def main(workers: str) -> None:
    """Searches twice, on workers and in this process.

    Args:
        workers: Such as ``dask:2``, ``pool:2``, or the address of a scheduler that runs already, ``tcp://host:8786``.
    """
    problem = ep.Problem(model="mlp", widths=(32, 16), data="digits", recipe=ep.Recipe(epochs=20), seed=0)
    options = {"k": 12, "sparsity": 0.9, "fitness_epochs": 2, "progress": False}
    far = ep.k_starts(problem, **options, workers=workers, out="cluster")
    here = ep.k_starts(problem, **options, workers="serial")
    print("test accuracy", round(far.summary["test_accuracy"], 3))
    print("the same mask:", far.mask == here.mask)
    print("the same fitness:", far.logbook[0]["best"] == here.logbook[0]["best"])


if __name__ == "__main__":
    main(*sys.argv[1:] or ["dask:2"])
