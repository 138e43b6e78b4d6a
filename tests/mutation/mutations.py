"""All mutations. `python -m tests.mutation.run` runs them."""

from __future__ import annotations

from tests.mutation import batches, gradients, logprobs, ppo, pretraining, ragged, ragged_attention, reward, rollouts
from tests.mutation import masked_and_tokens as tokens

MUTATIONS = [
    *tokens.MASKED,
    *logprobs.LOGPROBS,
    *batches.PACKING,
    *tokens.SCHEDULE,
    *rollouts.SAMPLING,
    *rollouts.DECODING,
    *rollouts.LEAN_DECODER,
    *ppo.LOSSES,
    *ppo.ADVANTAGES,
    *ppo.KL,
    *ppo.REWARDS,
    *ppo.BUFFER,
    *ppo.ENDINGS,
    *ppo.EMA,
    *ppo.CONTROL,
    *pretraining.TEXT,
    *pretraining.PTX,
    *pretraining.MIXING,
    *reward.PAIRS_AND_LOSS,
    *reward.PAIR_METRICS,
    *batches.ROLLOUT,
    *batches.REQUESTS,
    *batches.RANKING_BATCHES,
    *batches.MEMORY,
    *batches.EXPERIENCE_PARTS,
    *ragged.RAGGED,
    *ragged_attention.RAGGED_ATTENTION,
    *gradients.LORA,
    *gradients.CHECKPOINTING,
    *gradients.EARLY_BACKWARD,
    *gradients.RMS_NORM,
    *gradients.LEAN_LAYERS,
]
