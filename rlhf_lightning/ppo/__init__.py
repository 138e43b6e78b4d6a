"""Stage 3: PPO against the reward model with a per-token KL penalty to the SFT model (§3.5 Eq. 2, C.4).

Prompts are padded left, responses right, so response token t stands at column P+t and the hidden state that
predicts it (its logits, its value) at column P+t-1::

    column      0    1    2   P-1 | P    P+1  P+2  P+3
    input_ids   pad  pad  Q   Q   | y0   y1   EOS  pad        Q prompt tokens, y response tokens
    mask        0    0    1   1   | 1    1    1    0
    predicts                  y0  | y1   EOS  -    -          hidden[:, P-1:T-1] lines up with response_ids

Read in this order: prompts, rollout, roles, scoring, kl, rewards, advantages, buffer, loss, module, loop.
Pretraining text (PPO-ptx): ptx (what and how much of it), ptx_update (its gradient and norms).
Rewards other than the reward model: reward_terms (configuration), reward_functions, reward_sum; those that read
text are in text_reward_models, beside the stages.
"""
