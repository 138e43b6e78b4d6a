"""Evaluations of one model each, as records: what `claims` compares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.instructgpt.exact_match import items
from benchmarks.instructgpt.matrix import CONFIGS, pretraining_file
from benchmarks.instructgpt.plan import Evaluation, Places
from benchmarks.instructgpt.real_judging import judge_real, judge_real_reward
from benchmarks.instructgpt.records import rounded
from benchmarks.instructgpt.scale import Scale
from benchmarks.instructgpt.tax import exact_matches, text_losses
from rlhf_lightning.artefacts import Source, open_source
from rlhf_lightning.data.kinds import PromptLike
from rlhf_lightning.evaluation.respond import Panel, Response
from rlhf_lightning.quickstart.compare import reward_model_quality
from rlhf_lightning.quickstart.gold import gold_score
from rlhf_lightning.quickstart.make_data import read_rows
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.seeding import derive_seed

SPLITS = ("seen", "unseen")
Rows = list[dict[str, Any]]


class Judge:
    """Evaluates models at a scale, on a device."""

    def __init__(self, scale: Scale, places: Places, device: str, cuda_graphs: bool = True) -> None:
        self.scale, self.places, self.device = scale, places, device
        self.sampling = SamplingSettings(max_response_tokens=scale.response_tokens, cuda_graphs=cuda_graphs)

    def source(self, model: str) -> Source:
        """A job's artefact, or a causal LM."""
        run = self.places.run(model)
        return open_source(str(run) if run.is_dir() else model, "model")

    def panel(self, evaluation: Evaluation, **models: Source) -> Panel:
        """Models beside the reference and the reward model, on one base."""
        sources = models | {"reference": self.source(evaluation.reference)}
        reward = self.source(evaluation.reward) if evaluation.reward else None
        dtype = torch.float32 if self.scale.base_model.endswith("tiny") else torch.bfloat16
        return Panel(sources, "reference", reward, dtype, self.device)

    def rows(self, name: str) -> Rows:
        """Rows of one of the quickstart's files, as many as the scale has."""
        return read_rows(CONFIGS / "data" / f"{name}.jsonl")[: self.scale.held_out]

    def respond(self, panel: Panel, name: str, rows: Rows, purpose: str, seed: int, measure: bool) -> list[Rows]:
        """Every round's responses to the prompts, judged by gold; all models get the same random numbers."""
        prompts: Sequence[PromptLike] = [row["prompt"] for row in rows]
        number = derive_seed(seed, "comparison")
        rounds = [
            panel.respond(name, prompts, self.sampling, number, f"{purpose} {i + 1}", measure)
            for i in range(self.scale.rounds)
        ]
        return [[judged(row, r) for row, r in zip(rows, one, strict=True)] for one in rounds]

    # -- kinds ----------------------------------------------------------------------------------------------

    def policy(self, evaluation: Evaluation) -> dict[str, Any]:
        """Gold, RM score, KL and length on held-out prompts, and the alignment tax."""
        panel = self.panel(evaluation, policy=self.source(evaluation.model))
        record: dict[str, Any] = {}
        for split in SPLITS:
            rows = self.rows(f"heldout_{split}")
            rounds = self.respond(panel, "policy", rows, f"{split} families", evaluation.seed, split == "seen")
            record[split] = {
                field: [rounded([row[field] for row in one]) for one in rounds]
                for field in (("gold", "score", "kl", "tokens", "ended") if split == "seen" else ("gold",))
            }
        texts = [json.loads(line)["text"] for line in pretraining_file(held_out=True).read_text().splitlines()]
        record["text"] = text_losses(panel, "policy", texts[: self.scale.held_out])
        tasks = items()[:: 12 if self.scale.held_out else 1]
        record["exact_match"] = exact_matches(panel, "policy", tasks)
        record["families"] = [item.family for item in tasks]
        return record

    def reward(self, evaluation: Evaluation) -> dict[str, Any]:
        """Pair accuracy on held-out rankings, beside length and the labelers."""
        return reward_model_quality(self.panel(evaluation), self.rows("rankings_heldout"))

    def selection(self, evaluation: Evaluation) -> dict[str, Any]:
        """Epochs of an SFT run: validation loss and RM score as the run logged them, and gold of held-out prompts."""
        run = self.places.run(evaluation.model)
        panel = self.panel(evaluation, candidate=self.source(evaluation.model))
        losses, scores = (validation(run, name) for name in ("val/loss", "val/rm_score"))
        # Those that either selection would take, too.
        chosen = {losses.index(min(losses)) + 1, scores.index(max(scores)) + 1, *chosen_epochs(len(losses))}
        epochs: dict[str, Any] = {}
        for epoch in sorted(chosen):
            load_epoch(panel, "candidate", run, epoch)
            held = self.respond(panel, "candidate", self.rows("heldout_seen"), "held out", evaluation.seed, False)
            epochs[str(epoch)] = {
                "val_loss": losses[epoch - 1],
                "rm_score": scores[epoch - 1],
                "gold": [rounded([row["gold"] for row in one]) for one in held],
            }
        return {"epochs": epochs, "val_loss": losses, "rm_score": scores}

    def real(self, evaluation: Evaluation) -> dict[str, Any]:
        """A model on real data."""
        panel, data = self.panel(evaluation, policy=self.source(evaluation.model)), self.places.out / "data/real"
        return judge_real(panel, evaluation, data, self.scale, self.sampling.cuda_graphs)

    def real_reward(self, evaluation: Evaluation) -> dict[str, Any]:
        """The reward model on real data."""
        return judge_real_reward(self.panel(evaluation), self.places.out / "data/real", self.scale)


def judged(row: dict[str, Any], response: Response) -> dict[str, Any]:
    """Numbers of a response."""
    gold = gold_score(row["check"], response.text, response.ended)
    ended, tokens = float(response.ended), float(response.tokens)
    return {"gold": gold, "score": response.score, "kl": response.kl, "tokens": tokens, "ended": ended}


def chosen_epochs(count: int) -> list[int]:
    """Epochs that are judged, from 1: all early ones, where most happens, and fewer later.

    >>> chosen_epochs(16)
    [1, 2, 3, 4, 6, 8, 12, 16]
    """
    return [e for e in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if e <= count]


def validation(run: Path, name: str) -> list[float]:
    """A metric after each epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    by_step = {e.step: e.value for e in events.Scalars(name)}
    return [round(by_step[step], 5) for step in sorted(by_step)]


def load_epoch(panel: Panel, name: str, run: Path, epoch: int) -> None:
    """Put the weights of an epoch's checkpoint (from 1) into one of a panel's adapters."""
    file = run / "lightning" / f"epoch={epoch - 1}.ckpt"
    state = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    # Lightning's name of a tensor of the trained adapter, to PEFT's.
    named = {
        key.replace("backbone.lm.", "base_model.model.", 1).replace(".policy.weight", ".weight"): tensor
        for key, tensor in state.items()
    }
    backbone, adapter = panel._places[name]
    assert adapter is not None
    backbone.load_adapter_state(adapter, named)
