"""Write your own DEAP algorithm: restarts whenever the best fitness has not risen for three generations."""

import random

import matplotlib.pyplot as plt
import numpy as np
from deap import algorithms, tools

import evoprune as ep


def restarting(population: list, toolbox: object, generations: int, best: tools.HallOfFame) -> tools.Logbook:
    """Evolves a population; one that stagnates is replaced by new random masks, beside the best of all."""
    logbook, stagnant = tools.Logbook(), 0
    for gen in range(generations):
        offspring = algorithms.varAnd(population, toolbox, cxpb=0.4, mutpb=0.6)
        unknown = [mask for mask in offspring if not mask.fitness.valid]
        for mask, values in zip(unknown, toolbox.map(toolbox.evaluate, unknown), strict=True):
            mask.fitness.values = values
        before = best[0].fitness.values[0] if len(best) else -np.inf
        best.update(offspring)
        stagnant = 0 if best[0].fitness.values[0] > before else stagnant + 1
        logbook.record(gen=gen, best=best[0].fitness.values[0], mean=np.mean([m.fitness.values[0] for m in offspring]))
        population = [*toolbox.select(offspring, len(offspring) - 1), toolbox.clone(best[0])]
        if stagnant == 3:
            population, stagnant = [*toolbox.population(n=len(population) - 1), toolbox.clone(best[0])], 0
            print(f"generation {gen}: restart")
    return logbook


def main() -> None:
    """Evolves masks of a small network, and draws the course."""
    random.seed(0)  # of DEAP's own draws
    rng = np.random.default_rng(0)
    problem = ep.Problem(model="mlp", widths=(32, 16), data="digits", seed=0)
    toolbox = ep.make_toolbox(problem, sparsity=0.9, fitness="loss", fitness_epochs=2)
    toolbox.register("mutate", ep.operators.swap, fraction=0.1, rng=rng)
    toolbox.register("mate", ep.operators.by_neuron, rng=rng)
    toolbox.register("select", tools.selTournament, tournsize=3)
    best = tools.HallOfFame(1)
    logbook = restarting(toolbox.population(n=12), toolbox, 24, best)
    print(f"best validation loss {-best[0].fitness.values[0]:.3f}, {best[0].survivors} survivors")

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.step(logbook.select("gen"), logbook.select("best"), where="post", label="best so far")
    axes.plot(logbook.select("gen"), logbook.select("mean"), label="mean of the offspring")
    axes.set(xlabel="generation", ylabel="fitness (minus validation loss)", title="An evolution that restarts")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig("deap_algorithm.png", dpi=120)


if __name__ == "__main__":
    main()
