"""A figure: the survivors of each layer, as bars."""

import json

from matplotlib.figure import Figure

import evoprune as ep


@ep.register.figure("bars")
def bars(folder):
    layers = json.loads((folder / "result.json").read_text())["layers"]
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.bar(list(layers), [kept for kept, _ in layers.values()])
    axes.set_ylabel("survivors")
    return figure
