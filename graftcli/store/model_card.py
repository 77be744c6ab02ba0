"""A trained network as a folder that others can load: weights, how to build it, how to feed it, what it is.

model.safetensors   the weights under the architecture's own names; a hybrid's under `teacher.`, `student.`, `seams.`
config.json         for timm's architectures: timm.create_model("local-dir:FOLDER", pretrained=True)
graft.json          for graftcli.load: what the network is made of, how images become its input
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
from graftcli.models.loading.saved import FACTS_FILE, FORMAT, WEIGHTS_FILE, code_in
from graftcli.store.atomic import write_bytes, write_json, write_tensors

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
FILES = (WEIGHTS_FILE, CONFIG_FILE, FACTS_FILE, CARD_FILE)


@dataclass(frozen=True)
class CardFacts:
    """What a network is and how it came about."""

    teacher: Mapping[str, Any]  # complete origins
    student: Mapping[str, Any]
    preprocess: Preprocess  # what the networks saw of each image
    recipe: str
    images: int
    command: str
    numbers: Mapping[str, int | float | str | None]  # what was measured, by what it is called in the card
    hybrid: Mapping[str, Any] | None = None  # what rebuilds it from both networks; None: it is the student, stock

    @property
    def is_timm(self) -> bool:
        return self.hybrid is None and self.student["kind"] == "timm"


def save_student(folder: Path, module: nn.Module, made: CardFacts) -> None:
    """All files of the network."""
    write_weights(folder / WEIGHTS_FILE, module, made)
    write_json(folder / FACTS_FILE, document(made))
    if made.is_timm:
        write_json(folder / CONFIG_FILE, timm_config(module, made))
    write_bytes(folder / CARD_FILE, card(folder, made).encode())


def write_weights(path: Path, module: nn.Module, made: CardFacts) -> None:
    """One file that graftcli reads as this network, wherever it lies."""
    facts = document(made)
    write_tensors(path, module.state_dict(), facts if made.hybrid else {**facts, "origin": facts["student"]})


def document(made: CardFacts) -> dict[str, Any]:
    """The network as plain JSON, both origins saying what was really seen of the images."""
    preprocess = made.preprocess
    seen = {name: getattr(preprocess, name) for name in ("mean", "std", "crop_pct", "interpolation", "squash")}
    own = {"input_size": [preprocess.channels, *preprocess.size], "preprocess": seen}
    return {
        "format": FORMAT,
        "kind": "hybrid" if made.hybrid else "student",
        "teacher": {**made.teacher, **own},
        "student": {**made.student, **own},
        "hybrid": made.hybrid,
        "preprocess": {"size": list(preprocess.size), **seen},
        "classes": made.student["num_classes"],
    }


def timm_config(module: nn.Module, made: CardFacts) -> dict[str, Any]:
    """What timm's `local-dir:` and `hf-hub:` read."""
    preprocess, name = made.preprocess, made.student["name"]
    known = from_timm.registered(name).pretrained
    pool = getattr(module, "global_pool", None)
    pool = getattr(pool, "pool_type", pool)
    return {
        "architecture": name.partition(".")[0],
        "num_classes": made.student["num_classes"],
        "num_features": getattr(module, "num_features", None),
        **({"global_pool": pool} if isinstance(pool, str) else {}),
        "model_args": made.student["kwargs"],
        "pretrained_cfg": {
            "tag": "graftcli",
            "custom_load": False,  # the names are timm's, whatever those of its own pretrained weights are
            "input_size": [preprocess.channels, *preprocess.size],
            "fixed_input_size": bool(known.get("fixed_input_size")),
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_pct,
            "crop_mode": "squash" if preprocess.squash else "center",
            "mean": preprocess.mean,
            "std": preprocess.std,
            "num_classes": made.student["num_classes"],
            "pool_size": None,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }


# -- the model card -----------------------------------------------------------------------------------------------


def card(folder: Path, made: CardFacts) -> str:
    preprocess, teacher = made.preprocess, made.teacher["name"]
    height, width = preprocess.size
    numbers = {name: value for name, value in made.numbers.items() if value is not None}
    lines = [f"| {markdown(name)} | {markdown(_number(value))} |" for name, value in numbers.items()]
    covered = "{}x{}".format(*preprocess.resized)
    shape = f"to {covered}, whatever its proportions" if preprocess.squash else f"to just cover {covered}"
    return _FRONT.format(library="timm" if made.is_timm else "pytorch") + _BODY.format(
        what=_title(made),
        how=f"The recipe {code(made.recipe)} trained it on {made.images:,} images to answer as {code(teacher)} does.",
        command=textwrap.indent(visible(made.command), "    ", lambda line: True),
        numbers="\n".join(lines) if lines else "| none was measured | |",
        code=fenced(loading_code(folder.resolve(), made), "python"),
        library=_LIBRARY[made.is_timm],
        classes=made.student["num_classes"],
        channels={1: "grey", 3: "RGB"}.get(preprocess.channels, f"{preprocess.channels}-channel"),
        size=f"{height}x{width}",
        resize=f"resized ({markdown(preprocess.interpolation)}) {shape}, then the centre",
        mean=", ".join(f"{value:g}" for value in preprocess.mean),
        std=", ".join(f"{value:g}" for value in preprocess.std),
    )


def _title(made: CardFacts) -> str:
    teacher, student = (markdown(made_from["name"]) for made_from in (made.teacher, made.student))
    blocks = made.hybrid["blocks"] if made.hybrid is not None else []
    if "teacher" in blocks:
        replaced = [str(k) for k, role in enumerate(blocks, 1) if role == "student"]
        return f"{teacher} with block{'s' if len(replaced) > 1 else ''} {', '.join(replaced)} of {student}"
    return f"{student}{' with adapters' if blocks else ''}, grafted from {teacher}"


def loading_code(folder: Path, made: CardFacts) -> str:
    """Lines of Python that give the network, in eval mode, as `model`."""
    student = made.student
    if made.is_timm:
        return (
            f"import timm\nmodel = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True).eval()\n"
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"
        )
    if made.hybrid is None and student["kind"] == "torchvision" and "in_chans" not in student["kwargs"]:
        words = "".join(f", {key}={value!r}" for key, value in student["kwargs"].items())
        return (
            "import safetensors.torch, torchvision\n"
            f"model = torchvision.models.get_model({student['name']!r}{words}).eval()\n"
            f"model.load_state_dict(safetensors.torch.load_file({str(folder / WEIGHTS_FILE)!r}))"
        )
    files = {role: is_file(code["where"]) for role, code in _code(made).items()}
    given = "".join(f", {role}=..." for role, from_file in files.items() if not from_file)
    given += ", trust_code=True" if any(files.values()) else ""
    return f"import graftcli\nmodel = graftcli.load({str(folder)!r}{given})"


def _code(made: CardFacts) -> dict[str, Mapping[str, Any]]:
    """The code of the user's own that builds the network, by role."""
    roles = set(made.hybrid["blocks"]) if made.hybrid is not None else {"student"}
    origins = {"teacher": made.teacher, "student": made.student}
    found = {role: code_in(origin) for role, origin in origins.items() if role in roles}
    return {role: code for role, code in found.items() if code is not None}


def _number(value: float | str) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else value


_LIBRARY = {
    True: "timm alone loads it; `hf-hub:` does too, where this folder is uploaded as it is.",
    False: (
        "The path is this folder's: correct it where the folder has moved. `trust_code=True` runs the Python file that "
        "builds the network; in place of an ellipsis give the architecture, an `nn.Module`, that a package builds."
    ),
}
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

{how} No label was used.

## Numbers

| | |
| --- | --- |
{numbers}

## Loading it

{code}

{library}

## Its input and output

{channels} images of {size}: {resize}.
Pixels are divided by 255, then normalised with mean ({mean}) and std ({std}).
It gives {classes} logits an image, in the order of its teacher's classes.

## How it was made

{command}

`run.json` beside this file holds every setting, the versions and the hashes of teacher and images.
It inherits the licences of its teacher and of the images: state yours here before you share it.
"""
