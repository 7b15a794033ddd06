"""Find a mask of your own network on your own tensors."""

import torch
from torch import nn

import evoprune as ep


def spirals(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns points of two spirals, and which of the two each belongs to."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (n,), generator=generator)
    angle = 1 + 9 * torch.rand(n, generator=generator)
    turned = angle + torch.pi * label
    points = torch.stack([angle * turned.cos(), angle * turned.sin()], 1)
    return (points + 0.2 * torch.randn(n, 2, generator=generator)) / 5, label


def network() -> nn.Module:
    """Returns a network; it is called under the problem's seed, so W0 depends on that seed."""
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


def main() -> None:
    """Searches, and prints how many weights each layer keeps."""
    recipe = ep.Recipe(epochs=60, optimizer="Adam", lr=0.01)
    problem = ep.Problem(model=network, data=ep.Data(train=spirals(2000)), recipe=recipe, seed=0)
    result = ep.k_starts(problem, k=16, sparsity=0.95, fitness="loss", fitness_epochs=10, out="own-network", progress=False)
    print(f"{result.mask.survivors} of {problem.prunable_count} weights are left")
    print("test accuracy", round(result.summary["test_accuracy"], 3))
    for name, bits in result.mask.layers.items():
        print(f"{name:10} {tuple(bits.shape)} density {bits.mean():.3f}")


if __name__ == "__main__":
    main()
