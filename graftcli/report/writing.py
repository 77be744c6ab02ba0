"""The report of a run whose networks and images are still in memory."""

from pathlib import Path

import torch
from torch import nn

from graftcli.images import Images
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts.plan import Plan
from graftcli.report import facts
from graftcli.report.disagreement import compare
from graftcli.report.page import page
from graftcli.report.run_view import shown
from graftcli.store import REPORT_FILE
from graftcli.store.atomic import write_bytes


def write_report(
    folder: Path, plan: Plan, result: nn.Module, images: Images, preprocess: Preprocess, where: torch.device
) -> Path:
    """report.html in the run's folder, and report.json, out of which it can be made again without the networks.

    Teacher and result end up on the device `where`.
    """
    told = facts.gather(plan, compare(plan.teacher.network, result, images, preprocess, where))
    facts.write(folder, told)
    file = folder / REPORT_FILE
    write_bytes(file, page([shown(folder, told)]).encode())
    return file
