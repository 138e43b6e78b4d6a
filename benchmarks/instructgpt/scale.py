"""How large the experiments are. The runs are the same at every scale but for the seeds of the side experiments."""

from __future__ import annotations

from dataclasses import dataclass

RECOMMENDED_GAMMA = 4.0
"""Of configs/quickstart/ppo_ptx.yaml, chosen there by the norms of both gradients: its steps have far fewer
pretraining tokens than the paper's."""
PAPER_GAMMA, PAPER_RATIO = 27.8, 8
"""C.4: γ, and pretraining sequences for each response."""
DEFAULT_BETA = 0.05
"""Of the quickstart's PPO; the paper's 0.02 is one of the others."""
KL_BUDGET = 6.0
"""Nats per response, fixed before any run: the target that Ziegler et al. (2019) gave their controller."""


@dataclass(frozen=True)
class Scale:
    """Sizes, and what they leave out."""

    base_model: str = "embedded:smollm2-135m-instruct"
    overrides: tuple[tuple[str, str], ...] = ()
    """Keys that every stage gets."""
    limit: int | None = None
    """Rows read of each file; None for all."""
    iterations: int = 16
    """Of PPO and PPO-ptx (the quickstart's)."""
    long_iterations: int = 48
    """Of PPO without a KL penalty, which is to show over-optimisation."""
    prompts: int = 64
    """Prompts of an iteration."""
    sft_epochs: int = 2
    select_epochs: int = 16
    """Of the SFT run whose checkpoints are selected from (C.1)."""
    gammas: tuple[float, ...] = (1.0, RECOMMENDED_GAMMA, PAPER_GAMMA, 100.0)
    betas: tuple[float, ...] = (0.0, 0.2, 2.0)
    """Beside the default."""
    side_seeds: int = 1
    """How many of the seeds the runs of other γ and β have; the main ones have all."""
    rounds: int = 2
    """Samples of each held-out prompt."""
    held_out: int | None = None
    """Held-out prompts of each file; None for all (160 and 96)."""
    response_tokens: int = 32
    ptx_ratio: int = 2
    """Pretraining sequences for each response, as in configs/quickstart/ppo_ptx.yaml; not in the paper's recipe."""
    context_tokens: int = 64
    """Of a pretraining sequence."""
    folds: int = 5
    """Of labelers."""
    real_prompt_tokens: int = 128
    """Longer prompts of real data are left out."""
    real_response_tokens: int = 128
    """Longer responses of real data are cut."""
    real_sample_tokens: int = 48
    """Of sampled responses to real prompts."""


SCALES = {
    "tiny": Scale(
        base_model="embedded:tiny",
        overrides=(("trainer.precision", "32-true"), ("trainer.accelerator", "cpu")),
        limit=16,
        iterations=2,
        long_iterations=3,
        prompts=8,
        sft_epochs=1,
        select_epochs=2,
        betas=(0.0, 2.0),
        rounds=1,
        held_out=6,
        response_tokens=8,
        context_tokens=32,
        folds=2,
        real_response_tokens=64,
        real_sample_tokens=8,
    ),
    "small": Scale(),
    "full": Scale(betas=(0.0, 0.02, 0.2, 2.0), side_seeds=3),
}
