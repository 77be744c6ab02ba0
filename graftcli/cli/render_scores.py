"""Print the scores of `eval` and of the demo."""

from typing import TYPE_CHECKING

from graftcli.cli.render import human, line, table, warning
from graftcli.cli.render_run import count

if TYPE_CHECKING:
    from graftcli.demo.show import DemoResult
    from graftcli.measure import ShareOfImages
    from graftcli.runs.scoring import Evaluation


def evaluation(scores: "Evaluation") -> None:
    """Print the scores of each model on one folder."""
    for broken in scores.broken:
        warning(f"skipped: {broken}")
    size = "x".join(map(str, scores.preprocess.size))
    crop, interpolation = scores.preprocess.crop_pct, scores.preprocess.interpolation
    line(f"{count(scores.images, 'image')} at {size}, crop {crop:g}, {interpolation}")
    if scores.rule is not None:
        line(f"classes: {scores.rule}")
    if scores.teacher is not None:
        line(f"teacher: {scores.teacher}")
    columns = ("model", "parameters", "top-1", "top-5", "agreement with teacher", "KL")
    rows = [
        (
            model.name,
            human(model.parameters),
            _rate(model.accuracy.top1 if model.accuracy else None),
            _rate(model.accuracy.top5 if model.accuracy else None),
            _rate(model.likeness.agreement if model.likeness else None),
            f"{model.likeness.kl:.4f}" if model.likeness else "",
        )
        for model in scores.models
    ]
    table("", columns, rows, right=columns[1:])
    for model in scores.models:
        if model.sha256 is not None:
            line(f"weights of {model.name}: sha256 {model.sha256}")


def _rate(share: "ShareOfImages | None") -> str:
    return "" if share is None else f"{share.share:.2%} ({share.low:.1%}-{share.high:.1%})"


def demo(scores: "DemoResult") -> None:
    """Print the scores and files of the demo, and the command for other networks."""
    rows = [
        (
            network.name,
            human(network.parameters),
            _rate(network.accuracy.top1),
            f"{network.seconds:.0f}" if network.seconds is not None else "",
        )
        for network in scores.lines
    ]
    images = scores.lines[0].accuracy.images
    table(f"Accuracy on {images} test digits", ("", "parameters", "accuracy", "seconds"), rows, ("parameters",))
    line()
    line("The student was trained on 100 unlabelled images, 10 per digit. Files:")
    for file in scores.files:
        line(f"  {file}")
    line()
    line("With your own networks and images:")
    line("  graftcli distill --teacher resnet34 --student resnet18 --images ./photos")
