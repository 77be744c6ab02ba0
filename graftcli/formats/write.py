"""Export a network to a file that is compared with PyTorch before it is written."""

from pathlib import Path

from graftcli.errors import UsageError
from graftcli.events import FileSaved, Listener, Warned
from graftcli.formats.options import OLDEST_OPSET, Exported, ExportOptions, ExportSource
from graftcli.formats.parity import check_match, parity_check
from graftcli.store.atomic import write_bytes


def write(source: ExportSource, options: ExportOptions, path: Path, listen: Listener = lambda _: None) -> Exported:
    """Export to a file. Raises GateError, and writes nothing, if the file does not match PyTorch."""
    if source.noise:
        if options.precision == "int8":
            raise UsageError(
                "int8 needs real images for calibration, and there are none.",
                "Give a folder of images with --images or --calib.",
            )
        listen(Warned("there are no images, so the file is compared with PyTorch on noise only: give --images"))
    source.module.eval()
    check = parity_check(source, options)
    encoded = options.kind.encode(source, options, check, listen)
    match = check.run(options.kind.runner(encoded.data))
    check_match(match, options, source.noise)
    write_bytes(path, encoded.data)
    listen(FileSaved(str(path)))
    return Exported(
        path=str(path),
        format=options.format,
        precision=options.precision,
        opset=(options.opset or OLDEST_OPSET) if options.kind.has_opset else None,
        size=len(encoded.data),
        error=match.error,
        agreement=match.agreement,
        images=match.images,
        noise=source.noise,
        layers=encoded.quantised.layers,
        in_float=encoded.quantised.in_float,
    )
