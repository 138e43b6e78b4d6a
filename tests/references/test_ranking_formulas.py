"""The ranking loss and its metrics against their references, with ties and a different K for every prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lightning.reward.loss import decided_pairs, ranking_loss
from rlhf_lightning.reward.metrics import PairMetrics
from tests.references import ranking_formulas as formulas
from tests.references.agreement import FLOAT32, FLOAT64, fast

RANKINGS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=9), min_size=1, max_size=4).filter(
    lambda rankings: any(len(set(row)) > 1 for row in rankings)
)
SCALE = st.sampled_from([1.0, 0.0, 3.0])


def scored(rankings: list[list[int]], seed: int, scale: float) -> tuple[list[float], list[formulas.Ranked]]:
    """Random scores of all responses, representable in float32, and the same for the reference."""
    generator = torch.Generator().manual_seed(seed)
    scores = (scale * torch.randn(sum(map(len, rankings)), generator=generator)).tolist()
    numbers = iter([torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in scores])
    return scores, [[(next(numbers), rank) for rank in row] for row in rankings]


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)])
def test_ranking_loss(dtype: torch.dtype, relative: float) -> None:
    @fast
    @given(RANKINGS, st.integers(0, 10**6), SCALE, st.randoms(use_true_random=False))
    def run(rankings: list[list[int]], seed: int, scale: float, random: object) -> None:
        numbers, prompts = scored(rankings, seed, scale)
        expected = formulas.ranking_loss(prompts)
        expected.backward()
        slopes = [0.0 if s.grad is None else s.grad.item() for row in prompts for s, _ in row]
        order = list(range(len(numbers)))
        for _ in range(2):  # in reading order, then in any
            scores = torch.tensor([numbers[i] for i in order], dtype=dtype, requires_grad=True)
            ranks = torch.tensor([r for row in rankings for r in row])[order]
            prompt = torch.tensor([p for p, row in enumerate(rankings) for _ in row])[order]
            loss = ranking_loss(scores, decided_pairs(ranks, prompt))
            assert loss.dtype == dtype
            loss.backward()
            assert scores.grad is not None
            assert loss.item() == pytest.approx(expected.item(), rel=relative, abs=relative)
            assert scores.grad.tolist() == pytest.approx([slopes[i] for i in order], rel=relative, abs=relative)
            random.shuffle(order)  # type: ignore[attr-defined]

    run()


@fast
@given(st.lists(RANKINGS, min_size=1, max_size=3), st.integers(0, 10**6), SCALE)
def test_metrics_of_several_batches(batches: list[list[list[int]]], seed: int, scale: float) -> None:
    """float32 sums of up to 400 pairs: 1e-5."""
    metrics, everything = PairMetrics(max_k=8), []
    for number, rankings in enumerate(batches):
        numbers, prompts = scored(rankings, seed + number, scale)
        everything += prompts
        ranks = torch.tensor([r for row in rankings for r in row])
        prompt = torch.tensor([p for p, row in enumerate(rankings) for _ in row])
        metrics.update(torch.tensor(numbers), decided_pairs(ranks, prompt), prompt)
    out = {name: value.item() for name, value in metrics.compute().items()}
    sizes = {len(p) for p in everything if formulas.margins(p) and len(p) <= 8}
    expected = {f"accuracy_k{k}": formulas.accuracy(everything, k) for k in sizes}
    expected |= {"accuracy": formulas.accuracy(everything), "margin": formulas.mean_margin(everything)}
    expected |= {"ece": formulas.calibration_error(everything)}
    assert out == pytest.approx(expected, abs=1e-5)
    assert "accuracy_k9" not in out
