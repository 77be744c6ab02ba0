"""Build the network of a model spec, a run or a file that graftcli wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftcli.errors import UsageError
from graftcli.formats.loading import load
from graftcli.models.loading.build import build
from graftcli.models.loading.model_spec import output_of
from graftcli.models.loading.saved import WEIGHTS_FILE, read_document
from graftcli.models.network import Network, PreprocessDefaults
from graftcli.models.weights import Weights, WeightsOrigin


def network_of(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    unsafe: bool = False,
    trust_code: bool = False,
    **build_args: Any,
) -> Network:
    """Build the network of a model spec, a run or a file that graftcli wrote; `build_args` are those of `build`."""
    spec = spec_of(model)
    path = output_of(spec) if checkpoint is None else None
    document = read_document(path)[0] if path else None
    if path is None or document is None or document["kind"] != "hybrid":
        return build(spec, checkpoint=checkpoint, unsafe=unsafe, trust_code=trust_code, **build_args)
    height, width = size = tuple(document["preprocess"]["size"])
    img_size = build_args.get("img_size")
    if img_size is not None and tuple(img_size) != size:
        expected = "x".join(map(str, size))
        raise UsageError(f"`{path}` holds a hybrid with input size {expected}.", "Leave out --img-size.")
    return Network(
        module=load(path, trust_code=trust_code),
        name=path.stem if path.is_file() else path.name,
        source="graftcli",
        weights=Weights(WeightsOrigin.RUN, path.name),
        input_size=(document["student"]["input_size"][0], height, width),
        num_classes=document["classes"],
        preprocess=PreprocessDefaults.read(document["preprocess"]),
        origin=document["student"],
        file=path / WEIGHTS_FILE if path.is_dir() else path,
    )


def spec_of(model: str | Path) -> str:
    """Return a model spec; a `Path` is always a file or folder, a string may also be a model name."""
    if isinstance(model, str | Path):
        return str(model.expanduser().absolute()) if isinstance(model, Path) else model
    raise UsageError(
        f"a model is given as {type(model).__name__}.",
        "Give a model spec, a run or a file. `distill`, `partial`, `compare`, `plan` and `inspect` take an nn.Module.",
    )


def specs_of(models: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the model specs of one model or several."""
    given = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    return [spec_of(model) for model in given]
