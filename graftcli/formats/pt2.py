"""Export a network with torch.export to a .pt2 file, which needs PyTorch but not the model code."""

import io

import numpy as np
import torch
from torch import fx

from graftcli.formats.graph import export_error, export_inputs, file_metadata, silence
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.formats.parity import Match, ParityCheck


def export(source: ExportSource, options: ExportOptions, check: ParityCheck) -> tuple[bytes, Match]:
    """Return the file and, after reading it back, how it matches PyTorch."""
    module, example, dynamic = export_inputs(source, options)
    with silence():
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=None if dynamic is None else (dynamic,))
        except Exception as error:
            raise export_error(source.module, options, error) from error
    for graph in [part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]:
        for node in graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "custom"):
                node.meta.pop(key, None)  # holds paths of this machine
    file = io.BytesIO()
    with silence():
        torch.export.save(program, file, extra_files=file_metadata(source, options))
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    with torch.no_grad():
        return file.getvalue(), check.run(lambda images: np.asarray(loaded(torch.from_numpy(images))))
