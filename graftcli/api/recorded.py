"""The teacher of an earlier run, as the record of the run names it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graftcli.api.asked import Asked, asked_of
from graftcli.nets.grammar import from_anywhere, path_of
from graftcli.nets.network import Network
from graftcli.nets.spec import build
from graftcli.store.runs import RUN_FILE


def recorded_teacher(asked: Asked, building: dict[str, Any]) -> Network:
    """The teacher that a run was asked for; `building` holds what the user says of networks in this call."""
    networks = asked.networks
    own = {"num_classes": networks.num_classes, "in_chans": networks.in_chans, "ema": networks.ema}
    given = {key: value for key, value in building.items() if value not in (None, False)}
    trust = {"unsafe": networks.unpickles("teacher"), "document": networks.document_of("teacher")}
    settings = {**own, **{key: value for key, value in given.items() if key != "unsafe"}, **trust}
    return build(networks.teacher, checkpoint=networks.teacher_checkpoint, role="teacher", **settings)


def asked_for_first(models: Sequence[str], teacher: str | None, *, trust_code: bool) -> Asked | None:
    """What the run behind the first model was asked for, if it is a run and its teacher is not another one."""
    path = path_of(models[0])
    if path is None or not (path / RUN_FILE).is_file():
        return None
    asked = asked_of(path, trust_code=trust_code)
    if teacher is None:
        return asked
    if from_anywhere(teacher) != asked.networks.teacher:
        return None
    named = replace(asked.networks, recorded=asked.networks.recorded - {"teacher"})
    return replace(asked, networks=named)
