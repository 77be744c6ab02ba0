"""Where a run is written: its folder, and a single file that `--out` may name."""

from pathlib import Path

from graftcli.errors import UsageError
from graftcli.formats.options import FORMATS, format_of, single_suffixes
from graftcli.formatting import one_of
from graftcli.models.loading.model_spec import CHECKPOINT_ENDINGS
from graftcli.runs.prepare import PreparedRun
from graftcli.store import CACHE
from graftcli.store.run_file import RUN_FILE, read_record

RUNS = Path("runs")

# suffixes of network files that graftcli never writes
_FOREIGN = (".tflite", ".mlmodel", ".mlpackage", ".engine", ".trt", ".h5", ".keras", ".pb")


def single_file(out: str | Path | None) -> Path | None:
    """Return `out` if it is a single file; raise if its format is not one that a run can write."""
    path = None if out is None else Path(out)
    if path is None or path.is_dir():
        return None
    exporting = format_of(path)
    suffix = path.suffix.lower() if exporting is None else exporting.suffix
    if exporting is None and suffix not in {*CHECKPOINT_ENDINGS, *_FOREIGN}:
        return None
    if exporting is not None and exporting.single is not None:
        return path
    written = f"Give a folder, or a {one_of(single_suffixes())} file."
    if exporting is not None:
        command = f"graftcli export RUN --format {exporting.name} --out {path}"
        written = f"{written} `{command}` writes {exporting.about} from the finished run."
    elif suffix in CHECKPOINT_ENDINGS:
        written = f"{written} `graftcli export RUN --format safetensors` writes the weights of a finished run, too."
    else:
        suffixes = one_of(known.suffix for known in FORMATS.values())
        written = f"{written} `graftcli export RUN` writes {suffixes} from the finished run."
    raise UsageError(f"--out is `{path}`, but a run cannot write a {suffix} file.", written)


def destination(prepared: PreparedRun, out: str | Path | None) -> tuple[Path, Path | None]:
    """Return the folder of the run, and the single file if `out` names one."""
    single = single_file(out)
    if out is not None and single is None:
        return Path(out), None
    plan = prepared.plan
    names = "-".join(side.network.name.replace("/", "_") for side in (plan.teacher, plan.student))
    part = "" if len(prepared.blocks) == len(plan.blocks) else f"-blocks-{'-'.join(map(str, prepared.blocks))}"
    return RUNS / f"{names}{part}", single


def pixel_folder(out: str | Path | None) -> Path:
    """Return the folder for decoded images, which are made before the names of the networks are known."""
    return (RUNS if out is None or single_file(out) is not None else Path(out)) / CACHE


def check_free(single: Path, folder: Path) -> None:
    """Raise if the file exists and was not written by this run."""
    singles = read_record(folder).singles if (folder / RUN_FILE).exists() else {}
    if single.exists() and str(single.absolute()) not in singles:
        raise UsageError(f"`{single}` exists.", "Name another file with --out, or replace it with --overwrite.")
