"""Export a network to an ONNX graph in memory: float32, BatchNorm folded, no traces of this machine."""

import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from graftcli import __version__
from graftcli.errors import GateError, UsageError
from graftcli.formats.options import OLDEST_OPSET, ExportOptions, ExportSource, Pixels
from graftcli.images.preprocess import Preprocess

MAX_BYTES = 2**31 - 2**20  # bytes of weights in one ONNX file
IMAGES, LOGITS = "images", "logits"


class FromPixels(nn.Module):
    """A network with normalisation: takes uint8 pixels in `order`, and returns network(normalise(pixels))."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocess: Preprocess, order: Pixels) -> None:
        super().__init__()
        self.network, self.order = network, order
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise the pixels and run the network."""
        if self.order == "nhwc":
            pixels = pixels.permute(0, 3, 1, 2)
        logits: Tensor = self.network((pixels.float() / 255 - self.mean) / self.std)
        return logits


def export_inputs(source: ExportSource, options: ExportOptions) -> tuple[nn.Module, Tensor, dict[int, Any] | None]:
    """The module to export, an example input, and its dynamic dimensions."""
    batch = 1 if options.static else 2
    preprocess = source.preprocess
    example = source.to_inputs(source.images.new_zeros(batch, preprocess.channels, *preprocess.size), options)
    module = FromPixels(source.module, preprocess, options.pixels) if options.pixels else source.module
    if options.static:
        return module.eval(), example, None
    first = 1 if options.pixels == "nhwc" else 2
    # a named dimension must accept every size; DYNAMIC lets the exporter infer those that the network accepts
    sizes = {first: Dim.DYNAMIC, first + 1: Dim.DYNAMIC} if options.dynamic_size else {}
    return module.eval(), example, {0: Dim("batch"), **sizes}


def export_graph(source: ExportSource, options: ExportOptions) -> onnx.ModelProto:
    """Export to ONNX in exactly the requested opset."""
    opset = options.opset or OLDEST_OPSET
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UsageError(f"--opset {opset} is newer than onnx {onnx.__version__} supports.", f"Give {newest} or lower.")
    size = sum(tensor.numel() * 4 for tensor in source.module.state_dict().values())
    if size > MAX_BYTES:
        raise UsageError(
            f"the network's weights are {size / 1e9:.1f} GB; an ONNX file holds 2 GB.", "Use --format pt2."
        )
    model = _run_exporter(source, options, opset)
    written = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if written != [opset]:
        raise GateError(
            f"--opset is {opset}, but the exporter wrote {', '.join(map(str, written))}.",
            "Nothing was written. Give that --opset, or upgrade onnxscript.",
        )
    return clean(model)


def _run_exporter(source: ExportSource, options: ExportOptions, opset: int) -> onnx.ModelProto:
    module, example, dynamic = export_inputs(source, options)

    def export(optimize: bool) -> onnx.ModelProto:
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=opset,
            input_names=[IMAGES],
            output_names=[LOGITS],
            dynamic_shapes=None if dynamic is None else (dynamic,),
            optimize=optimize,
        )
        assert program is not None  # dynamo=True always returns a program
        model: onnx.ModelProto = program.model_proto
        return model

    # the output layout of the fused kernels is not the one that the exporter assumes
    with silence(), sdpa_kernel(SDPBackend.MATH):
        try:
            model = _with_fallbacks(module, export)
        except Exception as error:
            raise export_error(source.module, options, error) from error
    if options.dynamic_size:
        _name_sizes(model, 1 if options.pixels == "nhwc" else 2)
    return model


def _with_fallbacks(module: nn.Module, export: Callable[[bool], onnx.ModelProto]) -> onnx.ModelProto:
    """Export; on failure again without timm's fused attention, and if the graph is incomplete, unoptimised."""
    try:
        model = export(True)
    except Exception:
        fused = [layer for layer in module.modules() if getattr(layer, "fused_attn", None) is True]
        if not fused:
            raise
        with _unfused_attention(fused):
            model = export(True)
    return model if _is_complete(model.graph) else export(False)


@contextmanager
def _unfused_attention(fused: Sequence[Any]) -> Iterator[None]:
    """Disable fused attention: the exporter supports it in four dimensions only, and some networks have five."""
    for layer in fused:
        layer.fused_attn = False
    try:
        yield
    finally:
        for layer in fused:
            layer.fused_attn = True


def _is_complete(graph: onnx.GraphProto) -> bool:
    """Whether every node input exists: the optimiser of onnxscript sometimes drops the bounds of a `Clip`."""
    values = {value.name for value in (*graph.input, *graph.initializer)}.union(*(node.output for node in graph.node))
    return all(name in values for node in graph.node for name in node.input if name)


def _name_sizes(model: onnx.ModelProto, first: int) -> None:
    """Give the dynamic dimensions the names height and width throughout the graph."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[first].dim_param: "height", dims[first + 1].dim_param: "width"}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove doc strings, stack traces, paths of this machine, and unused opset imports, in place."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("doc_string")
        if hasattr(item, "metadata_props"):
            item.ClearField("metadata_props")
    nodes = (*graph.node, *(node for function in model.functions for node in function.node))
    used = {node.domain for node in nodes}
    imports = [entry for entry in model.opset_import if entry.domain in used | {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    return model


def serialise(model: onnx.ModelProto, metadata: Mapping[str, str]) -> bytes:
    """Check the graph and serialise it with `metadata` in its `metadata_props`."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel(model).topological_sort()  # converters append their nodes at the end
    model = clean(model)
    model.producer_name, model.producer_version = "graftcli", __version__
    onnx.helper.set_model_props(model, dict(metadata))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the exporter wrote invalid ONNX: {_root_message(error)}.", "Try another --opset.") from error
    return bytes(model.SerializeToString())


def file_metadata(source: ExportSource, options: ExportOptions) -> dict[str, str]:
    """The metadata of an exported file: its preprocessing, and the facts about its network."""
    preprocess = source.preprocess
    own = {
        "input": f"uint8 {options.pixels.upper()}, 0 to 255"
        if options.pixels
        else "float32 NCHW, (pixels / 255 - mean) / std",
        "mean": json.dumps(preprocess.mean),
        "std": json.dumps(preprocess.std),
        "size": json.dumps(preprocess.size),
        "crop_pct": json.dumps(preprocess.crop_pct),
        "interpolation": preprocess.interpolation,
        "crop_mode": "squash" if preprocess.squash else "center",
        "precision": options.precision,
        "graftcli": __version__,
    }
    return {**own, **source.facts}


def export_error(module: nn.Module, options: ExportOptions, error: Exception) -> GateError:
    """The GateError for an exception of an exporter."""
    fix = "Its weights are not affected."
    if options.dynamic_size:
        fix = "Try without --dynamic-size: not every network accepts every size."
    elif not options.static:
        fix = "Try with --static, for one image at a time."
    reason = _root_message(error)
    return GateError(f"`{type(module).__name__}` cannot be exported to {options.format}: {reason}.", fix)


def _root_message(error: Exception) -> str:
    """The message of the root cause, in one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def silence() -> Iterator[None]:
    """Suppress what exporters print to stdout and stderr, and their warnings."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
