"""The supervised fine-tuning module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from rlhf_lightning.artefacts import open_source
from rlhf_lightning.logprobs import token_logprobs
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.building import ADAPTER, base_dtype, build_backbone, save_adapter, save_full
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.residual_dropout import residual_dropout as find_dropout
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.sft.packing import SFTBatch
from rlhf_lightning.sft.selecting import Selecting
from rlhf_lightning.sft.selection import SelectionSettings
from rlhf_lightning.stage import StageSettings

KEY = "model.init_args.base_model"


class SFTModule(Selecting):
    """Fine-tunes a causal LM on demonstrations; the loss is on response tokens only (EOS included).

    Whether the paper masks prompts is not stated; training on prompts would spend a small model on text it
    is never asked to write.
    """

    stage: ClassVar[str] = "sft"

    def __init__(
        self,
        base_model: str,
        lora: LoraSettings | None = LoraSettings(),  # noqa: B008 (frozen)
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008
        schedule: ScheduleSettings = ScheduleSettings(),  # noqa: B008
        pad_token: str | None = None,
        prompt_format: str = "{prompt}\n\n",
        chat_template: str | None = None,
        seed: int | None = None,
        trust_remote_code: bool = False,
        memory: MemorySettings = MemorySettings(),  # noqa: B008
        residual_dropout: float | None = None,
        select: SelectionSettings | None = None,
    ) -> None:
        """
        Args:
            base_model: Hub name, transformers directory, `.gguf` file, SFT artefact to go on from, or
                "embedded:smollm2-135m-instruct" / "embedded:tiny".
            lora: Low-rank adapters; null trains all weights.
            optimizer: AdamW.
            schedule: Learning-rate schedule (C.1: cosine to 10 % of the peak, no warmup).
            pad_token: Token for padding where the tokenizer has none or uses EOS.
            prompt_format: Text around a prompt where the tokenizer has no chat template.
            chat_template: Jinja template in place of the tokenizer's own; later stages inherit it.
            seed: By default `seed_everything`.
            trust_remote_code: Run code that comes with the model. Only for authors you trust.
            memory: Tokens of a forward, gradient checkpointing.
            residual_dropout: Dropout of what layers add to the residual stream (C.1: 0.2 for the 16-epoch baseline),
                where the architecture has it; null leaves the model's own.
            select: Score responses by a reward model at every validation, and leave the best weights in `final/`
                (C.1); null leaves the last.
        """
        source = open_source(base_model, KEY)
        settings = StageSettings(
            lora, optimizer, schedule, pad_token, prompt_format, chat_template, seed, trust_remote_code, memory
        )
        chosen = {"select": select.identity() if select else None}
        super().__init__(source, KEY, settings, locals() | chosen)
        self.dropout = find_dropout(residual_dropout, source.model, KEY, trust_remote_code)
        self.val_nll = MeanMetric()
        self.init_selection(select)

    def build_model(self) -> None:
        dtype = base_dtype(self.precision, self.lora)
        changed = self.dropout.options if self.dropout else None
        self.backbone = build_backbone(self.source, self.lora, dtype, KEY, self.trust_remote_code, changed)
        self.build_rm_score(self.source)

    def token_losses(self, batch: SFTBatch) -> Tensor:
        """Negative log-likelihood of every target token of a batch, in reading order; [N] nats."""
        tokens, targets = batch.ragged()
        with self.backbone.using(ADAPTER if self.lora else None):
            hidden = self.backbone.hidden_ragged(tokens)
            logprobs, _ = token_logprobs(
                hidden[targets - 1], tokens.ids[targets], self.backbone.unembed, with_entropy=False
            )
        return -logprobs

    def _all_token_losses(self, batch: SFTBatch) -> Tensor:
        return torch.cat([self.token_losses(part) for part in batch.parts(self.memory.micro_batch_tokens)])

    def loss(self, batch: SFTBatch) -> Tensor:
        return self.token_losses(batch).sum() / (batch.step_weight or batch.weight)

    def single_rows(self, batch: SFTBatch) -> Iterator[tuple[str, SFTBatch]]:
        for i, ids in enumerate(batch.input_ids):
            valid = batch.segments[i] > 0
            yield self.template.tokenizer.decode(ids[valid]), batch.row(i)

    def training_step(self, batch: SFTBatch, batch_idx: int) -> Tensor:
        gradients = self.early_backward()
        for part in batch.parts(self.memory.micro_batch_tokens):
            gradients.add(self.loss(part))
        share = gradients.loss()
        if totals := self.step_totals(loss=share):
            self.log("train/loss", totals["loss"], prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
            self.log("lr/policy", self.trainer.optimizers[0].param_groups[0]["lr"], on_step=True, on_epoch=False)
        return self.scaled(batch, share)

    def validation_step(self, batch: SFTBatch, batch_idx: int) -> None:
        losses = self._all_token_losses(batch)
        self.val_nll.update(losses.mean(), losses.numel())

    def on_validation_epoch_end(self) -> None:
        self.measure(self._log_nll("val"))

    def test_step(self, batch: SFTBatch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._log_nll("test")

    def predict_step(self, batch: SFTBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Of every row its text, the negative log-likelihood of its response tokens (nats), and their number."""
        counts = batch.loss_mask[:, 1:].sum(1).tolist()
        losses = self._all_token_losses(batch).double().split(counts)
        valid = zip(batch.input_ids, batch.segments > 0, strict=True)
        texts = [self.template.tokenizer.decode(ids[own]) for ids, own in valid]
        return [{"text": t, "nll": float(x.sum()), "tokens": n} for t, x, n in zip(texts, losses, counts, strict=True)]

    def _log_nll(self, split: str) -> float:
        loss = self.val_nll.compute()
        self.log(f"{split}/loss", loss, prog_bar=True)
        self.log(f"{split}/perplexity", torch.exp(loss))
        self.val_nll.reset()
        return float(loss)

    def save_weights(self, directory: Path) -> None:
        with self.selected_weights():
            if self.lora:
                save_adapter(directory, self.backbone, ADAPTER, self.source.model)
                return
            with self.dropout.put_back(self.backbone.lm.config) if self.dropout else nullcontext():
                save_full(directory, self.backbone)
