"""Images as uint8 pixels: sources, decoding, preprocessing, statistics.

torch is imported when one of the names below is used, so that help texts can list sources and formats without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graftcli.images.decoding import Broken as Broken
    from graftcli.images.loading import Images as Images
    from graftcli.images.loading import load as load
    from graftcli.images.pixels import center_crop as center_crop
    from graftcli.images.pixels import normalise as normalise
    from graftcli.images.preprocess import Preprocess as Preprocess

_MODULES = {
    **{"Broken": "decoding", "Images": "loading", "load": "loading"},
    **{"Preprocess": "preprocess", "center_crop": "pixels", "normalise": "pixels"},
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
