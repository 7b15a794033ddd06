"""Operators: mutations and crossovers that keep the number of survivors, and repair for those that do not."""

from evoprune.masks.evidence import Evidence as Evidence
from evoprune.operators.crossover import CROSSOVERS as CROSSOVERS
from evoprune.operators.crossover import by_layer as by_layer
from evoprune.operators.crossover import by_neuron as by_neuron
from evoprune.operators.crossover import uniform as uniform
from evoprune.operators.keeping import keep_survivors as keep_survivors
from evoprune.operators.keeping import repair as repair
from evoprune.operators.mutation import GROW as GROW
from evoprune.operators.mutation import MUTATIONS as MUTATIONS
from evoprune.operators.mutation import informed as informed
from evoprune.operators.mutation import move_density as move_density
from evoprune.operators.mutation import shrink as shrink
from evoprune.operators.mutation import swap as swap
from evoprune.operators.mutation import vary_sparsity as vary_sparsity
from evoprune.operators.positions import SCOPES as SCOPES
