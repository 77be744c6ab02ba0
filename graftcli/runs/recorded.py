"""The teacher of an earlier run, from its record."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from graftcli.errors import UsageError, few
from graftcli.events import Listener, Warned
from graftcli.models.loading.build import BuildOptions, NetworkOptions, build
from graftcli.models.loading.model_spec import absolute_spec, path_of
from graftcli.models.network import Network
from graftcli.runs.config import RunConfig, recorded_config
from graftcli.store.run_file import RUN_FILE


def recorded_teacher(config: RunConfig, build_args: NetworkOptions) -> Network:
    """Build the teacher of a run; `build_args` are the network arguments of this call and override the config."""
    networks = config.networks
    recorded = {"num_classes": networks.num_classes, "in_chans": networks.in_chans, "ema": networks.ema}
    given = {key: value for key, value in build_args.items() if value not in (None, False)}
    options = cast(BuildOptions, {**recorded, **given})
    options["unsafe"], options["document"] = networks.unpickles("teacher"), networks.document_of("teacher")
    options["checkpoint"] = networks.teacher_checkpoint
    return build(networks.teacher, role="teacher", **options)


def config_with_teacher(
    models: Sequence[str],
    teacher: str | None,
    checkpoint: str | Path | None,
    *,
    trust_code: bool,
    listen: Listener,
) -> RunConfig | None:
    """Return the config of the run among the models whose teacher is used; `teacher` and `checkpoint` override it."""
    configs = {
        model: recorded_config(path, trust_code=trust_code)
        for model in models
        if (path := _run_folder(model)) is not None
    }
    if teacher is None and len({_teacher_of(config) for config in configs.values()}) > 1:
        problem = f"{few(list(configs))} have different teachers"
        listen(Warned(f"{problem}: agreement is not measured; choose one with --teacher"))
        return None
    for config in configs.values():
        if teacher is None or absolute_spec(teacher) == config.networks.teacher:
            return _with_user_teacher(config, teacher, checkpoint)
    if teacher is None and checkpoint is not None:
        found = f"--teacher-checkpoint is {checkpoint}, but no teacher is given."
        raise UsageError(found, "Give the network that these weights belong to with --teacher.")
    return None


def _run_folder(model: str) -> Path | None:
    path = path_of(model)
    return path if path is not None and (path / RUN_FILE).is_file() else None


def _teacher_of(config: RunConfig) -> tuple[str, str | None]:
    return config.networks.teacher, config.networks.teacher_checkpoint


def _with_user_teacher(config: RunConfig, teacher: str | None, checkpoint: str | Path | None) -> RunConfig:
    """Return the config with the teacher and checkpoint of this call marked as given by the user."""
    given = {name for name, value in (("teacher", teacher), ("teacher_checkpoint", checkpoint)) if value is not None}
    weights = config.networks.teacher_checkpoint if checkpoint is None else str(checkpoint)
    networks = replace(config.networks, teacher_checkpoint=weights, recorded=config.networks.recorded - given)
    return replace(config, networks=networks)
