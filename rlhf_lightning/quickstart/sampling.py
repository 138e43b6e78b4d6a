"""Responses of a model to be ranked: the only part of making the data that needs a model."""

from __future__ import annotations

import torch

from rlhf_lightning.artefacts import open_source
from rlhf_lightning.evaluation.respond import Panel
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
