"""The teacher of an earlier run, as the record of the run names it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graftcli.errors import UsageError, few
from graftcli.events import Listener, Warned
from graftcli.models.loading.build import build
from graftcli.models.loading.model_spec import from_anywhere, path_of
from graftcli.models.network import Network
from graftcli.runs.config import RunConfig, asked_of
from graftcli.store.run_file import RUN_FILE


def recorded_teacher(asked: RunConfig, building: dict[str, Any]) -> Network:
    """The teacher that a run was asked for; `building` holds what the user says of networks in this call."""
    networks = asked.networks
    own = {"num_classes": networks.num_classes, "in_chans": networks.in_chans, "ema": networks.ema}
    given = {key: value for key, value in building.items() if value not in (None, False)}
    trust = {"unsafe": networks.unpickles("teacher"), "document": networks.document_of("teacher")}
    settings = {**own, **{key: value for key, value in given.items() if key != "unsafe"}, **trust}
    return build(networks.teacher, checkpoint=networks.teacher_checkpoint, role="teacher", **settings)


def asked_for(
    models: Sequence[str],
    teacher: str | None,
    checkpoint: str | Path | None,
    *,
    trust_code: bool,
    listen: Listener,
) -> RunConfig | None:
    """What the runs among the models were asked for, where one record tells the teacher: what the user names of it,
    `teacher` and its `checkpoint`, stands above the record."""
    found = {model: asked_of(path, trust_code=trust_code) for model in models if (path := _run_at(model)) is not None}
    if teacher is None and len({_teacher_of(asked) for asked in found.values()}) > 1:
        listen(
            Warned(f"{few(list(found))} have different teachers: agreement is not measured, unless --teacher names one")
        )
        return None
    for asked in found.values():
        if teacher is None or from_anywhere(teacher) == asked.networks.teacher:
            return _named(asked, teacher, checkpoint)
    if teacher is None and checkpoint is not None:
        said = f"--teacher-checkpoint is {checkpoint}, and no teacher is named."
        raise UsageError(said, "Name the network that these are the weights of with --teacher.")
    return None


def _run_at(model: str) -> Path | None:
    path = path_of(model)
    return path if path is not None and (path / RUN_FILE).is_file() else None


def _teacher_of(asked: RunConfig) -> tuple[str, str | None]:
    return asked.networks.teacher, asked.networks.teacher_checkpoint


def _named(asked: RunConfig, teacher: str | None, checkpoint: str | Path | None) -> RunConfig:
    """The same, with what the user names in this call as the user's."""
    given = {name for name, value in (("teacher", teacher), ("teacher_checkpoint", checkpoint)) if value is not None}
    weights = asked.networks.teacher_checkpoint if checkpoint is None else str(checkpoint)
    networks = replace(asked.networks, teacher_checkpoint=weights, recorded=asked.networks.recorded - given)
    return replace(asked, networks=networks)
