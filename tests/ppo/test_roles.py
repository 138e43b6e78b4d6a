"""What roles answer, against plain unpadded forwards: the right rows of logits, values and scores."""

from __future__ import annotations

import pytest
import torch

from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.scoring import score_rollout
from tests.conftest import TinyRuns

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
RESPONSES = [[20, 21, 2], [22, 23, 24, 25], [2]]


@pytest.fixture(scope="module")
def ppo(tiny: TinyRuns) -> PPOModule:
    made = PPOModule(str(tiny.root / "sft"), str(tiny.root / "reward"))
    made.configure_model()
    made.eval()
    # The policy has moved away from the SFT model.
    with torch.no_grad():
        for tensor in made.roles.backbone("policy").adapter_state("policy").values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return made


def ragged_rollout(junk: int = 0) -> Rollout:
    """Prompts padded left and responses right, with `junk` in the padding."""
    p, r = max(map(len, PROMPTS)), max(map(len, RESPONSES))
    return Rollout(
        torch.tensor([[junk] * (p - len(x)) + x for x in PROMPTS]),
        torch.tensor([[False] * (p - len(x)) + [True] * len(x) for x in PROMPTS]),
        torch.tensor([x + [junk] * (r - len(x)) for x in RESPONSES]),
        torch.tensor([[True] * len(x) + [False] * (r - len(x)) for x in RESPONSES]),
        torch.tensor([2 not in x for x in RESPONSES]),
        torch.zeros(len(RESPONSES), r),
    )


@torch.no_grad()
def plain_hidden(ppo: PPOModule, role: str, row: int) -> torch.Tensor:
    ids = torch.tensor([PROMPTS[row] + RESPONSES[row]])
    backbone = ppo.roles.backbone(role)  # type: ignore[arg-type]
    with backbone.using(ppo.roles.adapter(role)):  # type: ignore[arg-type]
        return backbone.lm.base_model(input_ids=ids).last_hidden_state[0]


@pytest.mark.parametrize("role", ["policy", "reference"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_plain_log_softmax(ppo: PPOModule, role: str, temperature: float) -> None:
    """float32 against float64 on logits of order 1: 1e-5."""
    with torch.no_grad():
        logprobs, entropy = ppo.roles.logprobs(role, ragged_rollout(), temperature)  # type: ignore[arg-type]
    for row, response in enumerate(RESPONSES):
        start = len(PROMPTS[row]) - 1
        logits = ppo.roles.backbone("policy").unembed(plain_hidden(ppo, role, row)).double() / temperature
        log_p = torch.log_softmax(logits, -1)
        for t, token in enumerate(response):
            assert logprobs[row, t].item() == pytest.approx(log_p[start + t, token].item(), abs=1e-5)
            expected = -(log_p[start + t].exp() * log_p[start + t]).sum().item()
            assert entropy[row, t].item() == pytest.approx(expected, abs=1e-5)
        assert (logprobs[row, len(response) :] == 0).all()


def test_values_stand_before_each_token_and_scores_after_the_last(ppo: PPOModule) -> None:
    with torch.no_grad():
        values, scores = ppo.roles.values(ragged_rollout()), ppo.roles.score(ragged_rollout())
        for row, response in enumerate(RESPONSES):
            start = len(PROMPTS[row]) - 1
            before = ppo.roles.value_head(plain_hidden(ppo, "value", row))[start : start + len(response)]
            assert torch.allclose(values[row, : len(response)], before, atol=1e-5)
            after = ppo.roles.reward_head(plain_hidden(ppo, "reward", row))[-1]
            assert scores[row].item() == pytest.approx(after.item(), abs=1e-5)


def test_what_stands_in_the_padding_changes_nothing(ppo: PPOModule) -> None:
    a = score_rollout(ppo.roles, ragged_rollout(0), 1.0, 16)
    b = score_rollout(ppo.roles, ragged_rollout(99), 1.0, 16)
    for name in ("logprobs", "ref_logprobs", "values", "scores", "entropy"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_the_tokens_of_a_forward_change_nothing_but_rounding(ppo: PPOModule) -> None:
    a = score_rollout(ppo.roles, ragged_rollout(), 1.0, 10_000)
    b = score_rollout(ppo.roles, ragged_rollout(), 1.0, 1)
    for name in ("logprobs", "ref_logprobs", "values", "scores", "entropy"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-5), name
