"""A step of progressive network grafting written plainly, as the released code does it: nothing is remembered, nothing
folded or laid out, and both networks run in full.

    python tests/bench/plain.py 40        so many steps of the first block, on noise: what `speed.py` measures memory by
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from graftcli import plan
from graftcli.graft.surgery.seams import graft, seams
from graftcli.models.cuts.plan import Plan

NETS = Path(__file__).resolve().parents[1] / "nets.py"


def networks(checkpoint: Path | None = None) -> Plan:
    """resnet56 and resnet20 for 32x32 images, cut at matching places."""
    return plan(f"{NETS}:resnet(depth=56)", f"{NETS}:resnet(depth=20)", teacher_checkpoint=checkpoint)


class Plain:
    """The teacher's answers, then the same images through the teacher with blocks of the student in it.

    The released code never tells the teacher's weights that they need no gradient: with `literal`, neither does this.
    """

    def __init__(self, plan: Plan, blocks: Sequence[int], *, literal: bool = False) -> None:
        self.teacher = plan.teacher.network.module.eval()
        joined = seams(plan, "auto")
        self.grafted = graft(plan, joined, blocks).eval()
        scions = nn.ModuleList(self.grafted[block - 1] for block in blocks).train()
        self.teacher.requires_grad_(literal)
        self.grafted.requires_grad_(literal)
        scions.requires_grad_(True)
        self.literal = literal
        self.optimiser = torch.optim.Adam(scions.parameters(), lr=2.5e-4)

    def step(self, images: Tensor) -> float:
        with torch.set_grad_enabled(self.literal):
            wanted = self.teacher(images).detach()
        given = self.grafted(images)
        error = (F.normalize(given) - F.normalize(wanted)).square().sum(1).mean()
        self.optimiser.zero_grad()
        error.backward()
        self.optimiser.step()
        return error.item()


def main() -> None:
    torch.manual_seed(0)
    plain = Plain(networks(), (1,))
    for _ in range(int(sys.argv[1])):
        plain.step(torch.randn(64, 3, 32, 32))


if __name__ == "__main__":
    main()
