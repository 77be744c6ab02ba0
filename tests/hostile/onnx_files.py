"""ONNX files made by code that would loop without end, take all memory, read other files or are no networks at all.

HOSTILE["loop of 2^62"](path)     writes one file
RUNNING                           the names of those that are odd and yet can be run
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Write = Callable[[Path], None]
SIZE, CLASSES = 16, 5
_HUGE = 1 << 62
_FLOAT, _INT, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> Any:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def ints(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, *values: float) -> Any:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def value(name: str, kind: int = _FLOAT, shape: Sequence[Any] | None = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes: Sequence[Any] = (), held: Sequence[Any] = (), **more: Any) -> Any:
    """A small classifier whose logits get the mean of `extra` added, which the nodes make of `images`."""
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.normal(size=(8, 3, 3, 3)).astype(np.float32), "kernel"),
        numpy_helper.from_array(draw.normal(size=(CLASSES, 8)).astype(np.float32), "head"),
    ]
    body = [
        node("Conv", ["images", "kernel"], ["maps"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["maps"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "head"], ["plain" if nodes else "logits"], transB=1),
    ]
    if nodes:
        body += [
            *nodes,
            node("ReduceMean", ["extra"], ["mean"], keepdims=0),
            node("Add", ["plain", "mean"], ["logits"]),
        ]
    return whole(body, [*weights, *held], **more)


def whole(
    nodes: Sequence[Any],
    held: Sequence[Any] = (),
    *,
    given: Sequence[Any] | None = None,
    made: Sequence[Any] | None = None,
    opset: int = 18,
    domains: Sequence[tuple[str, int]] = (),
    functions: Sequence[Any] = (),
    props: dict[str, str] | None = None,
) -> Any:
    """A model of exactly these nodes."""
    images = [value("images", _FLOAT, ["batch", 3, SIZE, SIZE])] if given is None else given
    logits = [value("logits", _FLOAT, ["batch", CLASSES])] if made is None else made
    graph = helper.make_graph(list(nodes), "hostile", list(images), list(logits), list(held))
    imports = [helper.make_opsetid(domain, version) for domain, version in (("", opset), *domains)]
    found = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))
    helper.set_model_props(found, props or {})
    return found


def saved(make: Callable[[], Any]) -> Write:
    """What writes the model that `make` makes, unchecked."""
    return lambda path: _bytes(path, make().SerializeToString())


def _bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


# ---- loops ----


def _loop(count: str, condition: str = "", body: Sequence[Any] = (), state: str = "zero", mark: str = "") -> list[Any]:
    """Nodes that loop; the body turns `before` into `after`. `mark` keeps the names of loops in loops apart."""
    before, after, go, going, step = (f"{name}{mark}" for name in ("before", "after", "go", "going", "step"))
    inner = list(body) or [node("Add", [before, "one"], [after])]
    graph = helper.make_graph(
        [node("Identity", [go], [going]), *inner],
        "body",
        [value(step, _INT, []), value(go, _BOOL, []), value(before)],
        [value(going, _BOOL, []), value(after)],
    )
    return [node("Loop", [count, condition, state], ["extra"], body=graph)]


_NUMBERS = (floats("zero", 0.0), floats("one", 1.0), ints("many", _HUGE))


def _within(name: str, nodes: Sequence[Any], branch: str = "extra") -> Any:
    return helper.make_graph(list(nodes), name, [], [value(branch)])


def _if(nodes: Sequence[Any]) -> list[Any]:
    return [node("If", ["yes"], ["extra"], then_branch=_within("a", nodes), else_branch=_within("b", nodes))]


def _loops() -> Iterator[tuple[str, Callable[[], Any]]]:
    yes = numpy_helper.from_array(np.array(True), "yes")
    held = (*_NUMBERS, yes)
    yield "loop of 2^62", lambda: model(_loop("many"), held)
    yield "loop without end", lambda: model(_loop("", "yes"), held)
    yield (
        "loop within a loop",
        lambda: model(_loop("many", "", _renamed(_loop("many", "", (), "before", "_inside"))), held),
    )
    yield "loop in a branch", lambda: model(_if(_loop("many")), held)
    yield (
        "loop that grows",
        lambda: model(_loop("many", "", [node("Concat", ["before", "before"], ["after"], axis=0)]), held),
    )
    yield "loop of the pixels", lambda: model([*_bright("count", _HUGE), *_loop("count")], held)
    yield "loop that collects", lambda: model(_collecting(), held)
    yield "loop of 100,000", lambda: model(_loop("few"), (*_NUMBERS, ints("few", 100_000)))
    yield "scan of 2^30", lambda: model(_scan(1 << 30), held)
    yield "scan of 2^40", lambda: model(_scan(1 << 40), held)
    yield "branches, 20 deep", lambda: model(_branches(20), held)


def _renamed(nodes: list[Any]) -> list[Any]:
    nodes[0].output[0] = "after"
    return nodes


def _collecting() -> list[Any]:
    graph = helper.make_graph(
        [
            node("Identity", ["go"], ["going"]),
            node("Identity", ["before"], ["after"]),
            node("Identity", ["images"], ["all"]),
        ],
        "body",
        [value("step", _INT, []), value("go", _BOOL, []), value("before")],
        [value("going", _BOOL, []), value("after"), value("all")],
    )
    return [node("Loop", ["many", "", "zero"], ["last", "extra"], body=graph)]


def _scan(length: int) -> list[Any]:
    body = helper.make_graph(
        [node("Add", ["before", "item"], ["after"]), node("Identity", ["after"], ["out"])],
        "body",
        [value("before", _FLOAT, [1]), value("item", _FLOAT, [1])],
        [value("after", _FLOAT, [1]), value("out", _FLOAT, [1])],
    )
    shape = node("Constant", [], ["shape"], value=ints("", length, 1))
    return [
        shape,
        node("ConstantOfShape", ["shape"], ["items"]),
        node("Scan", ["zero", "items"], ["extra", "outs"], body=body, num_scan_inputs=1),
    ]


def _branches(depth: int) -> list[Any]:
    nodes = [node("Identity", ["one"], ["extra"])]
    for _ in range(depth):
        nodes = [
            node("If", ["yes"], ["extra"], then_branch=_within("a", nodes), else_branch=_within("b", [_end()])),
        ]
    return nodes


def _end() -> Any:
    return node("Identity", ["one"], ["extra"])


def _bright(name: str, most: int) -> list[Any]:
    """`most` where any pixel is not black, else 1: what a first run on black images does not show."""
    return [
        node("Constant", [], ["nothing"], value=floats("", 1e-3)),
        node("Abs", ["images"], ["absolute"]),
        node("ReduceMax", ["absolute"], ["most"], keepdims=0),
        node("Greater", ["most", "nothing"], ["bright"]),
        node("Constant", [], ["large"], value=ints("", most)),
        node("Constant", [], ["small"], value=ints("", 1)),
        node("Where", ["bright", "large", "small"], [name]),
    ]


# ---- sizes ----


def _sizes() -> Iterator[tuple[str, Callable[[], Any]]]:
    for power in (30, 33, 40, 62):
        shape, many = ints("shape", 1 << power), ints("repeats", 1 << power)
        yield f"constant of 2^{power}", partial(model, [node("ConstantOfShape", ["shape"], ["extra"])], [shape])
        yield (
            f"expand to 2^{power}",
            partial(model, [node("Expand", ["one", "shape"], ["extra"])], [shape, floats("one", 1.0)]),
        )
        yield (
            f"tile 2^{power} times",
            partial(model, [node("Tile", ["one", "repeats"], ["extra"])], [many, floats("one", 1.0)]),
        )
        yield (
            f"range of 2^{power}",
            partial(
                model,
                [node("Range", ["from", "to", "by"], ["numbers"]), node("Cast", ["numbers"], ["extra"], to=_FLOAT)],
                [
                    numpy_helper.from_array(np.array(v, np.int64), n)
                    for n, v in (("from", 0), ("to", 1 << power), ("by", 1))
                ],
            ),
        )
    for scale in (100.0, 1000.0, 1e6, 1e12, float("nan"), -3.0):
        yield (
            f"resize by {scale:g}",
            partial(
                model,
                [node("Resize", ["images", "", "scales"], ["extra"], mode="nearest")],
                [floats("scales", 1, 1, scale, scale)],
            ),
        )
    for pad in (1 << 15, 1 << 31, 1 << 61, -5):
        yield (
            f"pad by {pad}",
            partial(model, [node("Pad", ["images", "pads"], ["extra"])], [ints("pads", 0, 0, 0, 0, 0, 0, pad, pad)]),
        )
        yield (
            f"convolution padded by {pad}",
            partial(model, [node("Conv", ["images", "kernel"], ["extra"], pads=[pad, pad, pad, pad])]),
        )
        yield (
            f"pool padded by {pad}",
            partial(
                model, [node("AveragePool", ["images"], ["extra"], kernel_shape=[3, 3], pads=[pad, pad, pad, pad])]
            ),
        )
    for stride in (1 << 12, 1 << 30, 0, -1):
        yield (
            f"transposed convolution of stride {stride}",
            partial(model, [node("ConvTranspose", ["maps", "kernel"], ["extra"], strides=[stride, stride])]),
        )
    yield "doubled 40 times", lambda: model(list(_doubled(40)))
    yield "doubled 20 times", lambda: model(list(_doubled(20)))
    yield (
        "one-hot of 2^40",
        lambda: model(
            [node("OneHot", ["index", "depth", "values"], ["extra"])],
            [ints("index", 1), ints("depth", 1 << 40), floats("values", 0, 1)],
        ),
    )
    yield "random numbers of 2^40", lambda: model([node("RandomNormal", [], ["extra"], shape=[1 << 20, 1 << 20])])
    yield (
        "outer product",
        lambda: model(
            [
                node("ConstantOfShape", ["tall"], ["a"]),
                node("ConstantOfShape", ["wide"], ["b"]),
                node("MatMul", ["a", "b"], ["extra"]),
            ],
            [ints("tall", 1 << 20, 1), ints("wide", 1, 1 << 20)],
        ),
    )
    yield (
        "long product",
        lambda: model(
            [node("ConstantOfShape", ["side"], ["a"]), node("MatMul", ["a", "a"], ["extra"])],
            [ints("side", 12_000, 12_000)],
        ),
    )
    yield (
        "size of the pixels",
        lambda: model(
            [
                *_bright("shape", 1 << 36),
                node("Reshape", ["shape", "row"], ["sizes"]),
                node("ConstantOfShape", ["sizes"], ["extra"]),
            ],
            [ints("row", 1)],
        ),
    )
    yield (
        "many regions",
        lambda: model(
            [node("RoiAlign", ["images", "rois", "index"], ["extra"], output_height=1 << 18, output_width=1 << 18)],
            [numpy_helper.from_array(np.ones((1, 4), np.float32), "rois"), ints("index", 0)],
        ),
    )
    yield "depth to space of 2^31", lambda: model([node("DepthToSpace", ["images"], ["extra"], blocksize=1 << 31)])
    yield "split into 2^31", lambda: model([node("Split", ["images"], ["extra"], num_outputs=1 << 31, axis=0)])
    yield "top 2^62", lambda: model([node("TopK", ["images", "k"], ["extra", "index"])], [ints("k", _HUGE)])
    yield "reshape to -5", lambda: model([node("Reshape", ["images", "to"], ["extra"])], [ints("to", -5, -1)])
    yield (
        "einsum",
        lambda: model(
            [
                node("ConstantOfShape", ["side"], ["a"]),
                node("Einsum", ["a", "a", "a", "a"], ["extra"], equation="a,b,c,d->abcd"),
            ],
            [ints("side", 1 << 12)],
        ),
    )


def _doubled(times: int) -> Iterator[Any]:
    yield node("Identity", ["images"], ["d0"])
    for i in range(times):
        yield node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}" if i + 1 < times else "extra"], axis=3)


# ---- files beside it ----


def _external(location: str, before: Callable[[Path], None] = lambda _: None, **more: str) -> Write:
    """A model whose kernel lies in another file."""

    def write(path: Path) -> None:
        before(path.parent)
        _bytes(path, _pointing(location, **more).SerializeToString())

    return write


def _pointing(location: str, **more: str) -> Any:
    found = model()
    tensor = found.graph.initializer[0]
    _point(tensor, location, **more)
    return found


def _point(tensor: Any, location: str, **more: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=text)


def _outside(folder: Path) -> None:
    (folder.parent / "outside.bin").write_bytes(bytes(10_000))


def _linked(folder: Path) -> None:
    _outside(folder)
    (folder / "linked.bin").unlink(missing_ok=True)
    (folder / "linked.bin").symlink_to(folder.parent / "outside.bin")


def _device(folder: Path) -> None:
    (folder / "zero.bin").unlink(missing_ok=True)
    (folder / "zero.bin").symlink_to("/dev/zero")


def _pipe(folder: Path) -> None:
    (folder / "pipe.bin").unlink(missing_ok=True)
    os.mkfifo(folder / "pipe.bin")


def _short(folder: Path) -> None:
    (folder / "short.bin").write_bytes(bytes(100))


def _in_a_node() -> Any:
    tensor = floats("", *range(8))
    _point(tensor, "/etc/passwd")
    return model([node("Constant", [], ["extra"], value=tensor)])


def _in_a_branch() -> Any:
    tensor = floats("", *range(8))
    _point(tensor, "../outside.bin")
    constant = [node("Constant", [], ["extra"], value=tensor)]
    return model(_if(constant), [numpy_helper.from_array(np.array(True), "yes")])


def _external_files() -> Iterator[tuple[str, Write]]:
    yield "external: /dev/zero", _external("/dev/zero")
    yield "external: /etc/passwd", _external("/etc/passwd")
    yield "external: ../", _external("../outside.bin", _outside)
    yield "external: a/../../", _external("a/../../outside.bin", _outside)
    yield "external: a link to outside", _external("linked.bin", _linked)
    yield "external: a link to /dev/zero", _external("zero.bin", _device)
    yield "external: a pipe", _external("pipe.bin", _pipe)
    yield "external: missing", _external("missing.bin")
    yield "external: a folder", _external(".")
    yield "external: no name", _external("")
    yield "external: a long name", _external("x" * 5000)
    yield "external: itself", _external("w.onnx")
    yield "external: cut short", _external("short.bin", _short)
    yield "external: an offset of 2^60", _external("short.bin", _short, offset=str(1 << 60), length="864")
    yield "external: a length of 2^60", _external("short.bin", _short, length=str(1 << 60))
    yield "external: an offset of -8", _external("short.bin", _short, offset="-8", length="864")
    yield "external: an offset in words", _external("short.bin", _short, offset="first")
    yield "external: in a node", saved(_in_a_node)
    yield "external: in a branch", saved(_in_a_branch)


# ---- graphs ----


def _function(name: str, nodes: Sequence[Any]) -> Any:
    return helper.make_function(
        "own", name, ["x"], ["y"], list(nodes), [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    )


def _calls(depth: int, each: int) -> Any:
    """Functions, each of which calls the next several times."""
    functions = [_function(f"f{depth}", [node("Neg", ["x"], ["y"])])]
    for i in range(depth):
        steps = ["x", *(f"t{k}" for k in range(each - 1)), "y"]
        body = [helper.make_node(f"f{i + 1}", [a], [b], domain="own") for a, b in pairwise(steps)]
        functions.append(_function(f"f{i}", body))
    first = helper.make_node("f0", ["images"], ["extra"], domain="own")
    return model([first], domains=[("own", 1)], functions=functions)


def _own(name: str, domain: str) -> Any:
    return model(
        [helper.make_node(name, ["images"], ["extra"], domain=domain)], domains=[(domain, 1)] if domain else ()
    )


def _dims(*dims: int) -> Any:
    found = model([node("Identity", ["large"], ["extra"])])
    tensor = found.graph.initializer.add(name="large", data_type=_FLOAT)
    tensor.dims.extend(dims)
    tensor.raw_data = bytes(16)
    return found


def _input(kind: int = _FLOAT, shape: Sequence[Any] | None = None) -> Any:
    images = value("images", kind, ["batch", 3, SIZE, SIZE] if shape is None else shape)
    return model([node("Cast", ["images"], ["extra"], to=_FLOAT)], given=[images])


def _rank(found: Any) -> Any:
    found.graph.input[0].type.tensor_type.ClearField("shape")
    return found


def _sequence() -> Any:
    return helper.make_tensor_sequence_value_info("images", _FLOAT, None)


def _output(nodes: Sequence[Any], held: Sequence[Any] = (), kind: int = _FLOAT) -> Any:
    """A network of these nodes alone, which make `logits` of `images`."""
    return whole(nodes, held, made=[value("logits", kind)])


def _graphs() -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "cycle", lambda: model([node("Add", ["images", "b"], ["extra"]), node("Neg", ["extra"], ["b"])])
    yield "missing input", lambda: model([node("Add", ["images", "nowhere"], ["extra"])])
    yield "missing output", lambda: whole([node("Neg", ["images"], ["x"])])
    yield "no nodes", lambda: whole([])
    yield "no output", lambda: whole([node("Neg", ["images"], ["logits"])], made=[])
    yield (
        "two inputs",
        lambda: model([node("Neg", ["b"], ["extra"])], given=[value("images", _FLOAT, ["n", 3, 16, 16]), value("b")]),
    )
    yield "one name twice", lambda: model([node("Neg", ["images"], ["extra"]), node("Abs", ["images"], ["extra"])])
    yield "300,000 nodes", lambda: model(list(_chain(300_000)))
    yield "20,000 nodes", lambda: model(list(_chain(20_000)))
    yield "nodes of no kind", lambda: model([node("", ["images"], ["extra"])])
    yield (
        "a node without inputs",
        lambda: model([node("Conv", [], ["extra"]), node("Gemm", [], []), node("MatMul", [], [])]),
    )
    yield "an unknown operator", lambda: _own("Bomb", "")
    yield "operators of another maker", lambda: _own("Bomb", "com.example")
    yield (
        "operators of Microsoft's",
        lambda: model(
            [helper.make_node("Gelu", ["images"], ["extra"], domain="com.microsoft")], domains=[("com.microsoft", 1)]
        ),
    )
    yield "opset 999", lambda: model(opset=999)
    yield "opset 1", lambda: model(opset=1)
    yield "functions, 2^40 calls", lambda: _calls(40, 2)
    yield "functions, 10^8 calls", lambda: _calls(8, 10)
    yield (
        "functions that call each other",
        lambda: model(
            [helper.make_node("f", ["images"], ["extra"], domain="own")],
            domains=[("own", 1)],
            functions=[_function("f", [helper.make_node("f", ["x"], ["y"], domain="own")])],
        ),
    )
    yield "a tensor of 2^62 numbers", lambda: _dims(1 << 31, 1 << 31)
    yield "a tensor of 2^33 numbers", lambda: _dims(1 << 33)
    yield "a tensor of -4 numbers", lambda: _dims(-4)
    yield "a tensor of 100,000 dimensions", lambda: _dims(*[1 << 62] * 100_000)
    yield "images of 2^31", lambda: _input(shape=["n", 3, 1 << 31, 1 << 31])
    yield "images of 2^62", lambda: _input(shape=["n", 3, _HUGE, 16])
    yield "images of -16", lambda: _input(shape=["n", 3, -16, 16])
    yield "batches of 2^31", lambda: _input(shape=[1 << 31, 3, 16, 16])
    yield "batches of 100,000", lambda: _input(shape=[100_000, 3, 16, 16])
    yield "images of three dimensions", lambda: _input(shape=[3, 16, 16])
    yield "images of no shape", lambda: _rank(_input())
    yield "images of 7 channels", lambda: _input(shape=["n", 7, 16, 16])
    for kind in ("INT64", "STRING", "BOOL", "BFLOAT16", "COMPLEX64", "FLOAT8E4M3FN", "INT4", "UNDEFINED"):
        yield f"images of {kind}", partial(_input, getattr(TensorProto, kind))
    yield "images of type 99", lambda: _input(99)
    yield (
        "a sequence of images",
        lambda: whole([node("ConcatFromSequence", ["images"], ["logits"], axis=0)], given=[_sequence()]),
    )
    yield "sparse weights", _sparse
    yield "weights of a strange type", lambda: _odd_weights(TensorProto.FLOAT8E5M2)
    yield "weights of type 77", lambda: _odd_weights(77)
    yield "logits: the images", lambda: _output([node("Identity", ["images"], ["logits"])])
    yield "logits: one number", lambda: _output([node("ReduceMean", ["images"], ["logits"], keepdims=0)])
    yield "logits: one row", lambda: _output([node("ConstantOfShape", ["s"], ["logits"])], [ints("s", 1, 5)])
    yield "logits: no classes", lambda: _output([node("ConstantOfShape", ["s"], ["logits"])], [ints("s", 1, 0)])
    yield "logits: 2^28 classes", lambda: _output([node("ConstantOfShape", ["s"], ["logits"])], [ints("s", 1, 1 << 28)])
    yield (
        "logits: text",
        lambda: _output(
            [node("Flatten", ["images"], ["f"]), node("Cast", ["f"], ["logits"], to=TensorProto.STRING)],
            kind=TensorProto.STRING,
        ),
    )
    yield (
        "logits: a sequence",
        lambda: whole(
            [node("SplitToSequence", ["images"], ["logits"], axis=1)],
            made=[helper.make_tensor_sequence_value_info("logits", _FLOAT, None)],
        ),
    )
    yield (
        "logits: as many as the batch",
        lambda: _output(
            [
                node("Flatten", ["images"], ["f"]),
                node("Transpose", ["f"], ["t"]),
                node("MatMul", ["f", "t"], ["logits"]),
            ]
        ),
    )
    yield "logits: no numbers", lambda: model([node("Div", ["z", "z"], ["extra"])], [floats("z", 0.0)])


def _chain(count: int) -> Iterator[Any]:
    for i in range(count):
        yield node("Neg", [f"c{i}" if i else "images"], [f"c{i + 1}" if i + 1 < count else "extra"])


def _sparse() -> Any:
    found = model([node("Identity", ["sparse"], ["extra"])])
    sparse = found.graph.sparse_initializer.add()
    sparse.values.CopyFrom(floats("sparse", 1.0))
    sparse.indices.CopyFrom(ints("", 5))
    sparse.dims.extend([1 << 40])
    return found


def _odd_weights(kind: int) -> Any:
    found = model()
    found.graph.initializer[0].data_type = kind
    return found


# ---- what a file says of itself, and files that are none ----

_SETTINGS: dict[str, dict[str, str]] = {
    "std of 0": {"mean": "[0, 0, 0]", "std": "[0, 1, 1]"},
    "std of -1": {"mean": "[0, 0, 0]", "std": "[-1, 1, 1]"},
    "std of NaN": {"mean": "[0, 0, 0]", "std": "[NaN, 1, 1]"},
    "mean of infinity": {"mean": "[Infinity, 0, 0]", "std": "[1, 1, 1]"},
    "mean of 10^400": {"mean": f"[1{'0' * 400}, 0, 0]", "std": "[1, 1, 1]"},
    "mean of 7 channels": {"mean": json.dumps([0] * 7), "std": json.dumps([1] * 7)},
    "mean of a million channels": {"mean": json.dumps([0] * 1_000_000)},
    "mean in words": {"mean": '["a", "b", "c"]', "std": '{"a": 1}'},
    "mean of lists": {"mean": "[[0], [0], [0]]", "std": "[null, null, null]"},
    "nested a million deep": {"mean": "[" * 1_000_000, "classes": "[" * 1_000_000 + "]" * 1_000_000},
    "size of 0": {"size": "[0, 16]"},
    "size of 2^62": {"size": f"[{_HUGE}, {_HUGE}]"},
    "size of one number": {"size": "[16]"},
    "size of halves": {"size": "[0.5, 0.5]"},
    "crop_pct of 0": {"crop_pct": "0"},
    "crop_pct of NaN": {"crop_pct": "NaN"},
    "crop_pct of 10^-300": {"crop_pct": "1e-300"},
    "an unknown interpolation": {"interpolation": "x" * 100_000},
    "classes of dicts": {"classes": '[{"a": 1}, {}]'},
    "two classes": {"classes": '["a", "b"]'},
    "a million classes": {"classes": json.dumps([str(i) for i in range(1_000_000)])},
    "classes of 60 MB": {"classes": json.dumps(["x" * 60_000_000])},
    "JSON of 60 MB": {"note": "x" * 60_000_000},
    "numbers of 10,000 digits": {"size": f"[{'9' * 10_000}, 16]", "crop_pct": "9" * 10_000},
}


def _open_sizes(props: dict[str, str]) -> Any:
    """A classifier for images of any size, which says this of itself."""
    return model(given=[value("images", _FLOAT, ["n", 3, "height", "width"])], props=props)


def _files() -> Iterator[tuple[str, Write]]:
    yield "file: empty", lambda path: _bytes(path, b"")
    yield "file: text", lambda path: _bytes(path, b"no network\n")
    yield "file: cut short", lambda path: _bytes(path, model().SerializeToString()[:400])
    yield "file: noise", lambda path: _bytes(path, np.random.default_rng(0).bytes(100_000))
    yield "file: 100 MB of zeros", lambda path: _bytes(path, bytes(100_000_000))
    yield "file: a million empty nodes", lambda path: _bytes(path, _field(7, b"\x0a\x00" * 1_000_000))
    yield "file: 20 million empty nodes", lambda path: _bytes(path, _field(7, b"\x0a\x00" * 20_000_000))
    yield "file: graphs, 1,000 deep", lambda path: _bytes(path, _deep(1000))
    yield "file: a folder", lambda path: path.mkdir()
    yield "file: a pipe", os.mkfifo
    yield "file: /dev/zero", lambda path: path.symlink_to("/dev/zero")
    yield "file: a link to nothing", lambda path: path.symlink_to("nowhere")


def _field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message."""
    length, left = b"", len(data)
    while left > 127:
        length, left = length + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + data


def _deep(depth: int) -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    data = b""
    for _ in range(depth):
        data = _field(1, _field(5, _field(6, data) + b"\xa0\x01" + bytes([AttributeProto.GRAPH])))
    return _field(7, data)


def _all() -> Iterator[tuple[str, Write]]:
    for name, make in (*_loops(), *_sizes(), *_graphs()):
        yield name, saved(make)
    yield from _external_files()
    for name, props in _SETTINGS.items():
        yield f"settings: {name}", saved(partial(_open_sizes, props))
    yield from _files()


HOSTILE: dict[str, Write] = dict(_all())
