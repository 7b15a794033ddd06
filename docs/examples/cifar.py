"""Prune a small residual network on images, with augmentation; the data are CIFAR-10's binary files, or a folder of images."""

import sys

import evoprune as ep


def main(data: str, epochs: int) -> None:
    """Searches for a mask by k-starts.

    Args:
        data: ``cifar10``, with its archive in the folder that EVOPRUNE_DATA names, or ``image-folder:PATH``.
        epochs: Epochs of the final training.
    """
    recipe = ep.Recipe(epochs=epochs, batch_size=128, lr=0.1, nesterov=True, schedule="one-cycle")
    problem = ep.Problem(model="resnet-8", widths=(8,), data=data, augment=("crop:4", "flip"), recipe=recipe, seed=0)
    result = ep.k_starts(problem, k=4, sparsity=0.9, fitness="loss", fitness_epochs=1, out="cifar", progress=False)
    print(f"{result.mask.survivors} of {problem.prunable_count} weights are left")
    print("test accuracy", round(result.summary["test_accuracy"], 3))


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["cifar10"], *map(int, sys.argv[2:3] or [4]))
