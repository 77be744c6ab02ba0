"""What the networks look at: which images are trained on, how many more are made, how many views of each, and how many
at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graftcli.graft.training.tasks import Task
from graftcli.images import Images
from graftcli.recipe import Recipe
from graftcli.recipe.values import Augment

# of the teacher's largest value, computed at once: a processor is quicker with what is near its caches' size
_CHUNK_BYTES = {"cpu": 2**23}
_CHUNK_BYTES_ELSEWHERE = 2**28
_SEEN_EACH = 400  # views the longest task is shown, at least, for each synthetic image that is made
_LEAST = 32  # fewer are not worth the while


def divide(images: Images, held_out: Images | None, seed: int) -> tuple[Tensor, Tensor]:
    """Images to train on, images to measure on: given ones, else a tenth (at least 8) where there are 40 or more."""
    if held_out is not None:
        return images.pixels, held_out.pixels
    count = held_out_of(len(images.pixels))
    order = torch.randperm(len(images.pixels), generator=torch.Generator().manual_seed(seed))
    return images.pixels[order[count:].sort().values], images.pixels[order[:count].sort().values]


def held_out_of(images: int) -> int:
    """How many images are held out where none are given to measure on."""
    return max(8, images // 10) if images >= 40 else 0


def augment_of(recipe: Recipe, task: Task) -> Augment:
    return task.stage.augment or recipe.views.augment


def looks(recipe: Recipe, every: Sequence[Task], images: int) -> dict[Augment, int]:
    """Views an image, for each augmentation: as many as the recipe prepares, or as many as the longest of the tasks
    with it can see."""
    found: dict[Augment, int] = {}
    for task in every:
        needed = -(-_shown(task, images) // images)
        augment = augment_of(recipe, task)
        found[augment] = max(found.get(augment, 0), min(needed, recipe.views.most(images) or needed))
    return found


def _shown(task: Task, images: int) -> int:
    """How many views a task is shown, one as often as it comes."""
    return task.steps(images) * task.batch(images)


def synthetic(recipe: Recipe, every: Sequence[Task], images: int) -> int:
    """How many images are to be made beside those that there are: none for a short run, which has enough in what is
    there."""
    asked = recipe.views.synthetic
    if asked is None:
        return 0
    longest = max(_shown(task, images) for task in every)
    found = min(asked.lacking(images), longest // _SEEN_EACH)
    return found if found >= _LEAST else 0


def chunk_of(shapes: Sequence[tuple[int, ...]], device: torch.device) -> int:
    """How many views go through the teacher at once; on a CPU, where each batch is filled up, 64 at most."""
    largest = 4 * max(torch.Size(shape).numel() for shape in shapes)
    most = 64 if device.type == "cpu" else 256
    return max(8, min(most, _CHUNK_BYTES.get(device.type, _CHUNK_BYTES_ELSEWHERE) // largest))
