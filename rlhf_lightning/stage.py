"""What SFT, reward model and PPO have in common as LightningModules."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import nn

from rlhf_lightning.artefacts import (
    Source,
    StageInfo,
    atomic_directory,
    versions,
    write_info,
)
from rlhf_lightning.callbacks import RunDirectory, WriteArtefact
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import load_tokenizer
from rlhf_lightning.models.limits import load_limits
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.sources import fingerprint
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings, lr_factor
from rlhf_lightning.seeding import derive_seed


@dataclass(frozen=True)
class StageSettings:
    """What every stage can be told.

    One object, because jsonargparse takes the parameters of a base class for those of its subclasses.
    """

    lora: LoraSettings | None
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    pad_token: str | None
    prompt_format: str
    chat_template: str | None
    seed: int | None
    trust_remote_code: bool


class StageModule(L.LightningModule):
    """A stage: tokenizer and template at construction, weights when the trainer (and so the precision) is known.

    Checkpoints hold the weights that are trained and nothing else; the frozen base is rebuilt from its source.
    """

    stage: ClassVar[str]

    def __init__(self, source: Source, source_key: str, settings: StageSettings) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints lack the frozen weights; `on_load_checkpoint` checks the others
        self.source, self.source_key = source, source_key
        self.lora = settings.lora
        self.optimizer_settings, self.schedule_settings = settings.optimizer, settings.schedule
        self.trust_remote_code = settings.trust_remote_code
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if settings.seed is None else settings.seed
        tokenizer = load_tokenizer(source.tokenizer, settings.pad_token, source_key, self.trust_remote_code)
        self.limits = load_limits(source.model, source_key, self.trust_remote_code)
        if settings.chat_template is not None:
            tokenizer.chat_template = settings.chat_template
        inherited = source.info.prompt_format if source.info else settings.prompt_format
        self.template = PromptTemplate(tokenizer, inherited)
        self.limits.check_vocabulary([tokenizer.pad_token_id, tokenizer.eos_token_id], f"{source_key}: {source.name!r}")

    def on_fit_start(self) -> None:
        self.train()  # transformers hands models over in evaluation mode, and Lightning leaves modes alone

    # -- weights ------------------------------------------------------------------------------------------

    @property
    def precision(self) -> str:
        """Lightning's precision of this run; float32 where there is no trainer."""
        return str(self._trainer.precision) if self._trainer is not None else "32-true"

    def trainable(self) -> dict[str, nn.Parameter]:
        """Names and parameters that are trained, saved and restored."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = self.trainable().keys()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        different = self.trainable().keys() ^ checkpoint["state_dict"].keys()
        if different:
            raise UserError(
                f"--ckpt_path: the checkpoint does not belong to this configuration: {len(different)} trained "
                f"tensors are on one side only, such as {sorted(different)[0]!r}. Check `model` in the config."
            )

    # -- optimization -------------------------------------------------------------------------------------

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups; `name` becomes the metric `lr/<name>`."""
        return [{"params": list(self.trainable().values()), "lr": self.optimizer_settings.lr, "name": self.stage}]

    def configure_optimizers(self) -> Any:
        s = self.optimizer_settings
        optimizer = torch.optim.AdamW(
            self.parameter_groups(), lr=s.lr, betas=(s.beta1, s.beta2), eps=s.eps, weight_decay=s.weight_decay
        )
        total = self.trainer.estimated_stepping_batches
        if total == float("inf") and (self.schedule_settings.name == "cosine" or self.schedule_settings.warmup < 1):
            raise UserError(
                "model.init_args.schedule depends on the length of the run: set trainer.max_epochs or max_steps."
            )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(self.schedule_settings, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout draws from torch's global generator: a seed per batch makes a resumed run draw the same.
        torch.manual_seed(derive_seed(self.seed, "dropout", self.global_rank, self.current_epoch, batch_idx))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.trainer.precision_plugin.precision == "16-mixed":
            return  # the gradient scaler skips such steps itself
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trainable().values() if p.grad is not None])
        if not torch.isfinite(norm):
            raise UserError(
                f"The gradient is not finite at step {self.global_step} (epoch {self.current_epoch}); the weights "
                "were left as they are. Lower model.init_args.optimizer.lr or set trainer.gradient_clip_val."
            )

    # -- artefact -----------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[L.Callback]:
        return [RunDirectory(), WriteArtefact()]

    def before_artefact(self) -> None:
        """Last computation before the artefact is written, on every rank; the reward model sets its bias here."""

    def save_weights(self, directory: Path) -> None:
        """Write the trained model into an artefact directory."""
        raise NotImplementedError

    def write_artefact(self, directory: Path) -> None:
        """Write `final/`: weights, tokenizer and `stage.json`, all at once or not at all."""
        metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
        data = getattr(self.trainer, "datamodule", None)
        info = StageInfo(
            stage=self.stage,
            base_model=self.source.model,
            base_name=self.source.name,
            base_fingerprint=fingerprint(self.source.model),
            lora=self.lora is not None,
            prompt_format=self.template.prompt_format,
            seed=self.seed,
            data=data.provenance() if data is not None else {},
            metrics=metrics,
            versions=versions(),
        )
        with atomic_directory(directory) as temporary:
            self.save_weights(temporary)
            self.template.tokenizer.save_pretrained(temporary)
            write_info(temporary, info)
