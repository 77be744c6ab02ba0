"""Replace only some blocks of the teacher: `partial`."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from graftcli.errors import UsageError
from graftcli.events import EarlierRunChosen, Listener
from graftcli.runs.config import RunConfig, merge_configs, recorded_config
from graftcli.runs.destination import RUNS
from graftcli.runs.result import Result
from graftcli.runs.running import distill
from graftcli.store.resume import newest
from graftcli.store.run_file import RUN_FILE


def partial(
    blocks: str,
    config: RunConfig | None = None,
    *,
    given: Collection[str] | None = None,
    run_folder: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "graftcli.partial(…)",
    listen: Listener = lambda _: None,
) -> Result:
    """Replace only some blocks of the teacher; blocks that an earlier run trained with the same settings are reused.

    Fields that are not `given` come from the run in `run_folder`. Default: the newest run under ./runs, and all fields
    of `config`.
    """
    folder = Path(run_folder) if run_folder is not None else None
    given_fields = {"teacher", "student", "images"} if given is None and config is not None else set(given or ())
    missing = [name for name in ("teacher", "student", "images") if name not in given_fields]
    if config is None or missing:
        folder = folder or _newest_run(missing, listen)
        earlier = recorded_config(folder, trust_code=config is not None and config.networks.trust_code)
        config = merge_configs(earlier, config, given_fields) if config is not None else earlier
    return distill(config, out=out, blocks=blocks, overwrite=overwrite, reuse=folder, command=command, listen=listen)


def _newest_run(missing: Sequence[str], listen: Listener) -> Path:
    """Find the newest run that replaces all blocks; a partial run has its config from such a run."""
    folder = newest(RUNS, lambda run: run.settings.replaces_all_blocks)
    if folder is None:
        raise UsageError(
            f"there is no run under ./runs to take {', '.join(missing)} from.",
            "Give --teacher, --student and --images, or a run's folder with --run.",
        )
    age = time.time() - (folder / RUN_FILE).stat().st_mtime
    listen(EarlierRunChosen(str(folder), max(0.0, age)))
    return folder
