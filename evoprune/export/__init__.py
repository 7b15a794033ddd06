"""Export: a mask and its trained network in code of the user's, without evoprune."""

from evoprune.export.pruning import apply as apply
from evoprune.export.pruning import mask_of as mask_of
from evoprune.export.shrinking import shrink as shrink
from evoprune.export.zeros import KeptZero as KeptZero
from evoprune.export.zeros import keep_zero as keep_zero
