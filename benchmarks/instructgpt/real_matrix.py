"""The three stages and PPO-ptx, once, on real data."""

from __future__ import annotations

import json

from benchmarks.instructgpt.matrix import DATA, MODEL, Keys, Matrix
from benchmarks.instructgpt.plan import Evaluation, Job
from benchmarks.instructgpt.scale import DEFAULT_BETA, RECOMMENDED_GAMMA

SFT, REWARD = "real-sft", "real-reward"
POLICIES = ("real-ppo", "real-ptx")


def real_jobs(matrix: Matrix) -> list[Job]:
    """SFT, reward model on rankings and comparisons, PPO with and without pretraining text, and what they became."""
    scale, places, seed = matrix.scale, matrix.places, matrix.seeds[0]
    data = places.out / "data" / "real"
    lengths: Keys = {f"{DATA}.max_prompt_tokens": scale.real_prompt_tokens, f"{DATA}.on_long_prompt": "drop"}
    with_responses = lengths | {f"{DATA}.max_response_tokens": scale.real_response_tokens}
    text = data / "pretrain.jsonl"

    def job(name: str, config: str, priority: int, after: set[str], keys: Keys) -> Job:
        train = matrix.fit(config, seed, keys)
        # SFT has no reward model to be scored by yet, so everything is judged in the end.
        facts = (("gamma", RECOMMENDED_GAMMA if name == "real-ptx" else 0.0),)
        return Job(name, priority, frozenset({"real"}), seed, train, frozenset(after), facts=facts)

    sft_keys = matrix.base_keys() | with_responses | {f"{DATA}.train": data / "demonstrations.jsonl"}
    sft_keys |= {f"{DATA}.val": data / "demonstrations_val.jsonl", f"{DATA}.pretrain": text}
    reward_keys = with_responses | {
        f"{MODEL}.init_from": places.run(SFT),
        f"{DATA}.train": json.dumps([str(data / "rankings.jsonl"), str(data / "comparisons.jsonl")]),
        f"{DATA}.val": "null",
        f"{DATA}.demonstrations": data / "demonstrations.jsonl",
    }
    ppo_keys = lengths | {
        f"{MODEL}.policy_from": places.run(SFT),
        f"{MODEL}.reward_from": places.run(REWARD),
        f"{MODEL}.sampling.max_response_tokens": scale.real_sample_tokens,
        f"{MODEL}.kl_coef": DEFAULT_BETA,
        f"{DATA}.train": data / "prompts.jsonl",
        f"{DATA}.val": "null",
        f"{DATA}.batch_size": scale.prompts,
        "trainer.max_epochs": scale.iterations,
    }
    ptx_keys = ppo_keys | matrix.ptx_keys(RECOMMENDED_GAMMA) | {f"{DATA}.pretrain": text}
    judged = (("real-base", scale.base_model), *((name, name) for name in (SFT, *POLICIES)))
    evaluations = tuple(Evaluation(name, "real", model, seed, SFT, REWARD) for name, model in judged)
    return [
        job(SFT, "ppo_init_sft", 8, set(), sft_keys),
        job(REWARD, "reward", 8, {SFT}, reward_keys),
        job(POLICIES[0], "ppo", 8, {SFT, REWARD}, ppo_keys),
        job(POLICIES[1], "ppo_ptx", 8, {SFT, REWARD}, ptx_keys),
        Job(
            "real-judge",
            8,
            frozenset({"real"}),
            seed,
            after=frozenset({SFT, REWARD, *POLICIES}),
            evaluations=(*evaluations, Evaluation(REWARD, "real_reward", "", seed, SFT, REWARD)),
        ),
    ]
