"""Export a network to a file that is compared with PyTorch before it is written."""

from pathlib import Path

from graftcli.errors import UsageError
from graftcli.events import FileSaved, Listener, Warned
from graftcli.formats import onnx, pt2
from graftcli.formats.options import OLDEST_OPSET, Exported, ExportOptions, ExportSource
from graftcli.formats.parity import Match, check_match, parity_check
from graftcli.formats.quantise import NOT_QUANTISED, QuantisedLayers
from graftcli.store.atomic import write_bytes


def write(source: ExportSource, options: ExportOptions, path: Path, listen: Listener = lambda _: None) -> Exported:
    """Export to ONNX or PT2. Raises GateError, and writes nothing, if the file does not match PyTorch."""
    if source.noise:
        if options.precision == "int8":
            raise UsageError(
                "int8 needs real images for calibration, and there are none.",
                "Give a folder of images with --images or --calib.",
            )
        listen(Warned("there are no images, so the file is compared with PyTorch on noise only: give --images"))
    source.module.eval()
    check = parity_check(source, options)
    if options.format == "pt2":
        data, match, quantised = *pt2.export(source, options, check), NOT_QUANTISED
    else:
        data, match, quantised = onnx.export(source, options, check, listen)
    check_match(match, options, source.noise)
    write_bytes(path, data)
    listen(FileSaved(str(path)))
    return export_record(path, options, len(data), match, source, quantised)


def export_record(
    path: Path,
    options: ExportOptions,
    size: int,
    match: Match,
    source: ExportSource,
    quantised: QuantisedLayers = NOT_QUANTISED,
) -> Exported:
    """The record of a written file."""
    return Exported(
        path=str(path),
        format=options.format,
        precision=options.precision,
        opset=(options.opset or OLDEST_OPSET) if options.format == "onnx" else None,
        size=size,
        error=match.error,
        agreement=match.agreement,
        images=match.images,
        noise=source.noise,
        layers=quantised.layers,
        in_float=quantised.in_float,
    )
