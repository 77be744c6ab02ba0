"""A program of torch.export, which needs PyTorch but not the model code."""

import io
from typing import TYPE_CHECKING

from graftcli.formats.options import Encoded, ExportFormat, ExportOptions, ExportSource, add_format

if TYPE_CHECKING:
    from graftcli.events import Listener
    from graftcli.formats.match import Array, ParityCheck, Runner


def _encode(source: ExportSource, options: ExportOptions, check: "ParityCheck", listen: "Listener") -> Encoded:
    import torch
    from torch import fx

    from graftcli.formats.graph import export_error, export_inputs, file_metadata, silence

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
    return Encoded(file.getvalue())


def _runner(data: bytes) -> "Runner":
    import numpy as np
    import torch

    program = torch.export.load(io.BytesIO(data)).module()

    def run(images: "Array") -> "Array":
        with torch.no_grad():
            return np.asarray(program(torch.from_numpy(images)))

    return run


add_format(ExportFormat("pt2", ".pt2", "a torch.export program", _encode, _runner))
