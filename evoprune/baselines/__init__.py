"""Baselines: published ways to find a mask at initialization, and controls."""

from evoprune.baselines.controls import redrawn as redrawn
from evoprune.baselines.controls import shuffled as shuffled
from evoprune.baselines.lottery import lottery_ticket as lottery_ticket
from evoprune.baselines.random_masks import dense as dense
from evoprune.baselines.random_masks import erk as erk
from evoprune.baselines.random_masks import random as random
from evoprune.baselines.registry import BASELINES as BASELINES
from evoprune.baselines.registry import Baseline as Baseline
from evoprune.baselines.saliency import default_examples as default_examples
from evoprune.baselines.saliency import force as force
from evoprune.baselines.saliency import grasp as grasp
from evoprune.baselines.saliency import iterative_snip as iterative_snip
from evoprune.baselines.saliency import magnitude as magnitude
from evoprune.baselines.saliency import snip as snip
from evoprune.baselines.saliency import synflow as synflow
from evoprune.baselines.scores import top_scores as top_scores
