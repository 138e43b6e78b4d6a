"""Which runs the experiments need, as command lines of the project's own stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.instructgpt.plan import Evaluation, Job, Places
from benchmarks.instructgpt.scale import DEFAULT_BETA, KL_BUDGET, PAPER_GAMMA, PAPER_RATIO, RECOMMENDED_GAMMA, Scale
from rlhf_lightning.commands import COMMANDS

CONFIGS = Path("configs/quickstart")
GPU = "configs/trainer/gpu_bf16.yaml"
MODEL, DATA = "model.init_args", "data.init_args"
GOLD = [{"function": "benchmarks.instructgpt.gold_reward.gold", "weight": 0.0, "name": "gold"}]
NEVER = 1e9
"""A KL budget that is never spent; it makes PPO measure the KL where β is 0."""

Keys = dict[str, object]


@dataclass(frozen=True)
class Matrix:
    """Makes the jobs."""

    scale: Scale
    places: Places
    device: str
    seeds: tuple[int, ...]
    cuda_graphs: bool = True
    """Whether PPO decodes with recorded kernels."""

    def jobs(self) -> list[Job]:
        """All of them, in the order in which they are wanted."""
        jobs = []
        for seed in self.seeds:
            jobs += [self.sft(seed), self.reward(seed), self.starts(seed)]
            jobs += [self.ppo(seed, 0.0, DEFAULT_BETA, 2), self.ppo(seed, RECOMMENDED_GAMMA, DEFAULT_BETA, 2)]
            jobs += [self.paper(seed), self.many_epochs(seed), self.selection(seed)]
        for seed in self.seeds[: self.scale.side_seeds]:
            jobs += [self.ppo(seed, g, DEFAULT_BETA, 5) for g in self.scale.gammas if g != RECOMMENDED_GAMMA]
            jobs += [self.ppo(seed, g, b, 7) for g in (0.0, RECOMMENDED_GAMMA) for b in self.scale.betas]
            jobs.append(self.budget(seed))
        if "crossvalidate" in COMMANDS:
            jobs.append(self.groups(self.seeds[0]))
        return jobs

    # -- stages ---------------------------------------------------------------------------------------------

    def sft(self, seed: int) -> Job:
        """The SFT model that reward model and policies start from (C.3): few epochs, with pretraining text."""
        keys = self._sft_keys() | {
            "trainer.max_epochs": self.scale.sft_epochs,
            f"{DATA}.pretrain": pretraining_file(held_out=False),
        }
        everything = frozenset({"ordering", "tax", "beta", "recipe", "selection"})
        return Job(f"sft-s{seed}", 0, everything, seed, self.fit("ppo_init_sft", seed, keys))

    def reward(self, seed: int) -> Job:
        """The reward model of a seed."""
        name, sft = f"reward-s{seed}", f"sft-s{seed}"
        keys = self._files("rankings", None) | {
            f"{MODEL}.init_from": self.places.run(sft),
            f"{DATA}.demonstrations": CONFIGS / "data/demonstrations.jsonl",
        }
        evaluation = Evaluation(name, "reward", "", seed, sft, name)
        everything = frozenset({"ordering", "tax", "beta", "recipe", "selection"})
        return Job(name, 1, everything, seed, self.fit("reward", seed, keys), frozenset({sft}), (evaluation,))

    def starts(self, seed: int) -> Job:
        """Base and SFT, on the prompts that the policies are judged on."""
        sft, reward = f"sft-s{seed}", f"reward-s{seed}"
        found = tuple(
            Evaluation(f"{name}-s{seed}", "policy", model, seed, sft, reward)
            for name, model in (("sft", sft), ("base", self.scale.base_model))
        )
        wanted = frozenset({"ordering", "tax", "beta"})
        return Job(f"starts-s{seed}", 2, wanted, seed, after=frozenset({sft, reward}), evaluations=found)

    def ppo(self, seed: int, gamma: float, beta: float, priority: int) -> Job:
        """PPO, or PPO-ptx where γ is above 0, at some β."""
        experiments = {"beta"} if beta != DEFAULT_BETA or gamma in (0.0, RECOMMENDED_GAMMA) else set()
        if beta == DEFAULT_BETA:
            experiments.add("tax")
            experiments |= {"ordering"} if gamma in (0.0, RECOMMENDED_GAMMA) else set()
            experiments |= {"recipe"} if gamma in (RECOMMENDED_GAMMA, PAPER_GAMMA) else set()
        long = beta == 0.0 and gamma == 0.0
        keys: Keys = {f"{MODEL}.kl_coef": beta}
        if beta == 0.0:
            keys[f"{MODEL}.kl.budget"] = NEVER
        name = f"ppo-g{gamma:g}-b{beta:g}-s{seed}"
        return self._ppo_job(name, seed, priority, experiments, gamma, beta, keys, long)

    def budget(self, seed: int) -> Job:
        """As PPO with β = 0, but with a KL budget."""
        keys: Keys = {f"{MODEL}.kl_coef": 0.0, f"{MODEL}.kl.budget": KL_BUDGET}
        return self._ppo_job(f"ppo-budget-s{seed}", seed, 6, {"beta"}, 0.0, 0.0, keys, long=True)

    def paper(self, seed: int) -> Job:
        """PPO-ptx as C.4 has it where that does not depend on the size of model and batch."""
        keys: Keys = {
            f"{MODEL}.kl_coef": 0.02,
            f"{MODEL}.num_minibatches": 8,
            f"{MODEL}.schedule.warmup": 80,  # the first 10 iterations
            f"{MODEL}.ema": json.dumps({"decay": 0.992}),
        }
        name, ratio = f"paper-s{seed}", PAPER_RATIO
        return self._ppo_job(name, seed, 3, {"recipe"}, PAPER_GAMMA, 0.02, keys, long=False, ratio=ratio)

    def many_epochs(self, seed: int) -> Job:
        """The paper's SFT baseline (C.1): many epochs, selected by RM score; every epoch's checkpoint is kept."""
        name, sft, reward = f"epochs-s{seed}", f"sft-s{seed}", f"reward-s{seed}"
        keep = {
            "class_path": "rlhf_lightning.fitting.stage_checkpoint.StageCheckpoint",
            "init_args": {"filename": "{epoch}", "save_top_k": -1, "every_n_epochs": 1},
        }
        select = {"reward_from": str(self.places.run(reward)), "prompts": str(CONFIGS / "data/prompts_val.jsonl")}
        keys = self._sft_keys() | {
            "trainer.max_epochs": self.scale.select_epochs,
            "trainer.callbacks": json.dumps([keep]),
            f"{MODEL}.select": json.dumps(select | {"max_response_tokens": self.scale.response_tokens}),
        }
        train, after = self.fit("sft", seed, keys), frozenset({sft, reward})
        evaluation = Evaluation(f"sft16-s{seed}", "policy", name, seed, sft, reward)
        return Job(name, 3, frozenset({"selection", "ordering"}), seed, train, after, (evaluation,))

    def selection(self, seed: int) -> Job:
        """Epochs of that run by gold, beside validation loss and RM score."""
        epochs, sft, reward = f"epochs-s{seed}", f"sft-s{seed}", f"reward-s{seed}"
        name = f"selection-s{seed}"
        evaluation = Evaluation(name, "selection", epochs, seed, sft, reward)
        after = frozenset({epochs, sft, reward})
        return Job(name, 6, frozenset({"selection"}), seed, after=after, evaluations=(evaluation,))

    def groups(self, seed: int) -> Job:
        """Reward models that have not seen a fold's labelers."""
        sft, data = f"sft-s{seed}", self.places.out / "data/groups"
        keys = self._files("rankings", None) | {
            f"{MODEL}.init_from": self.places.run(sft),
            f"{DATA}.train": data / "rankings.jsonl",
            f"{DATA}.val": data / "rankings_heldout.jsonl",
            f"{DATA}.demonstrations": CONFIGS / "data/demonstrations.jsonl",
        }
        own = ("crossvalidate", "--folds", str(self.scale.folds), "--by", "labeler")
        train = (*own, *self.fit("reward", seed, keys)[1:])
        return Job("groups", 3, frozenset({"groups"}), seed, train, frozenset({sft}))

    # -- command lines --------------------------------------------------------------------------------------

    def _ppo_job(
        self,
        name: str,
        seed: int,
        priority: int,
        experiments: set[str],
        gamma: float,
        beta: float,
        keys: Keys,
        long: bool,
        ratio: int | None = None,
    ) -> Job:
        sft, reward = f"sft-s{seed}", f"reward-s{seed}"
        iterations = self.scale.long_iterations if long else self.scale.iterations
        keys = self._files("prompts", None) | keys
        keys |= {
            f"{MODEL}.policy_from": self.places.run(sft),
            f"{MODEL}.reward_from": self.places.run(reward),
            f"{MODEL}.reward": json.dumps(GOLD),
            f"{MODEL}.sampling.max_response_tokens": self.scale.response_tokens,
            f"{DATA}.batch_size": self.scale.prompts,
            "trainer.max_epochs": iterations,
        }
        if gamma > 0:
            keys |= self.ptx_keys(gamma, ratio) | {f"{DATA}.pretrain": pretraining_file(held_out=False)}
        evaluation = Evaluation(name, "policy", name, seed, sft, reward)
        facts = (("gamma", gamma), ("beta", beta))
        after = frozenset({sft, reward})
        train = self.fit("ppo_ptx" if gamma > 0 else "ppo", seed, keys)
        return Job(name, priority, frozenset(experiments), seed, train, after, (evaluation,), facts)

    def ptx_keys(self, gamma: float, ratio: int | None = None) -> Keys:
        """Pretraining text in the update; which text is not said."""
        return {
            f"{MODEL}.ptx.coef": gamma,
            f"{MODEL}.ptx.ratio": ratio or self.scale.ptx_ratio,
            f"{MODEL}.ptx.context_tokens": self.scale.context_tokens,
        }

    def base_keys(self) -> Keys:
        """What SFT starts from."""
        keys: Keys = {f"{MODEL}.base_model": self.scale.base_model}
        if self.scale.base_model.endswith("tiny"):
            keys |= {f"{MODEL}.chat_template": "null", f"{MODEL}.lora.rank": 4}
        return keys

    def _sft_keys(self) -> Keys:
        return self._files("demonstrations", "demonstrations_val") | self.base_keys()

    def _files(self, train: str, val: str | None) -> Keys:
        """Without validation where the evaluations say more."""
        checked = "null" if val is None else CONFIGS / f"data/{val}.jsonl"
        keys: Keys = {f"{DATA}.train": CONFIGS / f"data/{train}.jsonl", f"{DATA}.val": checked}
        if self.scale.limit is not None:
            keys |= {f"{DATA}.limit": self.scale.limit, f"{DATA}.max_prompt_tokens": 256}
            keys |= {} if train == "prompts" else {f"{DATA}.max_response_tokens": 250}
        return keys

    def fit(self, stage: str, seed: int, keys: Keys) -> tuple[str, ...]:
        """Arguments of a stage; its directory, and resuming, are added by the job."""
        args = ["fit", "--config", str(CONFIGS / f"{stage}.yaml")]
        if self.device == "cuda":
            args += ["--config", GPU]
        args += ["--seed_everything", str(seed)]
        args += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
        if self.device == "cpu":
            args += ["--trainer.accelerator", "cpu"]
        for key, value in keys.items():
            args += [f"--{key}", str(value)]
        for key, value in self.scale.overrides:
            args += [f"--{key}", value]
        if stage.startswith("ppo") and stage != "ppo_init_sft" and not self.cuda_graphs:
            args += [f"--{MODEL}.sampling.cuda_graphs", "false"]
        return tuple(args)


def pretraining_file(held_out: bool) -> Path:
    """Pretraining text of the quickstart."""
    return CONFIGS / "data" / ("pretraining_heldout.jsonl" if held_out else "pretraining.jsonl")
