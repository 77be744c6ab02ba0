"""The teacher of a run, with its trained weights."""

from dataclasses import replace

from graftcli.errors import CheckpointError
from graftcli.events import Listener
from graftcli.models.loading.build import build
from graftcli.models.loading.model_spec import may_be_code
from graftcli.models.network import Network
from graftcli.runs.config import RunConfig
from graftcli.runs.input_size import size_of_images


def teacher_of(config: RunConfig) -> Network:
    """Build the teacher; raise if its weights are random, unless the user requests random weights."""
    teacher = _build(config)
    if teacher.weights.is_random and config.networks.teacher_checkpoint is None:
        raise CheckpointError(
            f"teacher `{teacher.name}` has random weights: its predictions are meaningless.",
            "Give its weights with --teacher-checkpoint FILE; `none` trains on random weights.",
        )
    return teacher


def sized_teacher(config: RunConfig, listen: Listener) -> tuple[RunConfig, Network]:
    """Build the teacher; if nothing declares its input size, set that of the images in the config."""
    teacher = teacher_of(config)
    size = size_of_images(teacher, config.images, listen, jobs=config.how.jobs)
    if size is None:
        return config, teacher
    sized = replace(config, look=replace(config.look, img_size=size))
    return sized, teacher_of(sized)


def _build(config: RunConfig) -> Network:
    networks, checkpoint = config.networks, config.networks.teacher_checkpoint
    if checkpoint == "none" and may_be_code(networks.teacher):
        checkpoint = None  # the same network; also detects whether its factory sets its weights
    return build(
        networks.teacher,
        checkpoint=checkpoint,
        num_classes=networks.num_classes,
        in_chans=networks.in_chans,
        img_size=config.look.img_size,
        ema=networks.ema,
        unsafe=networks.unpickles("teacher"),
        trust_code=networks.trust_code,
        document=networks.document_of("teacher"),
        role="teacher",
    )
