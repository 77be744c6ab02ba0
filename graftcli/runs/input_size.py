"""The input size of user code that declares none: the common size of the images, if there is one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from graftcli.errors import UsageError
from graftcli.events import InputSizeFound, Listener
from graftcli.images import Preprocess
from graftcli.images.sizes import Size, two_sizes
from graftcli.models.network import SIZE_FIX, Network
from graftcli.runs.scoring import Model

_MAX_SIDE = 512  # larger images are photographs, which are downscaled for the network
_ENLARGED = 2  # images are small if the input is at least this many times their size


def size_of_images(network: Network, images: str | Path, listen: Listener, *, jobs: int | None = None) -> Size | None:
    """Return the common size of the images for a network whose size is assumed; None for any other network."""
    if not network.size_is_assumed:
        return None
    sizes = two_sizes(Path(images), jobs)
    if not sizes:  # loading the images reports the reason
        return None
    if len(sizes) > 1 or max(sizes[0]) > _MAX_SIDE:
        found = " and ".join(f"{height}x{width}" for height, width in sizes)
        raise UsageError(
            f"`{network.name}` declares no input size, and it cannot be inferred from images of {found} pixels.",
            f"Give the size that it was trained with, such as --img-size 224, or {SIZE_FIX}.",
        )
    listen(InputSizeFound(network.name, sizes[0]))
    return sizes[0]


def built_for_images(
    build: Callable[[Size | None], Network], images: str | Path, listen: Listener, *, jobs: int | None = None
) -> Network:
    """Build a network for the input size that it declares, else for that of the images; `build` takes the size."""
    network = build(None)
    size = size_of_images(network, images, listen, jobs=jobs)
    return network if size is None else build(size)


def shared_size(
    models: Sequence[Model], images: str | Path, listen: Listener, *, jobs: int | None = None
) -> Size | None:
    """Return the common input size if some models declare none: the first declared one, else that of the images."""
    assumed = [model for model in models if isinstance(model, Network) and model.size_is_assumed]
    if not assumed:
        return None
    if len(assumed) == len(models):
        return size_of_images(assumed[0], images, listen, jobs=jobs)
    first = next(model for model in models if not (isinstance(model, Network) and model.size_is_assumed))
    return first.input_size[1:]


def small_images(side: int | None, preprocess: Preprocess, named_size: Size | None) -> Iterator[str]:
    """Yield a hint if the short side of the images is much smaller than the input, unless the user gives its size."""
    if named_size is None and side is not None and min(preprocess.size) >= _ENLARGED * side:
        size = "x".join(map(str, preprocess.size))
        yield (
            f"the images are small (a median of {side} pixels) and are enlarged to {size}: if the network was trained"
            f" on smaller images, give their size, such as --img-size {side}"
        )
