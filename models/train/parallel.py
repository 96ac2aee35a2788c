"""What the processes of one training run do together."""

from __future__ import annotations

import math
import time

import torch
import torch.distributed as dist
from torch import nn


def agreed_time(began: float) -> float:
    """Seconds since `began`, the same in all processes, so that they stop at the same step."""
    elapsed = torch.tensor(time.time() - began)
    dist.broadcast(elapsed, 0)
    return float(elapsed)


def average_gradients(model: nn.Module, most: float = math.inf) -> float:
    """Gives every process the mean of all gradients, scaled so that their norm is no more than `most`.

    Returns the norm after scaling.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(gradients)
    gradients /= dist.get_world_size()
    gradients *= min(1.0, most / (float(gradients.norm()) + 1e-6))
    for p, g in zip(parameters, gradients.split([p.numel() for p in parameters])):
        p.grad.copy_(g.view_as(p))
    return float(gradients.norm())
