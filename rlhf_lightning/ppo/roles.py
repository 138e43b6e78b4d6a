"""Policy, reference, reward and value: by default four adapters on one frozen base."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from rlhf_lightning.artefacts import Source
from rlhf_lightning.errors import UserError
from rlhf_lightning.logprobs import token_logprobs
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import attach_adapter, build_head, merge_into
from rlhf_lightning.models.limits import ModelLimits, load_limits
from rlhf_lightning.models.loading import load_causal_lm, load_tokenizer
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.scalar_head import ScalarHead
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.prompt_template import PromptTemplate

RoleName = Literal["policy", "reference", "reward", "value"]
TRAINED: tuple[RoleName, RoleName] = ("policy", "value")
POLICY_KEY, REWARD_KEY = "model.init_args.policy_from", "model.init_args.reward_from"


class Roles(nn.Module):
    """Answers `logprobs`, `values` and `score`; training code does not know where the weights are.

    ========= ============================================ ==========================
    role      with LoRA                                    full fine-tuning
    ========= ============================================ ==========================
    policy    base + trainable adapter from the SFT's      trained copy
    reference base + frozen copy of the SFT adapter        frozen copy
    reward    base + frozen RM adapter, RM head            frozen copy, RM head
    value     base + trainable RM adapter, trained RM head trained copy, RM head
    ========= ============================================ ==========================

    Where the SFT model is not an adapter, its bare weights are the reference; where the reward model sits on
    another base, reward and value share that one. Without a reward model (rewards are functions, or read text) the
    value function starts as the SFT model with a head of zeros: it reads the policy's tokens, which such a reward
    does not, and predicts nothing until it has learnt something (openai/lm-human-preferences starts it so).
    """

    def __init__(
        self,
        policy: Source,
        reward: Source | None,
        lora: LoraSettings | None,
        dtype: torch.dtype,
        trust_remote_code: bool = False,
        reward_weight: float = 1.0,
    ) -> None:
        """
        Args:
            policy: Where policy and reference start.
            reward: The reward model that reads the policy's tokens, if there is one.
            lora: Adapters; None for full fine-tuning.
            dtype: Of the weights of the base.
            trust_remote_code: Run code that comes with a model.
            reward_weight: What its scores are multiplied by, and so the values that start as they are.
        """
        super().__init__()
        self._trust = trust_remote_code
        self._eos_id, self._first_eos = -1, 0
        self._backbones: dict[str, Backbone] = {}
        self._adapters: dict[str, str | None] = {}
        if lora is None:
            self._build_full(policy, reward, dtype)
        else:
            self._build_shared(policy, reward, lora, dtype)
        for i, backbone in enumerate(dict.fromkeys(self._backbones.values())):
            self.add_module(f"backbone{i}", backbone)
        self.reward_head: ScalarHead | None = None
        hidden_size = self._backbones["value"].hidden_size
        if reward is None:
            self.value_head = ScalarHead(hidden_size)
            nn.init.zeros_(self.value_head.weight)
            return
        self.reward_head = build_head(reward, hidden_size, 0, REWARD_KEY).requires_grad_(False)
        # The bias goes along: a value that starts at the score's own level has nothing to unlearn (N+ details).
        self.value_head = build_head(reward, hidden_size, 0, REWARD_KEY)
        with torch.no_grad():
            for parameter in self.value_head.parameters():
                parameter.mul_(reward_weight)

    def _build_shared(self, policy: Source, reward: Source | None, lora: LoraSettings, dtype: torch.dtype) -> None:
        base = Backbone(load_causal_lm(policy.model, dtype, POLICY_KEY, self._trust, lora.base_bits))
        self._place("policy", base, policy, lora, POLICY_KEY, trainable=True)
        # A fresh policy adapter (the SFT model is not one) starts as the base itself: that is the reference.
        self._place("reference", base, policy if policy.adapter else None, lora, POLICY_KEY)
        if reward is None:
            self._place("value", base, policy, lora, POLICY_KEY, trainable=True)
            return
        if reward.adapter is None or reward.model != policy.model:
            base = Backbone(load_causal_lm(reward.model, dtype, REWARD_KEY, self._trust, lora.base_bits))
        self._place("reward", base, reward if reward.adapter else None, lora, REWARD_KEY)
        self._place("value", base, reward, lora, REWARD_KEY, trainable=True)

    def _place(
        self,
        role: RoleName,
        backbone: Backbone,
        source: Source | None,
        lora: LoraSettings,
        key: str,
        trainable: bool = False,
    ) -> None:
        self._backbones[role], self._adapters[role] = backbone, role if source else None
        if source:
            attach_adapter(backbone, role, source, lora, key, trainable)

    def _build_full(self, policy: Source, reward: Source | None, dtype: torch.dtype) -> None:
        value = (policy, POLICY_KEY) if reward is None else (reward, REWARD_KEY)
        for role, frozen, source, key in (("policy", "reference", policy, POLICY_KEY), ("value", "reward", *value)):
            lm = load_causal_lm(source.model, dtype, key, self._trust)
            lm = merge_into(lm, source, key) if source.adapter else lm
            if role == "policy" or reward is not None:
                self._backbones[frozen], self._adapters[frozen] = Backbone(deepcopy(lm)), None
            self._backbones[role], self._adapters[role] = Backbone(lm, freeze=False), None
        value_lm = self._backbones["value"].lm
        if not value_lm.config.tie_word_embeddings:
            value_lm.get_output_embeddings().requires_grad_(False)

    def backbone(self, role: RoleName) -> Backbone:
        """The backbone of a role; roles may share one."""
        return self._backbones[role]

    def adapter(self, role: RoleName) -> str | None:
        """The adapter of a role on its backbone; None is the backbone's own weights."""
        return self._adapters[role]

    def trainable_parts(self) -> dict[str, list[nn.Parameter]]:
        """What is trained, of the policy and of the value function."""
        policy = {id(p) for p in self._backbones["policy"].parameters()}
        parts: dict[str, list[nn.Parameter]] = {"policy": [], "value": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                # On a shared base both have adapters; without any, the policy has a backbone of its own.
                own = id(parameter) in policy and (self._adapters["policy"] is None or ".policy." in name)
                parts["policy" if own else "value"].append(parameter)
        return parts

    def rule_out_eos(self, eos_id: int, tokens: int) -> None:
        """From now on `logprobs` are those of a policy (and a reference) that cannot end within the first tokens.

        Args:
            eos_id: EOS.
            tokens: At the beginning of a response: `sampling.min_response_tokens`.
        """
        self._eos_id, self._first_eos = eos_id, tokens

    def _excluded(self, mask: Tensor) -> Tensor | None:
        """For each of the M response tokens what could not be drawn; None where everything could."""
        if not self._first_eos:
            return None
        early = torch.arange(mask.shape[1], device=mask.device) < self._first_eos
        return torch.where(early, self._eos_id, -1).expand_as(mask)[mask]

    def _by_backbone(self, roles: Sequence[RoleName]) -> dict[Backbone, dict[RoleName, str | None]]:
        found: dict[Backbone, dict[RoleName, str | None]] = {}
        for role in roles:
            found.setdefault(self._backbones[role], {})[role] = self._adapters[role]
        return found

    def together(self, roles: Sequence[RoleName]) -> int:
        """How many of these roles, at most, `hidden` computes in one forward: so many times over are tokens in it."""
        shared = self._by_backbone(roles).items()
        return max(len(own) if backbone.takes_rows(list(own.values())) else 1 for backbone, own in shared)

    @property
    def trained_together(self) -> bool:
        """Whether the update computes policy and value in one forward.

        It keeps the activations of both until their backward. A GPU, which at a few hundred tokens waits for the next
        operation, gets half as many of them for that; a CPU saves 6 % of forward and backward, which is not worth it.
        """
        return self.value_head.weight.device.type != "cpu" and self.together(TRAINED) == len(TRAINED)

    def hidden(self, roles: Sequence[RoleName], rollout: Rollout) -> dict[RoleName, Tensor]:
        """Final hidden states of all N tokens by each role, [N, H]; roles on one base in one forward if possible."""
        tokens = rollout.sequences.tokens
        found: dict[RoleName, Tensor] = {}
        for backbone, own in self._by_backbone(roles).items():
            found |= dict(zip(own, backbone.hidden_by_adapter(list(own.values()), tokens), strict=True))
        return found

    def logprobs(
        self,
        role: Literal["policy", "reference"],
        rollout: Rollout,
        temperature: float,
        with_entropy: bool = True,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the response tokens and entropies (0 without), nats, [B, R]; 0 where masked.

        Args:
            role: Whose.
            rollout: B responses.
            temperature: The sampling temperature.
            with_entropy: Compute entropies.
            hidden: [N, H], what `hidden` gave for the role; None computes it.
        """
        hidden = self.hidden((role,), rollout)[role] if hidden is None else hidden
        hidden, targets = hidden[rollout.sequences.before], rollout.response_ids[rollout.response_mask]
        excluded = self._excluded(rollout.response_mask)
        unembed = self.backbone(role).unembed  # no adapter is on it
        logprobs, entropy = token_logprobs(hidden, targets, unembed, temperature, with_entropy, excluded)
        return _scatter(logprobs, rollout.response_mask), _scatter(entropy, rollout.response_mask)

    def values(self, rollout: Rollout, hidden: Tensor | None = None) -> Tensor:
        """Value before each response token, in score units, [B, R]; 0 where masked. `hidden` as in `logprobs`."""
        hidden = self.hidden(("value",), rollout)["value"] if hidden is None else hidden
        return _scatter(self.value_head(hidden[rollout.sequences.before]), rollout.response_mask)

    def score(self, rollout: Rollout, hidden: Tensor | None = None) -> Tensor:
        """Reward-model score of each response, read at its last valid token; [B]. Without one, 0.

        `hidden` as in `logprobs`.
        """
        if self.reward_head is None:
            return torch.zeros(len(rollout), dtype=torch.float32, device=rollout.response_ids.device)
        hidden = self.hidden(("reward",), rollout)["reward"] if hidden is None else hidden
        scores: Tensor = self.reward_head(hidden[rollout.sequences.ends])
        return scores


def check_reward_model(
    policy: Source, reward: Source | None, template: PromptTemplate, pad_token: str | None, trust_remote_code: bool
) -> ModelLimits | None:
    """What the reward model in `reward_from` can take in, after a look whether it can read the policy's tokens.

    Raises:
        UserError: The two models read token ids differently.
    """
    if reward is None:
        return None
    reward_tokenizer = load_tokenizer(reward.tokenizer, pad_token, REWARD_KEY, trust_remote_code)
    if template.tokenizer.get_vocab() != reward_tokenizer.get_vocab():
        raise UserError(
            f"{REWARD_KEY}: the reward model's tokenizer ({reward.tokenizer}) differs from the policy's "
            f"({policy.tokenizer}). Train the reward model from the same base model, or give it as "
            "`reward: [{reward_from: ...}]`, which scores decoded text."
        )
    if template.tokenizer.chat_template != reward_tokenizer.chat_template:
        raise UserError(
            f"{REWARD_KEY}: the reward model ({reward.tokenizer}) was trained with another chat template than the "
            f"policy ({policy.tokenizer}), so it cannot read its prompts. Train it with init_from the SFT model, or "
            "give it as `reward: [{reward_from: ...}]`, which scores decoded text."
        )
    formats = reward.info.prompt_format if reward.info else "{prompt}", template.prompt_format
    if reward_tokenizer.chat_template is None and formats[0] != formats[1]:
        raise UserError(
            f"{REWARD_KEY}: the reward model was trained with the prompt_format {formats[0]!r} and the policy with "
            f"{formats[1]!r}, so it cannot read its prompts. Train it with init_from the SFT model, or give it as "
            "`reward: [{reward_from: ...}]`, which scores decoded text."
        )
    return load_limits(reward.model, REWARD_KEY, trust_remote_code)


def _scatter(values: Tensor, mask: Tensor) -> Tensor:
    """[M] values back to their places in [B, R], 0 elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)
