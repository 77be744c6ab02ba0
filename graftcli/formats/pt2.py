"""A network as torch.export's program: PyTorch alone runs it, without the code that built it."""

import io

import numpy as np
import torch
from torch import fx

from graftcli.formats.graph import refusal, silence, told, traced
from graftcli.formats.options import ExportOptions, ExportSource
from graftcli.formats.parity import Match, ParityCheck


def exported(subject: ExportSource, form: ExportOptions, exam: ParityCheck) -> tuple[bytes, Match]:
    """The file, and what it made of the exam when it was read back."""
    module, example, dynamic = traced(subject, form)
    with silence():
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=None if dynamic is None else (dynamic,))
        except Exception as error:
            raise refusal(subject.module, form, error) from error
    for graph in [part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]:
        for node in graph.nodes:
            for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "custom"):
                node.meta.pop(note, None)  # where each came from, on this machine
    file = io.BytesIO()
    with silence():
        torch.export.save(program, file, extra_files=told(subject, form))
    read = torch.export.load(io.BytesIO(file.getvalue())).module()
    with torch.no_grad():
        return file.getvalue(), exam.taken(lambda images: np.asarray(read(torch.from_numpy(images))))
