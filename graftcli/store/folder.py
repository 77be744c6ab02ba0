"""The file names in a run's folder, and which of its files may be replaced or removed."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from graftcli.errors import UsageError, few
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE
from graftcli.store import model_card as card
from graftcli.store.atomic import TEMPORARY, writing
from graftcli.store.locks import LOCK_FILE
from graftcli.store.run_file import RUN_FILE

METRICS_FILE = "metrics.jsonl"
REPORT_FILE, REPORT_FACTS_FILE, BENCH_FILE = "report.html", "report.json", "bench.json"
BLOCKS, STATES, CACHE = "blocks", "state", "cache"
PIXELS = "pixels-*"  # decoded images in the cache, which the pixel store removes

NETWORK_FILES = (WEIGHTS_FILE, FACTS_FILE, card.CONFIG_FILE)  # their digests are recorded when a run finishes
UNFINISHED = (f"{STATES}/*.safetensors", f"{CACHE}/*.bin", f"{CACHE}/*.json")
TEMPORARY_FILES = tuple(f"{folder}.*{TEMPORARY}" for folder in ("", f"{BLOCKS}/", f"{STATES}/", f"{CACHE}/"))
# everything that graftcli writes into a run's folder except exported files; it removes nothing else. run.json is
# removed first, so that the folder does not look like a run if the removal is interrupted
FILE_PATTERNS = (
    *(RUN_FILE, METRICS_FILE, *card.FILES, REPORT_FILE, REPORT_FACTS_FILE, BENCH_FILE),
    *(f"{BLOCKS}/*.safetensors", *UNFINISHED, *TEMPORARY_FILES),
)


def check_folder(folder: Path, overwrite: bool, exported: Sequence[str]) -> None:
    """Raise UsageError unless the path is unused, the folder of a run, or may be overwritten.

    `exported` names the files that `export` writes into the folder if no output file is named.
    """
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"`{folder}` is a file; a run needs a folder.", "Choose another path with --out.")
        outer = (folder / name for name in (LOCK_FILE, RUN_FILE, METRICS_FILE, BLOCKS, STATES, CACHE))
        inner = (path for name in (BLOCKS, STATES, CACHE) for path in folder.glob(f"{name}/*"))
        if (link := next((path for path in (*outer, *inner) if path.is_symlink()), None)) is not None:
            found = f"`{link}` is a symbolic link; a run does not write through links."
            raise UsageError(found, "Remove the link, or choose another folder with --out.")
        if not folder.exists() or (folder / RUN_FILE).exists() or overwrite:
            return
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and not _is_pixels(path))
    if names:
        listed = few([f"`{name}`" for name in names])
        found = f"`{folder}` is not a run: it holds {listed}, but no {RUN_FILE}."
        files = (RUN_FILE, METRICS_FILE, *card.FILES, REPORT_FILE, REPORT_FACTS_FILE, BENCH_FILE)
        replaced = ", ".join((*files, f"{BLOCKS}/", f"{STATES}/", *exported))
        raise UsageError(
            found,
            f"Choose another folder with --out, or add --overwrite to replace only these files in it: {replaced}.",
        )


def _is_pixels(path: Path) -> bool:
    """Whether a path is a cache that contains only decoded images, which are made before the run."""
    return path.name == CACHE and path.is_dir() and all(file.match(PIXELS) for file in path.iterdir())


def remove(folder: Path, patterns: Iterable[str]) -> None:
    """Remove the files that match the patterns, and the subfolders that are then empty."""
    for path in [path for pattern in patterns for path in sorted(folder.glob(pattern))]:
        with writing(path):
            path.unlink(missing_ok=True)
    for name in (BLOCKS, STATES, CACHE):
        with suppress(OSError):
            (folder / name).rmdir()
