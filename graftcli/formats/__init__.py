"""Export networks to files that are compared with PyTorch before they are written. Each format is one module."""

from graftcli.formats import onnx as onnx
from graftcli.formats import pt2 as pt2
from graftcli.formats import safetensors as safetensors
