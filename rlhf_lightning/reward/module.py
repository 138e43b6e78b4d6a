"""The reward-model module."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from rlhf_lightning.artefacts import open_source
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.building import (
    ADAPTER,
    base_dtype,
    build_backbone,
    build_head,
    check_classifier,
    save_adapter,
    save_full,
)
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.reward.data import RankingBatch, RankingDataModule
from rlhf_lightning.reward.loss import Pairs, decided_pairs, ranking_loss
from rlhf_lightning.reward.metrics import PairMetrics
from rlhf_lightning.reward.slice_table import SliceTable
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.seeding import derive_seed
from rlhf_lightning.stage import StageModule, StageSettings

KEY = "model.init_args.init_from"


class RewardModule(StageModule):
    """Learns a scalar score from rankings: the SFT model without its unembedding, with a scalar head instead."""

    stage: ClassVar[str] = "reward"

    def __init__(
        self,
        init_from: str,
        lora: LoraSettings | None = LoraSettings(),  # noqa: B008 (frozen)
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008
        schedule: ScheduleSettings = ScheduleSettings(),  # noqa: B008
        pad_token: str | None = None,
        prompt_format: str = "{prompt}\n\n",
        chat_template: str | None = None,
        seed: int | None = None,
        trust_remote_code: bool = False,
        memory: MemorySettings = MemorySettings(),  # noqa: B008
    ) -> None:
        """
        Args:
            init_from: An SFT artefact (its adapter is where the reward model's starts), or a causal LM.
            lora: Low-rank adapters; null trains all weights.
            optimizer: AdamW.
            schedule: Learning-rate schedule (C.2: cosine to 10 % of the peak).
            pad_token: Token for padding where the tokenizer has none or uses EOS.
            prompt_format: Text around a prompt where the tokenizer has no chat template.
            chat_template: Jinja template in place of the tokenizer's own; later stages inherit it.
            seed: By default `seed_everything`.
            trust_remote_code: Run code that comes with the model. Only for authors you trust.
            memory: Tokens of a forward, gradient checkpointing.
        """
        source = open_source(init_from, KEY)
        settings = StageSettings(
            lora, optimizer, schedule, pad_token, prompt_format, chat_template, seed, trust_remote_code, memory
        )
        super().__init__(source, KEY, settings, locals())
        self.pair_metrics, self.val_loss = PairMetrics(), MeanMetric()
        self.slices = SliceTable(self)

    def build_model(self) -> None:
        dtype = base_dtype(self.precision, self.lora)
        self.backbone = build_backbone(self.source, self.lora, dtype, KEY, self.trust_remote_code)
        if self.lora is None:
            check_classifier(self.backbone)
        # The unembedding has no part in a score; tied to the embedding it is trained through that.
        if not self.backbone.lm.config.tie_word_embeddings:
            self.backbone.lm.get_output_embeddings().requires_grad_(False)
        self.head = build_head(self.source, self.backbone.hidden_size, derive_seed(self.seed, "head"), KEY)
        self.head.bias.requires_grad_(False)

    def scores(self, batch: RankingBatch) -> Tensor:
        """One score per response, read at its last valid token (EOS where there is one); [N] float32."""
        tokens, ends = batch.ragged()
        with self.backbone.using(ADAPTER if self.lora else None):
            hidden = self.backbone.hidden_ragged(tokens)
        scores: Tensor = self.head(hidden[ends])
        return scores

    def _all_scores(self, batch: RankingBatch) -> Tensor:
        return torch.cat([self.scores(part) for part in batch.parts(self.memory.micro_batch_tokens)])

    def loss(self, batch: RankingBatch) -> Tensor:
        return self._loss_of(self.scores(batch), batch)

    def _loss_of(self, scores: Tensor, batch: RankingBatch) -> Tensor:
        return ranking_loss(scores, decided_pairs(batch.ranks, batch.prompt), batch.step_weight)

    def single_rows(self, batch: RankingBatch) -> Iterator[tuple[str, RankingBatch]]:
        for i, ids in enumerate(batch.prompt_ids):
            yield self.template.tokenizer.decode(ids[batch.prompt_mask[i]]), batch.row(i)

    def training_step(self, batch: RankingBatch, batch_idx: int) -> Tensor:
        gradients, scores = self.early_backward(), []
        for part in batch.parts(self.memory.micro_batch_tokens):
            own = self.scores(part)
            gradients.add(self._loss_of(own, part))
            scores.append(own.detach())
            del own  # and its part's graph with it, before the next part's is built
        share, pairs = gradients.loss(), decided_pairs(batch.ranks, batch.prompt)
        score = torch.cat(scores)
        right = (score[pairs.better] > score[pairs.worse]).sum()
        if totals := self.step_totals(loss=share, right=right, pairs=torch.ones_like(pairs.better).sum()):
            self.log("train/loss", totals["loss"], prog_bar=True, batch_size=1)
            self.log("train/accuracy", totals["right"] / totals["pairs"], prog_bar=True, batch_size=1)
            self.log("lr/reward", self.trainer.optimizers[0].param_groups[0]["lr"])
        return self.scaled(batch, share)

    def validation_step(self, batch: RankingBatch, batch_idx: int) -> None:
        scores = self._all_scores(batch)
        pairs = self._measure(scores, batch)
        # Not by `log(..., sync_dist=True)`: Lightning 2.6 halves the number of rows to a whole number.
        self.val_loss.update(ranking_loss(scores, pairs), batch.weight)

    def _measure(self, scores: Tensor, batch: RankingBatch) -> Pairs:
        pairs = decided_pairs(batch.ranks, batch.prompt)
        self.pair_metrics.update(scores, pairs, batch.prompt)
        self.slices.results.update(batch.rows, scores, pairs)
        return pairs

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()
        for name, value in self.pair_metrics.compute().items():
            self.log(f"val/{name}", value, prog_bar=name == "accuracy")
        self.slices.write("val")

    def test_step(self, batch: RankingBatch, batch_idx: int) -> None:
        self._measure(self._all_scores(batch), batch)

    def on_test_epoch_end(self) -> None:
        for name, value in self.pair_metrics.compute().items():
            self.log(f"test/{name}", value)
        self.slices.write("test")

    def predict_step(self, batch: RankingBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Of every ranking its prompt, responses, their ranks as given, and their scores."""
        counts = batch.prompt.bincount(minlength=len(batch.prompt_ids)).tolist()
        prompts = zip(batch.prompt_ids, batch.prompt_mask, strict=True)
        answers = zip(batch.response_ids, batch.response_mask, strict=True)
        responses = iter([self.template.decode(ids[own].tolist()) for ids, own in answers])
        ranks, scores = batch.ranks.split(counts), self._all_scores(batch).split(counts)
        return [
            {
                "prompt": self.template.tokenizer.decode(ids[own]),
                "responses": list(islice(responses, count)),
                "ranks": rank.tolist(),
                "scores": score.tolist(),
            }
            for (ids, own), count, rank, score in zip(prompts, counts, ranks, scores, strict=True)
        ]

    def before_artefact(self) -> None:
        """Set the bias so that demonstrations score 0 on average: a shift, no scale (§3.5)."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, RankingDataModule):
            return
        scores = []
        self.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in data.centering_batches():
                scores.append(self._all_scores(batch.to(self.device)))
            self.head.bias.sub_(torch.cat(scores).double().mean().to(self.head.bias.dtype))

    def save_weights(self, directory: Path) -> None:
        if self.lora:
            save_adapter(directory, self.backbone, ADAPTER, self.source.model, self.head)
        else:
            save_full(directory, self.backbone, self.head)
