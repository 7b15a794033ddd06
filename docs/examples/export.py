"""Take a mask into your own training loop, and the trained network into other programs."""

import torch
from torch import nn

import evoprune as ep


def main() -> None:
    """Searches for a mask, trains it in a loop of plain torch, and exports the result."""
    problem = ep.Problem(model="lenet-300-100", data="digits", recipe=ep.Recipe(epochs=10), seed=0)
    result = ep.dissipate(problem, sparsity=0.95, out="export", progress=False)

    network = problem.network()  # with the initial weights
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    ep.export.keep_zero(result.mask, network, optimizer)
    inputs, labels = problem.part("train")
    torch.manual_seed(0)
    for _ in range(20):
        for rows in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    print(sum(int(network.get_parameter(name).count_nonzero()) for name in result.mask.layers), "weights are not zero")

    sparse = ep.sparse(network, result.mask)
    inputs, labels = problem.part("test")
    with torch.no_grad():
        print("test accuracy", round((sparse(inputs[:]).argmax(1) == labels[:]).float().mean().item(), 3))

    exported = ep.export.write("export", to=["torch", "safetensors", "csr"])
    print(*(path.name for path in exported.files))


if __name__ == "__main__":
    main()
