"""What SFT, reward model and PPO have in common as LightningModules."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn

from rlhf_lightning.artefacts import (
    Source,
    StageInfo,
    atomic_directory,
    source_fingerprint,
    versions,
    write_info,
)
from rlhf_lightning.callbacks import RunDirectory, WriteArtefact, WritePredictions
from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.blame import blame
from rlhf_lightning.fitting.checkpoint_files import AtomicCheckpointIO
from rlhf_lightning.fitting.early_backward import EarlyBackward, loss_scale
from rlhf_lightning.fitting.guard import NonFiniteGuard
from rlhf_lightning.fitting.identity import ChangedSettings, arguments_of, require_same, trainer_settings
from rlhf_lightning.fitting.loops import StageFitLoop
from rlhf_lightning.fitting.master_weights import MasterWeights
from rlhf_lightning.fitting.run_state import RunState
from rlhf_lightning.fitting.stopping import StopOnRequest
from rlhf_lightning.memory import MemorySettings
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.limits import load_limits
from rlhf_lightning.models.loading import load_tokenizer
from rlhf_lightning.models.lora import LoraSettings, continuing
from rlhf_lightning.models.sources import fingerprint
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings, lr_factor
from rlhf_lightning.seeding import derive_seed, seeded_exactly


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
    memory: MemorySettings


class StageModule(MasterWeights):
    """A stage: tokenizer and template at construction, weights when the trainer (and so the precision) is known.

    Checkpoints hold the weights that are trained and nothing else; the frozen base is rebuilt from its source.
    """

    stage: ClassVar[str]
    fit_loop_class: ClassVar[type[StageFitLoop]] = StageFitLoop

    def __init__(self, source: Source, source_key: str, settings: StageSettings, arguments: Mapping[str, Any]) -> None:
        """
        Args:
            source: The model to start from.
            source_key: Configuration key that named it.
            settings: What every stage can be told.
            arguments: `locals()` of the subclass's constructor, which a resumed run compares.
        """
        super().__init__()
        self.arguments = arguments_of(type(self).__init__, arguments)
        self.resume_with_changes = False
        """Resume a checkpoint of a run with another configuration or other data."""
        self.run_state = RunState()
        self.guard = NonFiniteGuard(settings.optimizer.max_skipped_steps)
        self.run_state.register("guard", self.guard.state_dict, self.guard.load_state_dict)
        self._metrics: dict[str, float] = {}
        self.run_state.register("metrics", self._last_metrics, partial(setattr, self, "_metrics"))
        self._identity: dict[str, Any] | None = None
        self._built = False
        self._micro_batches: list[tuple[Any, Tensor]] = []
        self._step_sums: dict[str, Any] = {}
        self.strict_loading = False  # checkpoints lack the frozen weights; `on_load_checkpoint` checks the others
        self.source, self.source_key = source, source_key
        self.lora = continuing(settings.lora, source.adapter, source_key)
        self.optimizer_settings, self.schedule_settings = settings.optimizer, settings.schedule
        self.trust_remote_code, self.memory = settings.trust_remote_code, settings.memory
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if settings.seed is None else settings.seed
        tokenizer = load_tokenizer(source.tokenizer, settings.pad_token, source_key, self.trust_remote_code)
        self.limits = load_limits(source.model, source_key, self.trust_remote_code)
        if settings.chat_template is not None:
            tokenizer.chat_template = settings.chat_template
        inherited = source.info.prompt_format if source.info else settings.prompt_format
        self.template = PromptTemplate(tokenizer, inherited)
        self.limits.check_vocabulary([tokenizer.pad_token_id, tokenizer.eos_token_id], f"{source_key}: {source.name!r}")

    def configure_model(self) -> None:
        if not self._built:
            with seeded_exactly(self.seed):  # new adapters start from the run's seed, whatever was drawn before
                self.build_model()
            for module in self.modules():
                if isinstance(module, Backbone):
                    module.gradient_checkpointing = self.memory.gradient_checkpointing
            self._built = True
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.run_state.begin(self.trainer.fit_loop)

    def build_model(self) -> None:
        """Load and build everything that has weights."""
        raise NotImplementedError

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

    # -- resuming -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        if stage == "fit":
            self.fit_loop_class.attach(self.trainer)
            self._identity, self._micro_batches, self._step_sums = None, [], {}

    @property
    def _fit_loop(self) -> StageFitLoop:
        loop: Any = self.trainer.fit_loop
        return loop  # type: ignore[no-any-return]

    def identity(self) -> dict[str, Any]:
        """What a run must have in common with the one whose checkpoint it resumes."""
        data: Any = getattr(self.trainer, "datamodule", None)
        return {
            "stage": self.stage,
            "model.init_args": self.arguments | {"seed": self.seed},
            "model.init_args files": self.source_fingerprints(),
            "data.init_args": getattr(data, "arguments", {}),
            "data rows": {name: rows["fingerprint"] for name, rows in data.provenance().items()} if data else {},
            "trainer": trainer_settings(self.trainer, with_length=self.schedule_settings.needs_length),
        }

    def source_fingerprints(self) -> dict[str, str]:
        """Hashes of the models that the stage starts from, by configuration key."""
        return {self.source_key: source_fingerprint(self.source)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        names = self.trainable().keys()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in names}
        if self._identity is None:
            self._identity = self.identity()
        checkpoint["rlhf_lightning"] = {"identity": self._identity, "state": self.run_state.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint.get("rlhf_lightning")
        if ours is None:
            raise UserError("--ckpt_path: this checkpoint was not written by this version of rlhf_lightning.")
        if ours["identity"]["stage"] != self.stage:
            raise UserError(f"--ckpt_path: the checkpoint is of stage {ours['identity']['stage']}, not {self.stage}.")
        if self.trainer.state.fn == "fit":
            require_same(ours["identity"], self.identity(), self.resume_with_changes)
            self.run_state.restore(ours["state"])
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
        # With a gradient scaler, Lightning cannot clip the gradients of a fused optimizer.
        fused = loss_scale(self.trainer) is None
        optimizer: Any = self.optimizer_settings.adamw(self.parameter_groups(), fused)
        if fused:  # nothing to unscale, but in bf16-mixed Lightning refuses to clip unless the optimizer says so
            optimizer._step_supports_amp_scaling = False
        total = self.trainer.estimated_stepping_batches
        if total == float("inf") and self.schedule_settings.needs_length:
            raise UserError(
                "model.init_args.schedule depends on the length of the run: set trainer.max_epochs or max_steps."
            )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(self.schedule_settings, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss(self, batch: Any) -> Tensor:
        """The batch's share of the loss of its optimizer step; a scalar. Logs nothing."""
        raise NotImplementedError

    def single_rows(self, batch: Any) -> Iterator[tuple[str, Any]]:
        """Every input of a batch alone, with a text to find it by; used to explain a failure."""
        raise NotImplementedError

    def early_backward(self) -> EarlyBackward:
        """Gathers the gradients of a batch that is computed in parts."""
        return EarlyBackward(list(self.trainable().values()), self.device.type, loss_scale(self.trainer) or 1.0)

    def scaled(self, batch: Any, share: Tensor) -> Tensor:
        """What `training_step` returns: Lightning averages over micro-batches and processes, and shares add up."""
        self._micro_batches.append((batch, share.detach()))
        return share * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def step_totals(self, **parts: Tensor) -> dict[str, Tensor] | None:
        """Sums over the micro-batches and processes of an optimizer step, at its last micro-batch; else None."""
        for name, value in parts.items():
            self._step_sums[name] = self._step_sums.get(name, 0) + value.detach().double()
        if self.trainer.fit_loop._should_accumulate():
            return None
        sums, self._step_sums = self._step_sums, {}
        totals = self.reduce_sum(torch.stack([torch.as_tensor(v) for v in sums.values()]))
        return dict(zip(sums, totals, strict=True))

    def reduce_sum(self, x: Tensor) -> Tensor:
        """Sum over all processes."""
        return self.trainer.strategy.reduce(x.clone(), reduce_op="sum")  # type: ignore[return-value]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout draws from torch's global generator: a seed per batch makes a resumed run draw the same.
        torch.manual_seed(derive_seed(self.seed, "dropout", self.global_rank, self.current_epoch, batch_idx))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.guard.before_step(self.trainable(), self._finite_loss, loss_scale(self.trainer), self._explain_failure)
        self._micro_batches.clear()
        self._fit_loop.in_optimizer_step = True

    def _finite_loss(self) -> bool:
        return self.trainer.strategy.reduce_boolean_decision(all(bool(s.isfinite()) for _, s in self._micro_batches))

    def _explain_failure(self) -> str:
        rows = (row for batch, _ in self._micro_batches for row in self.single_rows(batch))
        return blame(rows, self.loss, list(self.trainable().values()), self.trainer.precision_plugin.forward_context)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._fit_loop.in_optimizer_step = False

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        overflows = {"overflow_steps": float(self.guard.overflows)} if self.guard.overflows else {}
        counts = {"skipped_steps": float(self.guard.skipped)} | overflows
        self.log_dict(counts, on_step=True, on_epoch=False, batch_size=1)

    # -- artefact -----------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[L.Callback]:
        return [RunDirectory(), StopOnRequest(), ChangedSettings(), WriteArtefact(), WritePredictions()]

    def before_artefact(self) -> None:
        """Last computation before the artefact is written, on every rank; the reward model sets its bias here."""

    def _last_metrics(self) -> dict[str, float]:
        """The last value of every metric, of the run before a kill too."""
        return self._metrics | {k: float(v) for k, v in self.trainer.callback_metrics.items()}

    def save_weights(self, directory: Path) -> None:
        """Write the trained model into an artefact directory."""
        raise NotImplementedError

    def write_artefact(self, directory: Path) -> None:
        """Write `final/`: weights, tokenizer, `stage.json` and data card, all at once or not at all."""
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
            metrics=self._last_metrics(),
            versions=versions(),
            sources=self.source_fingerprints(),
        )
        with atomic_directory(directory) as temporary:
            self.save_weights(temporary)
            self.template.tokenizer.save_pretrained(temporary)
            write_info(temporary, info, data.card.as_dict() if data is not None else None)
