"""What came of an export -> lines on a terminal."""

from typing import TYPE_CHECKING

from graftcli.cli.render import human, line

if TYPE_CHECKING:
    from graftcli.formats.options import Exported


def exported(found: "Exported") -> None:
    """Print what a file is, how near it is to the network, and where it lies."""
    opset = f", opset {found.opset}" if found.opset is not None else ""
    line(f"{found.format}, {found.precision}{opset}, {human(found.size, 'B')}")
    what = "images of noise" if found.noise else "images"
    line(f"answers as PyTorch does on {found.agreement:.2%} of {found.images} {what}")
    line(f"logits differ by {found.error:.1e} of the largest at most")
    if found.in_float:
        line(f"kept in float: {len(found.in_float)} of {found.layers} layers: {', '.join(found.in_float)}")
    line(f"written: {found.path}")
