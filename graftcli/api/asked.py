"""What a run is asked for, by flags, by Python or by an earlier run."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from graftcli.api.scoring import Look
from graftcli.nets.grammar import from_anywhere
from graftcli.nets.pair import Choice
from graftcli.recipe.file import shipped
from graftcli.store.runs import read_run

P = TypeVar("P", "Networks", "Look", "How", "Asked")


@dataclass(frozen=True)
class Networks:
    """Which two networks, with which weights, cut where."""

    teacher: str
    student: str
    teacher_checkpoint: str | None = None
    student_checkpoint: str | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    ema: bool | None = None
    unsafe_load: bool = False
    choice: Choice = field(default_factory=Choice)


@dataclass(frozen=True)
class How:
    """Which recipe, on what machine."""

    recipe: str = "graft"
    overrides: tuple[str, ...] = ()
    steps_scale: float = 1.0
    batch: int | None = None  # in every stage; None: as the recipe says
    seed: int = 0
    device: str = "auto"
    amp: bool = False
    compile: bool = False
    cache_gb: float | None = None
    jobs: int | None = None
    strict: bool = False


@dataclass(frozen=True)
class Asked:
    """Everything that a run is asked for; `partial` takes it over from an earlier run."""

    networks: Networks
    images: str
    val_images: str | None = None
    look: Look = field(default_factory=Look)
    how: How = field(default_factory=How)


# -- kept with a run ----------------------------------------------------------------------------------------------


def as_kept(asked: Asked) -> dict[str, Any]:
    """Plain JSON from which `asked_of` gives the same back, in whatever folder it is read."""
    networks, how = asked.networks, asked.how
    full = replace(
        networks,
        teacher=from_anywhere(networks.teacher),
        student=from_anywhere(networks.student),
        teacher_checkpoint=absolute(networks.teacher_checkpoint),
        student_checkpoint=absolute(networks.student_checkpoint),
    )
    recipe = how.recipe if how.recipe in shipped() else absolute(how.recipe)
    kept = replace(
        asked,
        networks=full,
        images=absolute(asked.images) or asked.images,
        val_images=absolute(asked.val_images),
        how=replace(how, recipe=recipe or how.recipe),
    )
    return asdict(kept)


def absolute(path: str | Path | None) -> str | None:
    """The same path, whatever folder it is read in; "none" is none."""
    if path is None:
        return None
    return "none" if str(path) == "none" else str(Path(path).expanduser().absolute())


def asked_of(folder: Path) -> Asked:
    """What a run was asked for."""
    return asked_from(read_run(folder))


def asked_from(run: Mapping[str, Any]) -> Asked:
    return TypeAdapter(Asked).validate_python(run["sessions"][-1]["asked"])


_TOGETHER = {  # who names the first does not mean an earlier run's others
    "recipe": ("overrides", "steps_scale", "batch"),
    "teacher": ("teacher_checkpoint", "num_classes", "in_chans", "choice"),
    "student": ("student_checkpoint", "choice"),
}


def laid_over(earlier: Asked, said: Asked, given: Collection[str]) -> Asked:
    """What an earlier run was asked for, but for the fields that are `given`, and those that belong to them."""
    fields_given = {*given, *(field for name in given for field in _TOGETHER.get(name, ()))}

    def over(old: P, new: P) -> P:
        return replace(old, **{f.name: getattr(new, f.name) for f in fields(old) if f.name in fields_given})

    whole = over(earlier, said)
    return replace(
        whole,
        networks=over(earlier.networks, said.networks),
        look=over(earlier.look, said.look),
        how=over(earlier.how, said.how),
    )
