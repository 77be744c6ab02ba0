"""Weights in safetensors, with the facts that graftcli needs to load them."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from graftcli.formats.options import Encoded, ExportFormat, ExportOptions, ExportSource, add_format

if TYPE_CHECKING:
    from graftcli.events import Listener
    from graftcli.formats.match import Array, ParityCheck, Runner


def _encode(source: ExportSource, options: ExportOptions, check: "ParityCheck", listen: "Listener") -> Encoded:
    from graftcli.store.model_card import weights_file

    assert source.card is not None  # set by every caller that exports weights
    return Encoded(weights_file(source.module, source.card))


def _runner(data: bytes) -> "Runner":
    import numpy as np
    import torch

    from graftcli.formats.loading import load

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        file.write_bytes(data)
        network = load(file)

    def run(images: "Array") -> "Array":
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(images)))

    return run


add_format(ExportFormat("safetensors", ".safetensors", "weights", _encode, _runner, has_graph=False, single="copied"))
