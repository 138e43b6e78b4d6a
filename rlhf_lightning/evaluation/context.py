"""What sections of an evaluation work with: prompts, responses, and models that are loaded when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from rlhf_lightning.artefacts import Source, source_fingerprint
from rlhf_lightning.evaluation.bases import Bases, usable_device
from rlhf_lightning.evaluation.evaluated_model import EvaluatedModel
from rlhf_lightning.evaluation.generations import Generation, GenerationFile
from rlhf_lightning.evaluation.judges import Judge, RewardJudge
from rlhf_lightning.evaluation.prompts import EvaluationPrompt, EvaluationPrompts, load_prompts
from rlhf_lightning.evaluation.settings import EvaluateSettings
from rlhf_lightning.evaluation.sources import ModelEntry, Reader, open_models, open_rewards
from rlhf_lightning.models.building import base_dtype
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.rollouts.choice import build_engine
from rlhf_lightning.seeding import derive_seed
from rlhf_lightning.text_reward_models import RewardReader, TextRewardModel


class EvaluationContext:
    """Everything that is found out about an evaluation before and while it runs."""

    def __init__(self, settings: EvaluateSettings) -> None:
        """Check settings, prompts and sources; load no weights.

        Raises:
            UserError: Something the user gave cannot be used.
        """
        self.settings = settings
        self.out = Path(settings.out).expanduser()
        self.seed = settings.seed
        self.device = usable_device(settings.device)
        self.dtype = base_dtype(settings.precision, LoraSettings())
        self.entries: dict[str, ModelEntry] = open_models(settings.models)
        """What the models are."""
        self.reward_sources: dict[str, Source] = open_rewards(settings.rewards)
        self.data: EvaluationPrompts = load_prompts(settings.prompts, settings.limit, settings.on_bad_row)
        self.prompts: list[EvaluationPrompt] = self.data.rows
        self.by_id: Mapping[str, EvaluationPrompt] = {p.id: p for p in self.prompts}
        self.judges: dict[str, Judge] = dict(settings.judges) or {n: RewardJudge(n) for n in self.reward_sources}
        self.bases = Bases(self.dtype, self.device, settings.trust_remote_code)
        self._engine = build_engine(settings.sampling.for_engine())
        self._readers: dict[str, Reader] = {}
        self._rewards: dict[str, TextRewardModel] = {}
        self._generations: dict[str, list[Generation]] = {}
        for name, judge in self.judges.items():
            judge.check(self, f"judges.{name}")

    @property
    def reference(self) -> str:
        """Name of the model that KL is measured to."""
        return self.settings.reference_name

    @property
    def baseline(self) -> str:
        """Name of the model that win rates are against."""
        return self.settings.baseline_name

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of every model's weights, or of its file of responses."""
        return {name: entry.fingerprint for name, entry in self.entries.items()}

    @cached_property
    def reward_fingerprints(self) -> dict[str, str]:
        """Of every reward model's weights."""
        return {name: source_fingerprint(source) for name, source in self.reward_sources.items()}

    def seed_for(self, purpose: str, *indices: int) -> int:
        """A seed for one use of randomness, derived from the evaluation's."""
        return derive_seed(self.seed, purpose, *indices)

    # -- models -------------------------------------------------------------------------------------------

    @property
    def loadable(self) -> list[str]:
        """Names of the models that have weights; the others are files of responses."""
        return [name for name, entry in self.entries.items() if entry.source is not None]

    def reader(self, name: str) -> Reader:
        """Tokenizer, template and limits of a model; no weights."""
        if name not in self._readers:
            s = self.settings
            self._readers[name] = Reader(self.entries[name], s.prompt_format, s.chat_template, s.trust_remote_code)
        return self._readers[name]

    def model(self, name: str) -> EvaluatedModel:
        """A model, loaded now if it is not yet; one of `loadable`."""
        entry = self.entries[name]
        assert entry.source is not None, f"{name} is a file of responses"
        place = self.bases.place(name, entry.source, entry.key)
        return EvaluatedModel(name, place, self.reader(name).template, self._engine, self.dtype, self.device)

    def model_of(self, source: Source, name: str, key: str) -> EvaluatedModel:
        """A model that is none of the settings' `models`, for sections that bring one."""
        entry = ModelEntry(name, source.name, source, None)
        s = self.settings
        reader = Reader(entry, s.prompt_format, s.chat_template, s.trust_remote_code)
        place = self.bases.place(name, source, key)
        return EvaluatedModel(name, place, reader.template, self._engine, self.dtype, self.device)

    def reward(self, name: str) -> TextRewardModel:
        """A reward model, loaded now if it is not yet, on a base that others share where there is one."""
        if name not in self._rewards:
            source = self.reward_sources[name]
            key = "reward" if name == "reward" else f"reward.{name}"
            shorten = "Lower sampling.max_response_tokens, or shorten the text."
            reader = RewardReader(source, key, self.settings.trust_remote_code, shorten)
            model = TextRewardModel(reader, self.settings.micro_batch_tokens)
            shared = None
            if source.adapter:
                base, _ = self.bases.place("", replace(source, adapter=None), key)
                shared = base, source.model, f"reward-{name}"
            model.build(LoraSettings(), self.dtype, self.settings.trust_remote_code, shared)
            model.to(self.device)
            if shared:
                shared[0].to(self.device)
            self._rewards[name] = model.eval()
        return self._rewards[name]

    def release(self, *keep: str) -> None:
        """Let go of the weights of all models but these, of the reference and of the rewards."""
        wanted = {*keep, self.reference} & set(self.loadable)
        models = {source.model for name in wanted if (source := self.entries[name].source)}
        self.bases.keep_only(models | {s.model for s in self.reward_sources.values()})

    def autocast(self) -> torch.autocast:
        """The precision that models compute in."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    # -- responses ----------------------------------------------------------------------------------------

    def generation_file(self, name: str) -> GenerationFile:
        """Where the responses of a model are."""
        return GenerationFile(self.out / "generations", name)

    def generations(self, name: str) -> list[Generation]:
        """All responses of a model to the prompts, in the order of the prompts and their samples.

        Prompts that a file of responses lacks are left out, where the settings allow that.
        """
        if name not in self._generations:
            wanted = {(p.id, s): i for i, (p, s) in enumerate(self.places)}
            rows = [row for row in self.generation_file(name).rows() if row.place in wanted]
            self._generations[name] = sorted(rows, key=lambda row: wanted[row.place])
        return self._generations[name]

    def forget_generations(self) -> None:
        """Read them again when they are asked for next."""
        self._generations.clear()

    @property
    def places(self) -> list[tuple[EvaluationPrompt, int]]:
        """Every prompt and sample that is to be answered."""
        return [(p, s) for p in self.prompts for s in range(self.settings.samples_per_prompt)]

    def generation_digests(self) -> dict[str, str]:
        """Of every model's responses, for sections to say what they were computed from."""
        rows = (self.data.fingerprint, self.settings.samples_per_prompt)
        return {name: f"{self.generation_file(name).digest()} {json.dumps(rows)}" for name in self.entries}

    def describe(self) -> dict[str, Any]:
        """Models, rewards and prompts for `evaluation.json`."""
        models = {
            name: {
                "source": e.given,
                "fingerprint": self.fingerprints[name],
                "stage": e.stage,
                "base": e.source.info.base_name if e.source and e.source.info else e.given,
                "trained_against": {r: e.trained_against(s) for r, s in self.reward_sources.items()},
            }
            for name, e in self.entries.items()
        }
        rewards = {
            name: {"source": given, "fingerprint": self.reward_fingerprints[name]}
            for name, given in self.settings.rewards.items()
        }
        prompts = {"files": self.settings.prompts, "rows": len(self.prompts), "fingerprint": self.data.fingerprint}
        return {
            "models": models,
            "reference": self.reference,
            "baseline": self.baseline,
            "rewards": rewards,
            "prompts": prompts | {"skipped": self.data.skipped},
        }
