"""Print the result of an export."""

from typing import TYPE_CHECKING

from graftcli.cli.render import human, line

if TYPE_CHECKING:
    from graftcli.formats.options import Exported


def exported(result: "Exported") -> None:
    """Print the format of a file, its difference from PyTorch and its path."""
    opset = f", opset {result.opset}" if result.opset is not None else ""
    line(f"{result.format}, {result.precision}{opset}, {human(result.size, 'B')}")
    images = "noise images" if result.noise else "images"
    line(f"same prediction as PyTorch on {result.agreement:.2%} of {result.images} {images}")
    line(f"logits differ by at most {result.error:.1e} of the largest logit")
    if result.in_float:
        line(f"kept in float: {len(result.in_float)} of {result.layers} layers: {', '.join(result.in_float)}")
    line(f"written: {result.path}")
