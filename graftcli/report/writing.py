"""Write the report of a run whose networks and images are in memory."""

from pathlib import Path

import torch
from torch import nn

from graftcli.images import Images
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts.plan import Plan
from graftcli.report import facts
from graftcli.report.disagreement import compare
from graftcli.report.page import page
from graftcli.report.run_view import load_run_view
from graftcli.store import REPORT_FILE
from graftcli.store.atomic import write_bytes


def write_report(
    folder: Path, plan: Plan, student: nn.Module, images: Images, preprocess: Preprocess, device: torch.device
) -> Path:
    """Write report.html, and report.json, from which the page can be made again without the networks.

    Teacher and student move to `device`.
    """
    run_facts = facts.gather(plan, compare(plan.teacher.network, student, images, preprocess, device))
    facts.write(folder, run_facts)
    file = folder / REPORT_FILE
    write_bytes(file, page([load_run_view(folder, run_facts)]).encode())
    return file
