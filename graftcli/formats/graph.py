"""Network -> ONNX graph, as a message in memory: plain float32, BatchNorm folded, no trace of this machine."""

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
from graftcli.formats.options import OLDEST_OPSET, ExportOptions, ExportSource, FromPixels

MOST_BYTES = 2**31 - 2**20  # what one ONNX file holds, with room for its graph
IMAGES, LOGITS = "images", "logits"


def traced(subject: ExportSource, form: ExportOptions) -> tuple[nn.Module, Tensor, dict[int, Any] | None]:
    """What an exporter is given: the module, images for it, which of their sizes stay open."""
    batch = 1 if form.static else 2
    preprocess = subject.preprocess
    example = subject.shown(subject.images.new_zeros(batch, preprocess.channels, *preprocess.size), form)
    module = FromPixels(subject.module, preprocess, form.pixels) if form.pixels else subject.module
    if form.static:
        return module.eval(), example, None
    first = 1 if form.pixels == "nhwc" else 2
    # a named size has to take every number; left to the exporter, it takes those that the network does
    sizes = {first: Dim.DYNAMIC, first + 1: Dim.DYNAMIC} if form.dynamic_size else {}
    return module.eval(), example, {0: Dim("batch"), **sizes}


def graph(subject: ExportSource, form: ExportOptions) -> onnx.ModelProto:
    """The network in ONNX, in exactly the opset that was asked for."""
    opset = form.opset or OLDEST_OPSET
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UsageError(f"--opset {opset} is newer than onnx {onnx.__version__} knows.", f"Give {newest} or less.")
    size = sum(tensor.numel() * 4 for tensor in subject.module.state_dict().values())
    if size > MOST_BYTES:
        raise UsageError(
            f"the network's weights are {size / 1e9:.1f} GB; one ONNX file holds 2 GB.", "Take --format pt2."
        )
    model = _exported(subject, form, opset)
    written = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    if written != [opset]:
        raise GateError(
            f"--opset {opset} was asked for; the exporter wrote {', '.join(map(str, written))}.",
            "Nothing was written. Give that --opset, or bring onnxscript to its newest version.",
        )
    return clean(model)


def _exported(subject: ExportSource, form: ExportOptions, opset: int) -> onnx.ModelProto:
    module, example, dynamic = traced(subject, form)

    def made(optimize: bool) -> onnx.ModelProto:
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
        assert program is not None  # with dynamo there is always a program
        model: onnx.ModelProto = program.model_proto
        return model

    # the fused kernels lay their answers out otherwise than the exporter takes them to
    with silence(), sdpa_kernel(SDPBackend.MATH):
        try:
            model = _tried(module, made)
        except Exception as error:
            raise refusal(subject.module, form, error) from error
    if form.dynamic_size:
        _name_sizes(model, 1 if form.pixels == "nhwc" else 2)
    return model


def _tried(module: nn.Module, made: Callable[[bool], onnx.ModelProto]) -> onnx.ModelProto:
    """The graph, in another way where the first fails: attention spelt out, as timm's can be, or not optimised."""
    try:
        model = made(True)
    except Exception:
        fused = [part for part in module.modules() if getattr(part, "fused_attn", None) is True]
        if not fused:
            raise
        with _spelt_out(fused):
            model = made(True)
    return model if _whole(model.graph) else made(False)


@contextmanager
def _spelt_out(fused: Sequence[Any]) -> Iterator[None]:
    """The exporter knows the one operator of fused attention in four dimensions alone; some networks have five."""
    for part in fused:
        part.fused_attn = False
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True


def _whole(graph: onnx.GraphProto) -> bool:
    """Whether everything that is read is there: onnxscript's optimiser loses the bounds of a `Clip` now and then."""
    there = {one.name for one in (*graph.input, *graph.initializer)}.union(*(node.output for node in graph.node))
    return all(name in there for node in graph.node for name in node.input if name)


def _name_sizes(model: onnx.ModelProto, first: int) -> None:
    """The open sizes are called height and width, wherever the graph speaks of them."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[first].dim_param: "height", dims[first + 1].dim_param: "width"}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without what tools note in it: stack traces, paths of this machine, opsets that nobody uses."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        noted.ClearField("doc_string")
        if hasattr(noted, "metadata_props"):
            noted.ClearField("metadata_props")
    used = {node.domain for node in graph.node} | {node.domain for one in model.functions for node in one.node}
    kept = [one for one in model.opset_import if one.domain in used | {"", "ai.onnx"}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def signed(model: onnx.ModelProto, facts: Mapping[str, str]) -> bytes:
    """The file: the checked graph with what it tells of the network, in `metadata_props`."""
    from onnxruntime.transformers.onnx_model import OnnxModel

    OnnxModel(model).topological_sort()  # converters put what they add at the end
    model = clean(model)
    model.producer_name, model.producer_version = "graftcli", __version__
    onnx.helper.set_model_props(model, dict(facts))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the exporter wrote no sound ONNX: {sentence(error)}.", "Try another --opset.") from error
    return bytes(model.SerializeToString())


def told(subject: ExportSource, form: ExportOptions) -> dict[str, str]:
    """What every file says of itself: how images become its input, and what is known of the network."""
    preprocess = subject.preprocess
    own = {
        "input": f"uint8 {form.pixels.upper()}, 0 to 255"
        if form.pixels
        else "float32 NCHW, (pixels / 255 - mean) / std",
        "mean": json.dumps(preprocess.mean),
        "std": json.dumps(preprocess.std),
        "size": json.dumps(preprocess.size),
        "crop_pct": json.dumps(preprocess.crop_pct),
        "interpolation": preprocess.interpolation,
        "crop_mode": "squash" if preprocess.squash else "center",
        "precision": form.precision,
        "graftcli": __version__,
    }
    return {**own, **subject.facts}


def refusal(module: nn.Module, form: ExportOptions, error: Exception) -> GateError:
    """Why a network cannot be exported, by what the exporter said of it."""
    mend = "Its weights are unharmed."
    if form.dynamic_size:
        mend = "Without --dynamic-size it may do: not every network takes every size."
    elif not form.static:
        mend = "With --static, for one image at a time, it may do."
    return GateError(f"`{type(module).__name__}` cannot be exported to {form.format}: {sentence(error)}.", mend)


def sentence(error: Exception) -> str:
    """The root of an exporter's complaint, in a line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


@contextmanager
def silence() -> Iterator[None]:
    """Exporters talk about themselves, on stdout, on stderr and in warnings."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
