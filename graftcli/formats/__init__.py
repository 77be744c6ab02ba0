"""Export networks to files that are compared with PyTorch before they are written. `kinds` holds the formats."""

from graftcli.folders import modules_in
from graftcli.formats import kinds

modules_in(kinds)  # each adds its format
