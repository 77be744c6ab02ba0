"""Save a trained network as a folder that other libraries can load: weights, configuration and model card.

model.safetensors   the weights, with the architecture's names; a hybrid's under `teacher.`, `student.`, `seams.`
config.json         for timm architectures: timm.create_model("local-dir:FOLDER", pretrained=True)
graft.json          for graftcli.load: the architecture and the preprocessing
README.md           the model card
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from graftcli.formatting import code, fenced, markdown, visible
from graftcli.images.pixels import Preprocess
from graftcli.models.loading import from_timm
from graftcli.models.loading.code_import import is_file
from graftcli.models.loading.saved import FACTS_FILE, FORMAT, WEIGHTS_FILE, user_code_in
from graftcli.models.loading.tensor_file import serialized
from graftcli.models.origin import CodeOrigin, HybridFacts, Origin
from graftcli.store.atomic import write_bytes, write_json

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
FILES = (WEIGHTS_FILE, CONFIG_FILE, FACTS_FILE, CARD_FILE)


@dataclass(frozen=True)
class CardFacts:
    """The origin, preprocessing and training of a network."""

    teacher: Origin  # complete origins
    student: Origin
    preprocess: Preprocess
    recipe: str
    images: int
    command: str
    numbers: Mapping[str, int | float | str | None]  # metrics by the name that the card shows
    hybrid: HybridFacts | None = None  # how to rebuild a hybrid; None: a stock student

    @property
    def is_timm(self) -> bool:
        """Whether timm can load the network by itself."""
        return self.hybrid is None and self.student["kind"] == "timm"


def save_student(folder: Path, module: nn.Module, facts: CardFacts) -> None:
    """Write all files of the network into a folder."""
    write_weights(folder / WEIGHTS_FILE, module, facts)
    write_json(folder / FACTS_FILE, document(facts))
    if facts.is_timm:
        write_json(folder / CONFIG_FILE, timm_config(module, facts))
    write_bytes(folder / CARD_FILE, card(folder, facts).encode())


def write_weights(path: Path, module: nn.Module, facts: CardFacts) -> None:
    """Write the network as a single file that graftcli can load."""
    write_bytes(path, weights_file(module, facts))


def weights_file(module: nn.Module, facts: CardFacts) -> bytes:
    """The content of that file."""
    metadata = document(facts)
    return serialized(module.state_dict(), metadata if facts.hybrid else {**metadata, "origin": metadata["student"]})


def document(facts: CardFacts) -> dict[str, Any]:
    """The content of graft.json; both origins have the preprocessing that was used in training."""
    preprocess = facts.preprocess
    settings = {name: getattr(preprocess, name) for name in ("mean", "std", "crop_pct", "interpolation", "squash")}
    used = {"input_size": [preprocess.channels, *preprocess.size], "preprocess": settings}
    return {
        "format": FORMAT,
        "kind": "hybrid" if facts.hybrid else "student",
        "teacher": {**facts.teacher, **used},
        "student": {**facts.student, **used},
        "hybrid": facts.hybrid,
        "preprocess": {"size": list(preprocess.size), **settings},
        "classes": facts.student["num_classes"],
    }


def timm_config(module: nn.Module, facts: CardFacts) -> dict[str, Any]:
    """The content of config.json, as timm's `local-dir:` and `hf-hub:` read it."""
    preprocess, student = facts.preprocess, facts.student
    assert student["kind"] == "timm"  # guaranteed by the caller
    name = student["name"]
    defaults = from_timm.registered(name).pretrained
    pool = getattr(module, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    return {
        "architecture": name.partition(".")[0],
        "num_classes": student["num_classes"],
        "num_features": getattr(module, "num_features", None),
        **({"global_pool": pool} if isinstance(pool, str) else {}),
        "model_args": student["kwargs"],
        "pretrained_cfg": {
            "tag": "graftcli",
            "custom_load": False,  # the parameter names are timm's, even if the pretrained weights use others
            "input_size": [preprocess.channels, *preprocess.size],
            "fixed_input_size": bool(defaults.get("fixed_input_size")),
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_pct,
            "crop_mode": "squash" if preprocess.squash else "center",
            "mean": preprocess.mean,
            "std": preprocess.std,
            "num_classes": student["num_classes"],
            "pool_size": None,
            "first_conv": defaults.get("first_conv"),
            "classifier": defaults.get("classifier"),
        },
    }


# -- the model card -----------------------------------------------------------------------------------------------


def card(folder: Path, facts: CardFacts) -> str:
    """The text of the model card, for a network saved in `folder`."""
    preprocess, teacher = facts.preprocess, facts.teacher["name"]
    height, width = preprocess.size
    usage = loading_code(folder.resolve(), facts)
    numbers = {name: value for name, value in facts.numbers.items() if value is not None}
    lines = [f"| {markdown(name)} | {markdown(_number(value))} |" for name, value in numbers.items()]
    target = "{}x{}".format(*preprocess.resized)
    resize = f"to {target}, ignoring the aspect ratio" if preprocess.squash else f"to cover {target}"
    return _FRONT.format(library="timm" if facts.is_timm else "pytorch") + _BODY.format(
        what=_title(facts),
        how=f"Trained with the recipe {code(facts.recipe)} on {facts.images:,} images to match {code(teacher)}.",
        command=textwrap.indent(visible(facts.command), "    ", lambda line: True),
        numbers="\n".join(lines) if lines else "| not measured | |",
        code=fenced(usage, "python"),
        library="Loads with timm. " + _UPLOAD if facts.is_timm else _hints(usage),
        classes=facts.student["num_classes"],
        channels={1: "grey", 3: "RGB"}.get(preprocess.channels, f"{preprocess.channels}-channel"),
        size=f"{height}x{width}",
        resize=f"resized ({markdown(preprocess.interpolation)}) {resize}, then center-cropped",
        mean=", ".join(f"{value:g}" for value in preprocess.mean),
        std=", ".join(f"{value:g}" for value in preprocess.std),
    )


def _title(facts: CardFacts) -> str:
    teacher, student = (markdown(origin["name"]) for origin in (facts.teacher, facts.student))
    blocks = facts.hybrid["blocks"] if facts.hybrid is not None else []
    if "teacher" in blocks:
        replaced = [str(k) for k, role in enumerate(blocks, 1) if role == "student"]
        return f"{teacher} with block{'s' if len(replaced) > 1 else ''} {', '.join(replaced)} of {student}"
    return f"{student}{' with adapters' if blocks else ''}, grafted from {teacher}"


def loading_code(folder: Path, facts: CardFacts) -> str:
    """Python code that loads the network, in eval mode, as `model`."""
    student = facts.student
    if facts.is_timm:
        return (
            f"import timm\nmodel = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval()\n"
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
        )
    if facts.hybrid is None and student["kind"] == "torchvision" and "in_chans" not in student["kwargs"]:
        arguments = "".join(f", {key}={value!r}" for key, value in student["kwargs"].items())
        return (
            "import safetensors.torch, torchvision\n"
            f"model = torchvision.models.get_model({student['name']!r}{arguments}).eval()\n"
            f"model.load_state_dict(safetensors.torch.load_file({str(folder / WEIGHTS_FILE)!r}))"
        )
    from_file = {role: is_file(source["where"]) for role, source in _code_sources(facts).items()}
    arguments = "".join(f", {role}=..." for role, is_from_file in from_file.items() if not is_from_file)
    arguments += ", trust_code=True" if any(from_file.values()) else ""
    return f"import graftcli\nmodel = graftcli.load({str(folder)!r}{arguments})"


def _code_sources(facts: CardFacts) -> dict[str, CodeOrigin]:
    """The user code that builds the networks, by role."""
    roles = set(facts.hybrid["blocks"]) if facts.hybrid is not None else {"student"}
    origins = {"teacher": facts.teacher, "student": facts.student}
    sources = {role: user_code_in(origin) for role, origin in origins.items() if role in roles}
    return {role: source for role, source in sources.items() if source is not None}


def _number(value: float | str) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value


def _hints(usage: str) -> str:
    """Notes on the loading code of a network that timm cannot load."""
    hints = ["Change the path if the folder has moved."]
    if "trust_code=True" in usage:
        hints.append("`trust_code=True` runs the Python file that builds the network.")
    if "=..." in usage:
        hints.append("Replace each `...` with an `nn.Module` of the architecture.")
    return " ".join(hints)


_UPLOAD = "If you upload this folder to the Hugging Face Hub, use `hf-hub:` and its name."
_FRONT = """\
---
library_name: {library}
tags:
- image-classification
- knowledge-distillation
---
"""
_BODY = """\
# {what}

{how} No labels were used.

## Results

| | |
| --- | --- |
{numbers}

## Usage

{code}

{library}

## Input and output

Input: {channels} images of {size}, {resize}.
Pixels are divided by 255, then normalised with mean ({mean}) and std ({std}).
Output: {classes} logits per image, in the order of the teacher's classes.

## Training

{command}

`run.json` in this folder holds all settings, the versions, and the hashes of teacher and images.
The licences of the teacher and of the images apply to this model: state its licence here before you share it.
"""
