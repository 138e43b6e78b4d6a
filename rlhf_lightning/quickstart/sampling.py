"""What a model writes, to be ranked or as pretraining text: the only part of making the data that needs a model."""

from __future__ import annotations

import torch
from tqdm.auto import tqdm

from rlhf_lightning.artefacts import open_source
from rlhf_lightning.evaluation.respond import Panel
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm, load_tokenizer
from rlhf_lightning.ppo.prompts import PromptItem, collate_prompts
from rlhf_lightning.ppo.rollout import sample_rollout
from rlhf_lightning.rollouts.native_engine import NativeEngine
from rlhf_lightning.rollouts.settings import SamplingSettings

TEMPERATURES = (1.0, 0.7, 1.3)
"""Samples of a prompt take these in turn, so that rankings hold better and worse responses than the policy's own."""


def sample_responses(
    policy: str, prompts: list[str], counts: list[int], seed: int, max_response_tokens: int = 32
) -> list[list[tuple[str, bool]]]:
    """Several samples per prompt as (text, ended by EOS).

    Args:
        policy: SFT artefact or causal LM.
        prompts: Prompts.
        counts: How many samples each prompt gets.
        seed: Same seed, machine and versions: same samples.
        max_response_tokens: Longer samples are cut.
    """
    panel = Panel({"policy": open_source(policy, "--policy")}, reference="policy", dtype=torch.bfloat16)
    samples: list[list[tuple[str, bool]]] = [[] for _ in prompts]
    for round_number in range(max(counts)):
        wanted = [i for i, count in enumerate(counts) if count > round_number]
        settings = SamplingSettings(max_response_tokens, TEMPERATURES[round_number % len(TEMPERATURES)])
        purpose = f"samples {round_number + 1} of {max(counts)}"
        responses = panel.respond("policy", [prompts[i] for i in wanted], settings, seed, purpose, measure=False)
        for i, response in zip(wanted, responses, strict=True):
            samples[i].append((response.text, response.ended))
    return samples


@torch.no_grad()
def continue_texts(
    base: str, openers: list[str], seed: int, max_tokens: int = 128, batch_size: int = 64
) -> list[tuple[str, bool]]:
    """What a causal LM writes after each opener at temperature 1, as (continuation, ended by itself).

    No chat template: the opener is the beginning of a document. Any special token is its end.

    Args:
        base: Causal LM.
        openers: Beginnings.
        seed: Same seed, machine and versions: same texts.
        max_tokens: Longer texts are cut.
        batch_size: Openers decoded together.
    """
    source = open_source(base, "--base")
    backbone = Backbone(load_causal_lm(source.model, torch.bfloat16, "--base"))
    tokenizer = load_tokenizer(source.tokenizer)
    special = set(tokenizer.all_special_ids)
    settings = SamplingSettings(max_tokens, batch_size=batch_size)
    items = [PromptItem(tokenizer(text, add_special_tokens=False)["input_ids"], text) for text in openers]
    written = []
    for start in tqdm(range(0, len(items), batch_size), desc="pretraining text", unit="batch"):
        part = items[start : start + batch_size]
        batch = collate_prompts(part, tokenizer.pad_token_id, range(start, start + len(part)))
        key = (seed, "pretraining text", 0, 0)
        ids = tokenizer.eos_token_id, tokenizer.pad_token_id
        with torch.autocast("cpu", torch.bfloat16):
            rollout = sample_rollout(NativeEngine(), backbone, None, batch, settings, key, *ids)
        for tokens, mask in zip(rollout.response_ids, rollout.response_mask, strict=True):
            said = tokens[mask].tolist()
            end = next((i for i, token in enumerate(said) if token in special), None)
            written.append((tokenizer.decode(said[:end]), end is not None))
    return written
