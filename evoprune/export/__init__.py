"""Export: a mask and its trained network in code of the user's, and in files for programs that do not know evoprune."""

from evoprune.export.formats import EXPORTS as EXPORTS
from evoprune.export.pruning import apply as apply
from evoprune.export.pruning import mask_of as mask_of
from evoprune.export.shrinking import shrink as shrink
from evoprune.export.writing import Exported as Exported
from evoprune.export.writing import write as write
from evoprune.export.zeros import KeptZero as KeptZero
from evoprune.export.zeros import keep_zero as keep_zero
