"""The scalar projection that replaces the unembedding in reward and value models (App. C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """Hidden states [..., H] to one float32 number each [...].

    Weight starts as N(0, 1/(H+1)) and bias as 0 (openai/lm-human-preferences). The reward model keeps the
    bias fixed during training, where a constant cannot change a comparison, and sets it afterwards so that
    demonstrations score 0 on average (§3.5); the value function inherits it and trains it.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_size, dtype=torch.float32).normal_(std=(hidden_size + 1) ** -0.5))
        self.bias = nn.Parameter(torch.zeros((), dtype=torch.float32))

    def forward(self, hidden: Tensor) -> Tensor:
        # float32 whatever the precision: a bf16 score has 3 digits, and differences of scores are the signal.
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.weight.float().unsqueeze(0)).squeeze(-1) + self.bias.float()
