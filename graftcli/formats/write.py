"""Write a network for other tools to read: each file is run on images and compared before it gets its name."""

from pathlib import Path

from graftcli.errors import UsageError
from graftcli.events import FileSaved, Listener, Warned
from graftcli.formats import onnx, pt2
from graftcli.formats.options import OLDEST_OPSET, Exported, ExportOptions, ExportSource
from graftcli.formats.parity import Match, check, examine
from graftcli.formats.quantise import NOTHING, QuantisedLayers
from graftcli.store.atomic import write_bytes


def write(subject: ExportSource, form: ExportOptions, path: Path, listen: Listener = lambda _: None) -> Exported:
    """The network as an ONNX or pt2 file that answers as PyTorch does; where it does not, nothing is written."""
    if subject.noise:
        if form.precision == "int8":
            raise UsageError(
                "int8 takes the ranges of its numbers from real images, and there are none.",
                "Give a folder of them with --images or --calib.",
            )
        listen(Warned("the file is compared with PyTorch on noise alone, for there are no images: give --images"))
    subject.module.eval()
    exam = examine(subject, form)
    if form.format == "pt2":
        data, match, kept = *pt2.exported(subject, form, exam), NOTHING
    else:
        data, match, kept = onnx.exported(subject, form, exam, listen)
    check(match, form, subject.noise)
    write_bytes(path, data)
    listen(FileSaved(str(path)))
    return exported(path, form, len(data), match, subject, kept)


def exported(
    path: Path, form: ExportOptions, size: int, match: Match, subject: ExportSource, kept: QuantisedLayers = NOTHING
) -> Exported:
    """What is to be said of a file that was written."""
    return Exported(
        path=str(path),
        format=form.format,
        precision=form.precision,
        opset=(form.opset or OLDEST_OPSET) if form.format == "onnx" else None,
        size=size,
        error=match.error,
        agreement=match.agreement,
        images=match.images,
        noise=subject.noise,
        layers=kept.layers,
        in_float=kept.in_float,
    )
