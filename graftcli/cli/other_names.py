"""Options that have other names in other tools, and how to give them here."""

from collections.abc import Collection, Mapping

SET_LR = "Give it per stage of the recipe: --set stages.graft.lr=1e-3; `graftcli recipes show graft` lists the stages."
SET_LENGTH = "Scale all stages with --steps-scale, such as 0.5, or set the steps of one: --set stages.graft.steps=500."

# option of other tools -> the flag of graftcli that replaces it, and a longer explanation if the flag is not enough
_OTHERS: Mapping[str, tuple[str, str]] = {
    "--batch-size": ("--batch", "Use -b or --batch."),
    "--workers": ("--jobs", "Use -j or --jobs."),
    "--num-workers": ("--jobs", "Use -j or --jobs."),
    "--lr": ("--set", SET_LR),
    "--learning-rate": ("--set", SET_LR),
    "--epochs": ("--set", SET_LENGTH),
    "--num-epochs": ("--set", SET_LENGTH),
    "--input-size": ("--img-size", "Use --img-size."),
    "--image-size": ("--img-size", "Use --img-size."),
    "--data": ("--images", "Use --images."),
    "--data-dir": ("--images", "Use --images."),
    "--output": ("--out", "Use --out."),
    "--output-dir": ("--out", "Use --out."),
    "--gpu": ("--device", "Use --device cuda."),
}


def other_name(option: str, flags: Collection[str]) -> str | None:
    """Return what replaces an option of another tool in a command with these flags; None if nothing does."""
    flag, fix = _OTHERS.get(option, ("", ""))
    return fix if flag in flags else None
