"""How well scores agree with rankings: pair accuracy (overall and per K), margin, calibration."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryAccuracy, BinaryCalibrationError

from rlhf_lightning.reward.loss import Pairs


class VectorSum(Metric):
    """Sum of vectors over batches and processes."""

    full_state_update = False
    total: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(size), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        """Add a vector of the metric's size."""
        self.total = self.total + x

    def compute(self) -> Tensor:
        """The sum so far."""
        return self.total


class PairMetrics(nn.Module):
    """Accumulates over validation batches. Accuracy counts pairs; a pair with equal scores is wrong.

    >>> from rlhf_lightning.reward.loss import decided_pairs
    >>> metrics, prompt = PairMetrics(), torch.tensor([0, 0, 0])
    >>> pairs = decided_pairs(torch.tensor([1, 2, 3]), prompt)  # margins 2 - 0, 2 - 1, 0 - 1
    >>> metrics.update(torch.tensor([2.0, 0.0, 1.0]), pairs, prompt)
    >>> {name: round(value.item(), 4) for name, value in metrics.compute().items() if name != "ece"}
    {'accuracy': 0.6667, 'margin': 0.6667, 'accuracy_k3': 0.6667}
    """

    def __init__(self, max_k: int = 9, bins: int = 10) -> None:
        """
        Args:
            max_k: Largest K with an accuracy of its own (the paper ranks 4 to 9 responses).
            bins: Bins of the expected calibration error.
        """
        super().__init__()
        self.accuracy = BinaryAccuracy()
        self.max_k = max_k
        # One vector for all K: which of them a process has seen must not decide what it communicates.
        self.right, self.pairs = VectorSum(max_k + 2), VectorSum(max_k + 2)
        self.margin = MeanMetric()
        self.ece = BinaryCalibrationError(n_bins=bins, norm="l1")

    def update(self, scores: Tensor, pairs: Pairs, prompt: Tensor) -> None:
        """
        Args:
            scores: [N].
            pairs: The decided pairs.
            prompt: [N] which prompt each response answers.
        """
        margins = (scores[pairs.better] - scores[pairs.worse]).float()
        right = (margins > 0).int()
        self.accuracy.update(right, torch.ones_like(right))
        self.margin.update(margins)
        # Both orientations: with the preferred response always first there would be nothing to calibrate.
        both = torch.cat([torch.sigmoid(margins), torch.sigmoid(-margins)])
        self.ece.update(both, torch.cat([torch.ones_like(right), torch.zeros_like(right)]))
        k_of_prompt = torch.bincount(prompt)
        k_of_pair = k_of_prompt[pairs.prompt].clamp(max=self.max_k + 1)  # larger ones share a slot that is not shown
        slots = self.max_k + 2
        self.right.update(torch.bincount(k_of_pair, weights=right.float(), minlength=slots))
        self.pairs.update(torch.bincount(k_of_pair, minlength=slots).float())

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, `accuracy_k<K>` for every K seen, `margin` (score units), `ece`; resets."""
        out = {"accuracy": self.accuracy.compute(), "margin": self.margin.compute(), "ece": self.ece.compute()}
        right, pairs = self.right.compute(), self.pairs.compute()
        out |= {f"accuracy_k{k}": right[k] / pairs[k] for k in range(2, self.max_k + 1) if pairs[k] > 0}
        for metric in (self.accuracy, self.margin, self.ece, self.right, self.pairs):
            metric.reset()
        return out
