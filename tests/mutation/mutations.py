"""All mutations. `python -m tests.mutation.run` runs them."""

from __future__ import annotations

from tests.mutation import masked_and_tokens as tokens
from tests.mutation import ppo, reward, rollouts

MUTATIONS = [
    *tokens.MASKED,
    *tokens.LOGPROBS,
    *tokens.PACKING,
    *tokens.SCHEDULE,
    *rollouts.SAMPLING,
    *rollouts.DECODING,
    *ppo.LOSSES,
    *ppo.ADVANTAGES,
    *ppo.KL,
    *ppo.REWARDS,
    *ppo.BUFFER,
    *reward.PAIRS_AND_LOSS,
    *reward.PAIR_METRICS,
]
