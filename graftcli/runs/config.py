"""The config of a run, from flags, Python arguments or the record of an earlier run."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from graftcli.errors import CheckpointError
from graftcli.images.sources.place import is_url, source_text
from graftcli.models.cuts.pairing import CutOptions
from graftcli.models.loading.documents import fault
from graftcli.models.loading.model_spec import absolute_spec
from graftcli.models.loading.trust import Gate
from graftcli.models.network import height_and_width
from graftcli.recipe import Recipe
from graftcli.recipe.file import shipped
from graftcli.runs.scoring import PreprocessOptions, per_channel
from graftcli.store.atomic import plain
from graftcli.store.run_file import RUN_FILE, read_record
from graftcli.store.run_record import Document, RunRecord

_OF_THIS_CALL = ("trust_code", "record", "recorded")  # fields of ModelPair that are not saved in a run record

P = TypeVar("P", "ModelPair", "PreprocessOptions", "TrainOptions", "RunConfig")


@dataclass(frozen=True)
class ModelPair:
    """The teacher and the student, their weights, and how they are cut."""

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
    # `record` is the run record from which the fields in `recorded` come; all other fields come from the user
    record: str | None = field(default=None, compare=False)
    recorded: frozenset[str] = field(default=frozenset(), compare=False)

    def document_of(self, name: str) -> Path | None:
        """The run record that a field comes from; None if it comes from the user."""
        return Path(self.record) if self.record is not None and name in self.recorded else None

    def unpickles(self, role: str) -> bool:
        """Whether unsafe unpickling is allowed for the weights of the teacher or the student."""
        name = f"{role}_checkpoint"
        file = getattr(self, name)
        document = self.document_of(name if file is not None else role)
        if document is None:  # the flag in a record does not apply to a file that the user gives
            return self.unsafe_load and "unsafe_load" not in self.recorded
        if not self.unsafe_load:
            return False
        return Gate(document, self.trust_code).admits_pickle(Path(file or getattr(self, role)))


@dataclass(frozen=True)
class TrainOptions:
    """The recipe and its overrides, the seed, and the machine settings."""

    recipe: str | Recipe = "graft"  # name, YAML file, or Recipe
    overrides: tuple[str, ...] = ()
    steps_scale: float = 1.0
    batch: int | None = None  # of every stage; None: from the recipe
    seed: int = 0
    device: str = "auto"
    amp: bool | None = None  # None: on CUDA devices that compute in bfloat16
    compile: bool = False
    cache_gb: float | None = None
    max_images: int | None = None  # training images to select; None: all
    select: str = "balanced"  # the method of selection
    device_cache_gb: float | None = None
    images_gb: float | None = None  # of decoded images in memory; None: half of what is free
    jobs: int | None = None
    strict: bool = False


@dataclass(frozen=True)
class RunConfig:
    """Everything that the user configures for a run; `partial` takes its defaults from an earlier run."""

    networks: ModelPair
    images: str
    val_images: str | None = None
    look: PreprocessOptions = field(default_factory=PreprocessOptions)
    how: TrainOptions = field(default_factory=TrainOptions)
    extra_images: str | None = None


_FIELDS = {  # option -> config field, where the names differ
    "set": "overrides",
    **dict.fromkeys(("blocks_count", "split_teacher", "split_student"), "choice"),
}


def config_of(options: Mapping[str, Any]) -> RunConfig:
    """Build the config of a run from options named like the flags; missing options and None mean the default."""
    values = {_FIELDS.get(name, name): value for name, value in options.items() if value is not None}
    if "choice" in values:
        cuts = (options.get(name) for name in ("split_teacher", "split_student"))
        values["choice"] = CutOptions(options.get("blocks_count"), *(None if c is None else tuple(c) for c in cuts))
    if "img_size" in values:
        values["img_size"] = height_and_width(values["img_size"])
    for name in {"mean", "std"} & {*values}:
        values[name] = per_channel(name, values[name])
    if "overrides" in values:
        override = values["overrides"]
        values["overrides"] = (override,) if isinstance(override, str) else tuple(override)
    values |= {name: str(values[name]) for name in _PATHS if isinstance(values.get(name), Path)}
    networks = ModelPair(**{"teacher": "", "student": "", **_fields(ModelPair, values)})
    look, how = PreprocessOptions(**_fields(PreprocessOptions, values)), TrainOptions(**_fields(TrainOptions, values))
    return RunConfig(**{"images": "", **_fields(RunConfig, values)}, networks=networks, look=look, how=how)


def config_fields(options: Mapping[str, object]) -> set[str]:
    """Return the names of the config fields that these options set."""
    return {_FIELDS.get(name, name) for name, value in options.items() if value is not None}


_PATHS = ("teacher_checkpoint", "student_checkpoint", "images", "val_images", "extra_images", "recipe")


def _fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in fields(cls) if field.name in values}


# -- saved in a run record --------------------------------------------------------------------------------------------


def config_json(config: RunConfig) -> Document:
    """Return the config as plain JSON with absolute paths, which `recorded_config` reads back."""
    networks, train_options = config.networks, config.how
    networks = replace(
        networks,
        teacher=absolute_spec(networks.teacher),
        student=absolute_spec(networks.student),
        teacher_checkpoint=absolute(networks.teacher_checkpoint),
        student_checkpoint=absolute(networks.student_checkpoint),
    )
    config = replace(
        config,
        networks=networks,
        images=absolute(config.images) or config.images,
        val_images=absolute(config.val_images),
        extra_images=absolute(config.extra_images),
    )
    how = {**asdict(train_options), "recipe": _recipe_json(train_options.recipe)}
    document: Document = plain({**asdict(config), "networks": models_json(networks), "how": how})
    return document


def _recipe_json(recipe: str | Recipe) -> str | Document:
    """Return the name of a built-in recipe, the absolute path of a file, or the content of a `Recipe`."""
    if isinstance(recipe, Recipe):
        return recipe.model_dump(mode="json")
    return recipe if recipe in shipped() else absolute(recipe) or recipe


def models_json(networks: ModelPair) -> dict[str, object]:
    """Return the fields of a model pair that a run record saves, as plain JSON."""
    return {name: value for name, value in asdict(networks).items() if name not in _OF_THIS_CALL}


def absolute(path: str | Path | None) -> str | None:
    """Return the absolute path; ``"none"`` and URLs stay as they are."""
    if path is None:
        return None
    if is_url(path):
        return source_text(path)
    return "none" if str(path) == "none" else str(Path(path).expanduser().absolute())


def recorded_config(folder: Path, *, trust_code: bool = False) -> RunConfig:
    """Read the config of an earlier run from its record; code that it names runs only with `trust_code`."""
    config = config_from_record(read_record(folder), folder / RUN_FILE)
    networks = replace(
        config.networks,
        trust_code=trust_code,
        record=str(folder / RUN_FILE),
        recorded=frozenset(field.name for field in fields(ModelPair)),
    )
    return replace(config, networks=networks)


def config_from_record(record: RunRecord, file: Path) -> RunConfig:
    """Return the config of the last session of a run."""
    document = dict(record.session.config)
    networks = document.get("networks")
    if isinstance(networks, dict):
        document["networks"] = {name: value for name, value in networks.items() if name not in _OF_THIS_CALL}
    try:
        return TypeAdapter(RunConfig).validate_python(document)
    except ValidationError as err:
        found = f"`{file}` is damaged or was changed: {fault(err, 'sessions.-1.config')}."
        raise CheckpointError(found, "Give its options on the command line, or run it again.") from err


_DEPENDENT_FIELDS = {  # if the key is given, these fields of the earlier run are discarded too
    "recipe": ("overrides", "steps_scale", "batch"),
    "teacher": ("teacher_checkpoint", "num_classes", "in_chans", "choice", "img_size"),
    "student": ("student_checkpoint", "choice"),
}


def merge_configs(earlier: RunConfig, config: RunConfig, given: Collection[str]) -> RunConfig:
    """Return the earlier config with the `given` fields, and the fields that depend on them, taken from `config`."""
    replaced = {*given, *(field for name in given for field in _DEPENDENT_FIELDS.get(name, ()))}

    def merge(old: P, new: P) -> P:
        return replace(old, **{f.name: getattr(new, f.name) for f in fields(old) if f.name in replaced})

    networks = replace(
        merge(earlier.networks, config.networks),
        trust_code=config.networks.trust_code or earlier.networks.trust_code,
        recorded=earlier.networks.recorded - replaced,
    )
    return replace(
        merge(earlier, config),
        networks=networks,
        look=merge(earlier.look, config.look),
        how=merge(earlier.how, config.how),
    )
