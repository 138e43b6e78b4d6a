"""One iteration of PPO on plain PyTorch, transformers and PEFT: four separate models, one unpadded sequence at a time.

Nothing of the package is used. What is taken as given is what a random number decided: the sampled responses and
which of them are in which minibatch. Sections are those of arXiv 2203.02155.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification


@dataclass(frozen=True)
class Settings:
    """Every number of the iteration."""

    policy_lr: float
    value_lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    warmup: int
    clip_norm: float
    temperature: float
    kl_coef: float
    clip_range: float
    value_clip_range: float
    value_coef: float
    gamma: float
    gae_lambda: float
    missing_eos_penalty: float
    eos_id: int


@dataclass(frozen=True)
class Finished:
    """Weights after the iteration, and what a run would log."""

    policy: dict[str, Tensor]
    value: dict[str, Tensor]
    head: dict[str, Tensor]
    metrics: dict[str, float]


@dataclass
class Episode:
    """One prompt, its response and what is known of it before the update."""

    prompt: list[int]
    response: list[int]
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


class Models:
    """Policy, reference, reward model and value function, each with a base of its own."""

    def __init__(self, sft: Path, reward: Path, policy_start: dict[str, Tensor], temperature: float) -> None:
        base = json.loads((sft / "adapter_config.json").read_text())["base_model_name_or_path"]

        def causal() -> Any:
            return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), sft, is_trainable=True).eval()

        def scalar() -> Any:
            trunk = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
            return PeftModel.from_pretrained(trunk, reward, is_trainable=True).eval()

        self.policy, self.reference, self.reward, self.value = causal(), causal(), scalar(), scalar()
        set_peft_model_state_dict(self.policy, policy_start)
        self.reward_head = load_file(reward / "scalar_head.safetensors")
        self.value_head = {k: v.clone().requires_grad_() for k, v in self.reward_head.items()}
        self.temperature = temperature

    def log_distribution(self, model: Any, prompt: list[int], response: list[int]) -> Tensor:
        """Log-probabilities [R, V] of every token at the place of each response token."""
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
        return torch.log_softmax(logits[len(prompt) - 1 : -1] / self.temperature, dim=-1)

    def scalars(self, model: Any, head: dict[str, Tensor], prompt: list[int], response: list[int]) -> Tensor:
        """The head's output at every position of prompt and response."""
        hidden = model.get_base_model().model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0]
        scalars: Tensor = hidden @ head["weight"] + head["bias"]
        return scalars

    def values(self, prompt: list[int], response: list[int]) -> Tensor:
        """Value before each response token; [R]."""
        return self.scalars(self.value, self.value_head, prompt, response)[len(prompt) - 1 : -1]


def _of(log_p: Tensor, response: list[int]) -> Tensor:
    return torch.stack([row[token] for row, token in zip(log_p, response, strict=True)])


def _gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    advantages = torch.zeros_like(rewards)
    after, following = 0.0, 0.0  # advantage and value one token later
    for t in range(len(rewards) - 1, -1, -1):
        after = float(rewards[t] + gamma * following - values[t]) + gamma * lam * after
        advantages[t], following = after, float(values[t])
    return advantages


@torch.no_grad()
def collect(models: Models, prompts: list[list[int]], responses: list[list[int]], s: Settings) -> Any:
    """Score the responses and estimate advantages (§3.5, C.4); episodes and the rollout's metrics."""
    episodes, scores, divergences, entropies = [], [], [], []
    for prompt, response in zip(prompts, responses, strict=True):
        log_p = models.log_distribution(models.policy, prompt, response)
        logprobs = _of(log_p, response)
        reference = _of(models.log_distribution(models.reference, prompt, response), response)
        values = models.values(prompt, response)
        score = models.scalars(models.reward, models.reward_head, prompt, response)[-1]
        scores.append(score)
        divergences.append((logprobs - reference).sum())
        entropies.append(-(log_p.exp() * log_p).sum(-1))
        rewards = -s.kl_coef * (logprobs - reference)
        rewards[-1] += score if response[-1] == s.eos_id else score - s.missing_eos_penalty
        advantages = _gae(rewards, values, s.gamma, s.gae_lambda)
        episodes.append(Episode(prompt, response, logprobs, values, advantages, advantages + values))
    tokens = torch.cat([e.advantages for e in episodes]).double()
    mean, deviation = tokens.mean(), torch.sqrt(tokens.var(unbiased=False) + 1e-8)
    for e in episodes:
        e.advantages = ((e.advantages - mean) / deviation).float()
    returns = torch.cat([e.returns for e in episodes])
    errors = returns - torch.cat([e.values for e in episodes])
    metrics: dict[str, Any] = {
        "rollout/score_mean": torch.stack(scores).mean(),
        "rollout/score_std": torch.stack(scores).std(unbiased=False),
        "rollout/kl": torch.stack(divergences).mean(),
        "rollout/response_tokens": sum(map(len, responses)) / len(responses),
        "rollout/eos_rate": sum(r[-1] == s.eos_id for r in responses) / len(responses),
        "rollout/entropy": torch.cat(entropies).mean(),
        "value/explained_variance": 1 - errors.var(unbiased=False) / returns.var(unbiased=False),
    }
    return episodes, {k: float(v) for k, v in metrics.items()}


def losses(models: Models, episode: Episode, s: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped policy and value loss of each token (arXiv 1707.06347, Eq. 7), and the ratio."""
    log_p = models.log_distribution(models.policy, episode.prompt, episode.response)
    ratio = torch.exp(_of(log_p, episode.response) - episode.logprobs)
    clipped = ratio.clamp(1 - s.clip_range, 1 + s.clip_range)
    policy = -torch.minimum(ratio * episode.advantages, clipped * episode.advantages)
    values = models.values(episode.prompt, episode.response)
    near = torch.minimum(
        torch.maximum(values, episode.values - s.value_clip_range), episode.values + s.value_clip_range
    )
    value = torch.maximum((values - episode.returns) ** 2, (near - episode.returns) ** 2) / 2
    return policy, value, ratio


def update(models: Models, episodes: list[Episode], minibatches: list[list[int]], s: Settings) -> dict[str, float]:
    """One optimizer step for each minibatch; the update's metrics are means over all tokens seen."""
    lora = {
        name: [p for n, p in model.named_parameters() if "lora_" in n]
        for name, model in (("policy", models.policy), ("value", models.value))
    }
    groups: list[dict[str, Any]] = [
        {"params": lora["policy"], "lr": s.policy_lr},
        {"params": [*lora["value"], *models.value_head.values()], "lr": s.value_lr},
    ]
    optimizer = torch.optim.AdamW(groups, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay)
    seen: dict[str, list[Tensor]] = {"policy": [], "value": [], "ratio": []}
    for step, rows in enumerate(minibatches):
        for group, peak in zip(optimizer.param_groups, (s.policy_lr, s.value_lr), strict=True):
            group["lr"] = peak * min(1.0, 0.1 + 0.9 * step / s.warmup)  # C.4: from a tenth of the peak, then constant
        parts = [losses(models, episodes[row], s) for row in rows]
        for name, column in zip(seen, zip(*parts, strict=True), strict=True):
            seen[name].append(torch.cat(column).detach())
        policy, value, _ = (torch.cat(column).mean() for column in zip(*parts, strict=True))
        optimizer.zero_grad()
        (policy + s.value_coef * value).backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], s.clip_norm)
        optimizer.step()
    policy, value, ratio = (torch.cat(column) for column in seen.values())
    metrics: dict[str, Any] = {
        "policy/loss": policy.mean(),
        "policy/approx_kl": (ratio.log() ** 2).mean() / 2,
        "policy/clip_frac": ((ratio - 1).abs() > s.clip_range).float().mean(),
        "policy/ratio_max": ratio.max(),
        "value/loss": value.mean(),
        "lr/policy": s.policy_lr * min(1.0, 0.1 + 0.9 * len(minibatches) / s.warmup),
        "lr/value": s.value_lr * min(1.0, 0.1 + 0.9 * len(minibatches) / s.warmup),
    }
    assert not any(math.isnan(float(v)) for v in metrics.values())
    return {k: float(v) for k, v in metrics.items()}


def iteration(
    sft: Path,
    reward: Path,
    policy_start: dict[str, Tensor],
    prompts: list[list[int]],
    responses: list[list[int]],
    minibatches: list[list[int]],
    settings: Settings,
) -> Finished:
    """Everything between the sampled tokens and the weights of the next iteration.

    Args:
        sft: PEFT adapter of the reference model.
        reward: PEFT adapter and head of the reward model, from which the value function starts.
        policy_start: Adapter tensors that the policy starts from.
        prompts: Tokens of each prompt.
        responses: Tokens of each response, EOS included.
        minibatches: Rows of each optimizer step.
        settings: Numbers.
    """
    models = Models(sft, reward, policy_start, settings.temperature)
    episodes, metrics = collect(models, prompts, responses, settings)
    metrics |= update(models, episodes, minibatches, settings)
    value = {k: v for k, v in get_peft_model_state_dict(models.value).items() if ".lora_" in k}
    return Finished(get_peft_model_state_dict(models.policy), value, models.value_head, metrics)
