"""What a run is asked for, by flags, by Python or by an earlier run."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from graftcli.errors import CheckpointError
from graftcli.models.cuts.pairing import CutOptions
from graftcli.models.loading.documents import fault
from graftcli.models.loading.model_spec import from_anywhere
from graftcli.models.loading.trust import Gate
from graftcli.recipe.file import shipped
from graftcli.runs.scoring import PreprocessOptions
from graftcli.store.run_file import RUN_FILE
from graftcli.store.run_record import read_record

_OF_THIS_CALL = ("trust_code", "record", "recorded")  # what no run record may say of networks

P = TypeVar("P", "ModelPair", "PreprocessOptions", "TrainOptions", "RunConfig")


@dataclass(frozen=True)
class ModelPair:
    """Which two networks, with which weights, cut where."""

    teacher: str
    student: str
    teacher_checkpoint: str | None = None
    student_checkpoint: str | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    ema: bool | None = None
    unsafe_load: bool = False
    trust_code: bool = False
    choice: CutOptions = field(default_factory=CutOptions)
    # the run record that gave the fields named in `recorded`; the user gave the others
    record: str | None = field(default=None, compare=False)
    recorded: frozenset[str] = field(default=frozenset(), compare=False)

    def document_of(self, name: str) -> Path | None:
        """The document that gave a field; None where the user did."""
        return Path(self.record) if self.record is not None and name in self.recorded else None

    def unpickles(self, role: str) -> bool:
        """Whether the weights of the teacher or the student may be a pickle that runs code."""
        name = f"{role}_checkpoint"
        file = getattr(self, name)
        document = self.document_of(name if file is not None else role)
        if document is None:  # a record's flag is not for a file that the user names
            return self.unsafe_load and "unsafe_load" not in self.recorded
        if not self.unsafe_load:
            return False
        return Gate(document, self.trust_code).admits_pickle(Path(file or getattr(self, role)))


@dataclass(frozen=True)
class TrainOptions:
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
class RunConfig:
    """Everything that a run is asked for; `partial` takes it over from an earlier run."""

    networks: ModelPair
    images: str
    val_images: str | None = None
    look: PreprocessOptions = field(default_factory=PreprocessOptions)
    how: TrainOptions = field(default_factory=TrainOptions)


# -- kept with a run ----------------------------------------------------------------------------------------------


def as_kept(asked: RunConfig) -> dict[str, Any]:
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
    return {**asdict(kept), "networks": facts_of(full)}


def facts_of(networks: ModelPair) -> dict[str, Any]:
    """What a record may say of networks, as plain JSON."""
    return {name: value for name, value in asdict(networks).items() if name not in _OF_THIS_CALL}


def absolute(path: str | Path | None) -> str | None:
    """The same path, whatever folder it is read in; "none" is none."""
    if path is None:
        return None
    return "none" if str(path) == "none" else str(Path(path).expanduser().absolute())


def asked_of(folder: Path, *, trust_code: bool = False) -> RunConfig:
    """What a run was asked for, as its record says: data, which names no code that runs unless the user trusts it."""
    asked = asked_from(read_record(folder), folder / RUN_FILE)
    networks = replace(
        asked.networks,
        trust_code=trust_code,
        record=str(folder / RUN_FILE),
        recorded=frozenset(one.name for one in fields(ModelPair)),
    )
    return replace(asked, networks=networks)


def asked_from(run: Mapping[str, Any], file: Path) -> RunConfig:
    asked = dict(run["sessions"][-1]["asked"])
    networks = asked.get("networks")
    if isinstance(networks, dict):
        asked["networks"] = {name: value for name, value in networks.items() if name not in _OF_THIS_CALL}
    try:
        return TypeAdapter(RunConfig).validate_python(asked)
    except ValidationError as err:
        found = f"`{file}` is damaged or was changed: {fault(err, 'sessions.-1.asked')}."
        raise CheckpointError(found, "Give what it should say on the command line, or make the run again.") from err


_TOGETHER = {  # who names the first does not mean an earlier run's others
    "recipe": ("overrides", "steps_scale", "batch"),
    "teacher": ("teacher_checkpoint", "num_classes", "in_chans", "choice"),
    "student": ("student_checkpoint", "choice"),
}


def laid_over(earlier: RunConfig, said: RunConfig, given: Collection[str]) -> RunConfig:
    """What an earlier run was asked for, but for the fields that are `given`, and those that belong to them."""
    fields_given = {*given, *(field for name in given for field in _TOGETHER.get(name, ()))}

    def over(old: P, new: P) -> P:
        return replace(old, **{f.name: getattr(new, f.name) for f in fields(old) if f.name in fields_given})

    whole = over(earlier, said)
    networks = replace(
        over(earlier.networks, said.networks),
        trust_code=said.networks.trust_code or earlier.networks.trust_code,
        recorded=earlier.networks.recorded - fields_given,
    )
    return replace(
        whole,
        networks=networks,
        look=over(earlier.look, said.look),
        how=over(earlier.how, said.how),
    )
