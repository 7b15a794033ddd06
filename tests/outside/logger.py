"""A logger: a line on the terminal for each generation, and one at the end."""

import evoprune as ep


@ep.register.logger("terse")
class Terse:
    def on_generation(self, generation):
        fittest = generation.values["fitness/max"]
        print(f"terse: generation {generation.gen}, {generation.survivors} survivors, fitness up to {fittest:.3g}")

    def on_end(self, end):
        print(f"terse: {end.status}")
