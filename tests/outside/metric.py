"""A metric: how sure the network is of its wrong predictions, on average."""

import torch

import evoprune as ep


@ep.register.metric("false-confidence")
def false_confidence(outputs, targets):
    confidence, predicted = outputs.softmax(dim=1).max(dim=1)
    wrong = predicted != targets
    return confidence[wrong].mean() if wrong.any() else torch.tensor(0.0)


false_confidence.higher_is_better = False
