"""The distances between what the student gives and what the teacher gave."""

import torch.nn.functional as F
from torch import Tensor

from graftcli.recipe import Target


def distance(target: Target, given: Tensor, wanted: Tensor) -> Tensor:
    if target.loss == "norm-l2":
        return norm_l2(given, wanted)
    if target.loss == "kl":
        assert target.temperature is not None  # the recipe's own default stands in
        return softened_kl(given, wanted, target.temperature)
    return relative_mse(given, wanted)


def norm_l2(given: Tensor, wanted: Tensor) -> Tensor:
    """Shen et al., Eq. 7: the squared distance of the normalised logits, averaged over the images."""
    return (F.normalize(given, dim=1) - F.normalize(wanted, dim=1)).square().sum(1).mean()


def relative_mse(given: Tensor, wanted: Tensor) -> Tensor:
    """|given - wanted|^2 / |wanted|^2: 0 is the same, 1 is as good as nothing."""
    return (given - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)


def softened_kl(given: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T^2 KL(wanted / T || given / T), averaged over the images (Hinton et al. 2015)."""
    soft = F.log_softmax(given / temperature, 1), F.log_softmax(wanted / temperature, 1)
    return temperature**2 * F.kl_div(*soft, reduction="batchmean", log_target=True)
