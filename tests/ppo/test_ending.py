"""How responses end: cutting, scores without an end, a minimum length, and what is reported of it."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.ending import Ending, EndingSettings, cut_after, ending_metrics
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.rollouts.settings import SamplingSettings
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import data, module, trainer

EOS, PAD, DOT = 2, 0, 7
RESPONSES = [[DOT, 5, DOT, 6, DOT, EOS], [5, 6, 8, 9, 5, 6], [5, 6, EOS], [DOT, 5, 6, 8, EOS], [5, 6, 8, DOT], [5, 6]]


def rollout() -> Rollout:
    width = max(map(len, RESPONSES))
    # What stands in padding is the token itself: it must not be seen.
    ids = torch.tensor([x + [DOT] * (width - len(x)) for x in RESPONSES])
    mask = torch.tensor([[t < len(x) for t in range(width)] for x in RESPONSES])
    truncated = torch.tensor([EOS not in x for x in RESPONSES])
    return Rollout(ids, mask, ids, mask, truncated, torch.where(mask, -1.0, 0.0))


def test_a_response_is_cut_after_the_token() -> None:
    """At position 1 or later: the token stays, and what is cut there has ended; EOS ends what has no such token."""
    out = cut_after(rollout(), DOT, 1, PAD)
    found = [ids[mask].tolist() for ids, mask in zip(out.response_ids, out.response_mask, strict=True)]
    assert found == [[DOT, 5, DOT], RESPONSES[1], *RESPONSES[2:]]
    assert out.truncated.tolist() == [False, True, False, False, False, True]
    assert (out.response_ids[~out.response_mask] == PAD).all()
    assert torch.equal(out.sampler_logprobs, torch.where(out.response_mask, -1.0, 0.0))
    at_once = cut_after(rollout(), DOT, 0, PAD)
    assert at_once.response_mask.sum(1).tolist() == [1, 6, 3, 1, 4, 2]
    assert cut_after(rollout().rows(torch.tensor([0, 3])), DOT, 0, PAD).response_ids.tolist() == [[DOT], [DOT]]
    at_two = cut_after(rollout(), DOT, 2, PAD)
    assert at_two.response_mask.sum(1).tolist() == [3, 6, 3, 5, 4, 2]


class Tokenizer(SimpleNamespace):
    """Knows a few texts."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return {".": [DOT], "</s>": [EOS], "": [], "ab": [5, 6]}[text]


def ending(penalty: float = 0.5, **settings: Any) -> Ending:
    return Ending(EndingSettings(**settings), penalty, Tokenizer(eos_token_id=EOS, pad_token_id=PAD), 20)


def test_a_token_is_named_by_its_text() -> None:
    whole = rollout()
    assert ending().cut(whole) is whole
    assert ending(truncate_at=".", truncate_after=1).cut(whole).response_mask.sum(1).tolist() == [3, 6, 3, 5, 4, 2]


@pytest.mark.parametrize("text", ["ab", "", "</s>"])
def test_a_text_that_is_not_one_other_token_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"model.init_args.ending.truncate_at: .* give the text of one other token"):
        ending(truncate_at=text)


def test_a_token_that_could_never_cut_is_refused() -> None:
    with pytest.raises(UserError, match=r"truncate_after is 20, and responses have at most 20"):
        ending(truncate_at=".", truncate_after=20)


def test_rules_for_responses_without_an_end() -> None:
    scores, truncated = torch.tensor([3.0, -2.0]), torch.tensor([True, False])
    assert ending().scores(scores, truncated).tolist() == [2.5, -2.0]
    replaced = ending(1.0, missing_eos="replace", missing_eos_score=-1.0).scores(scores, truncated)
    assert replaced.tolist() == [-1.0, -2.0]
    assert replaced.dtype == torch.float32


def test_scores_of_finished_and_of_truncated_responses() -> None:
    scores, truncated = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([False, True, True])
    assert ending_metrics(truncated, scores) == {"rollout/score_finished": 1.0, "rollout/score_truncated": 4.0}
    assert ending_metrics(~truncated[:1], scores[:1]) == {"rollout/score_truncated": 1.0}
    assert ending_metrics(truncated[:1], scores[:1]) == {"rollout/score_finished": 1.0}


@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_sampling_and_update_agree_on_a_minimum_length(tiny: TinyRuns, tmp_path: Path, engine: Any) -> None:
    """The first minibatch's ratio is 1, no response is shorter, and the tiny model would else end early."""
    settings = SamplingSettings(10, 0.7, engine=engine, min_response_tokens=6)
    ppo = module(tiny, sampling=settings, num_minibatches=1)
    with torch.no_grad():
        ppo.configure_model()
        lm = ppo.roles.backbone("policy").lm
        bias = torch.zeros(lm.config.vocab_size)
        bias[ppo.template.eos_id] = 4.0
        lm.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    trainer(tmp_path, max_epochs=1).fit(ppo, datamodule=data())
    metrics = ppo.ppo_loop.metrics
    assert 7 <= metrics["rollout/response_tokens"] < 10
    assert metrics["rollout/eos_rate"] > 0
    assert abs(metrics["rollout/mismatch_kl"]) < 1e-5
    assert metrics["rollout/mismatch_ratio_max"] == pytest.approx(1, abs=1e-3)
    assert float(ppo.trainer.callback_metrics["policy/ratio_max"]) == pytest.approx(1, abs=1e-4)
    assert math.isfinite(metrics["rollout/entropy"])


def test_without_it_the_update_would_not_agree(tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `rollout/mismatch_kl` is for."""
    from rlhf_lightning.ppo.roles import Roles

    monkeypatch.setattr(Roles, "rule_out_eos", lambda *_: None)
    ppo = module(tiny, sampling=SamplingSettings(10, min_response_tokens=6), num_minibatches=1)
    trainer(tmp_path, max_epochs=1).fit(ppo, datamodule=data())
    assert ppo.ppo_loop.metrics["rollout/mismatch_kl"] > 1e-4
