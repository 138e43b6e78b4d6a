"""PPO's fit loop: one Lightning epoch is one iteration.

An iteration rolls out, then hands micro-batches to Lightning's own training-epoch loop, which keeps precision,
accumulation, clipping, callbacks, validation and checkpoints as they are in every other run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource, _request_dataloader
from tqdm.auto import tqdm

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.loops import StageFitLoop
from rlhf_lightning.fitting.stopping import StopOnRequest
from rlhf_lightning.ppo.buffer import Experience, MicroBatch, UpdatePlan
from rlhf_lightning.ppo.ptx import PtxBatch, check_ptx, ptx_batch

if TYPE_CHECKING:
    from rlhf_lightning.ppo.module import PPOModule
    from rlhf_lightning.ppo.prompts import PromptStream


class RolloutLoader:
    """The current iteration's micro-batches, as the training-epoch loop wants them.

    Lightning asks for an iterator before there is a rollout, so nothing is read until the first batch.
    """

    def __init__(self, loop: PPOFitLoop) -> None:
        self.loop = loop
        self.start = 0

    def seek(self, epoch: int, batches: int) -> None:
        """Begin after so many micro-batches of the iteration."""
        self.start = batches

    def __len__(self) -> int:
        return len(self.loop.plan)

    def __iter__(self) -> Iterator[MicroBatch]:
        for number in range(self.start, len(self)):
            yield self.loop.micro_batch(number)


class PPOFitLoop(StageFitLoop):
    """Before each epoch: prompts -> rollout -> scores -> rewards -> advantages -> minibatches."""

    prompts: PromptStream
    plan: UpdatePlan

    def __init__(self, trainer: L.Trainer, min_epochs: int | None, max_epochs: int | None) -> None:
        super().__init__(trainer, min_epochs, max_epochs)
        self.experience: Experience | None = None
        self.metrics: dict[str, float] = {}
        self._order: list[list[torch.Tensor]] = []
        self._num_tokens: list[float] = []
        self._update_start = self._validation_s = 0.0

    @property
    def module(self) -> PPOModule:
        module: Any = self.trainer.lightning_module
        return module  # type: ignore[no-any-return]

    @property
    def iteration(self) -> int:
        """Number of the current iteration, from 0."""
        return self.epoch

    def setup_data(self) -> None:
        if self._combined_loader is not None and not self._should_reload_train_dl:
            return
        trainer: Any = self.trainer
        limit = trainer.limit_train_batches  # the integer 1 is one batch, the float 1.0 all of them
        limited = limit != 1.0 or isinstance(limit, int) or trainer.overfit_batches
        if limited and not trainer.fast_dev_run:
            raise UserError(
                "trainer.limit_train_batches and overfit_batches would throw away part of every rollout in PPO; "
                "use data.init_args.limit to take fewer prompts."
            )
        self.prompts = _request_dataloader(self._data_source)  # type: ignore[assignment]
        check_ptx(self.module.ptx.settings, self.prompts.pretraining is not None)
        world_size = self.trainer.world_size
        rows = self.prompts.batch_size // world_size
        module = self.module
        accumulate = self.trainer.accumulate_grad_batches
        if rows * world_size != self.prompts.batch_size or rows < module.num_minibatches * accumulate:
            raise UserError(
                f"data.init_args.batch_size = {self.prompts.batch_size} does not give {world_size} process(es) "
                f"{module.num_minibatches} minibatches (model.init_args.num_minibatches) of {accumulate} micro-batches "
                "(trainer.accumulate_grad_batches) each; it must be a multiple of the processes, and large enough."
            )
        module.kl.settings.check_responses(self.prompts.batch_size)
        self.plan = UpdatePlan(self.prompts.batch_size, module.ppo_epochs, module.num_minibatches, accumulate)
        source, self._data_source = self._data_source, _DataLoaderSource(RolloutLoader(self), "")
        try:
            super().setup_data()
        finally:
            self._data_source = source

    def advance(self) -> None:
        resumed = self.stage_epoch_loop.resumed
        if resumed is None or resumed.batches == 0:
            self.collect()
        elif self.experience is not None:  # the checkpoint was read before the model was on its device
            self._require_rows(self.experience)
            self.experience = self.experience.to(self.module.device)
        if self.experience is not None:
            self._prepare_order(self.experience)
        self._update_start, self._validation_s = time.perf_counter(), 0.0
        super().advance()
        self.experience = None

    def _require_rows(self, experience: Experience) -> None:
        if len(experience.rollout) != len(self._own_rows()):
            raise UserError(
                f"--ckpt_path: the checkpoint's iteration has {len(experience.rollout)} prompts, and "
                f"data.init_args.batch_size now gives {len(self._own_rows())}. Restore it, or go on from "
                "an iteration's end."
            )

    def collect(self) -> None:
        """Roll out and score the current iteration."""
        self.module.update_metrics.clear()  # of an update that failed: the iteration begins anew
        self.module.ptx.clear()
        batch = self.prompts.batch(self.iteration, self._own_rows()).to(self.module.device)
        limit = self.module.sampling.max_response_tokens * len(batch.texts)
        stop = next(c for c in self.trainer.callbacks if isinstance(c, StopOnRequest))  # type: ignore[attr-defined]
        visible = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero
        with tqdm(total=limit, desc="rollout", unit=" tokens", leave=False, disable=not visible) as bar:
            shown = "rollout"

            def progress(phase: str, amount: int) -> None:
                nonlocal shown
                if phase != shown:
                    shown = phase
                    bar.unit = " responses"
                    bar.set_description(phase, refresh=False)
                    bar.reset(total=len(batch.texts))
                bar.update(amount)
                stop.check(self.trainer)

            self.experience, self.metrics = self.module.collect(batch, self.iteration, progress)

    def _own_rows(self) -> list[int]:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        return self.plan.own_rows(self.module.seed, self.iteration, rank, world_size)

    def _prepare_order(self, experience: Experience) -> None:
        """Derive the minibatches, and how many response tokens each optimizer step has over all processes."""
        order = self.plan.order(self.module.seed, self.iteration, self._own_rows())
        lengths = experience.rollout.response_mask.sum(1).cpu()
        counts = torch.tensor([float(sum(lengths[m].sum() for m in step)) for step in order])
        total = self.trainer.strategy.reduce(counts.to(self.module.device), reduce_op="sum")
        self._order = order
        self._num_tokens = total.tolist()  # type: ignore[union-attr]

    def micro_batch(self, number: int) -> MicroBatch:
        """The micro-batch that is `number`-th in the current iteration."""
        assert self.experience is not None
        step, part = divmod(number, self.plan.accumulate)
        rows = self._order[step][part].to(self.module.device)
        experience = self.experience.rows(rows) if len(rows) else self.experience.silent_row()
        ptx = self._ptx(step) if part == self.plan.accumulate - 1 else None
        return MicroBatch(experience, self._num_tokens[step], ptx)

    def _ptx(self, step: int) -> PtxBatch | None:
        text, trainer = self.prompts.pretraining, self.trainer
        if text is None:
            return None
        sizes = [len(rows) for rows in self.plan.minibatches(self.module.seed, self.iteration)]
        where = (self.iteration, step, self._num_tokens[step], trainer.global_rank, trainer.world_size)
        return ptx_batch(self.module.ptx.settings, text, sizes, *where).to(self.module.device)

    def exclude(self, seconds: float) -> None:
        """Do not count time spent on a validation as update time."""
        self._validation_s += seconds

    def finished_metrics(self) -> dict[str, float]:
        """Metrics of the iteration that has just ended, times included (seconds; validation is not counted)."""
        update = time.perf_counter() - self._update_start - self._validation_s
        total = self.metrics["time/rollout_s"] + self.metrics["time/scoring_s"] + update
        tokens = self.metrics["rollout/response_tokens"] * self.plan.num_rows
        return self.metrics | {"time/update_s": update, "time/tokens_per_s": tokens / total}

    # -- registered with the run's state; everything else of an iteration is derived ------------------------

    def rollout_state(self) -> dict[str, Any]:
        """This process's rollout, while its update is under way."""
        if self.experience is None or self.position.batches in (0, self.position.num_batches):
            return {}
        return self.experience.state()

    def load_rollout_state(self, state: dict[str, Any]) -> None:
        """The inverse of `rollout_state`."""
        self.experience = Experience.from_state(state, torch.device("cpu")) if state else None

    def metrics_state(self) -> dict[str, Any]:
        """The iteration's metrics so far."""
        return dict(self.metrics)

    def load_metrics_state(self, state: dict[str, Any]) -> None:
        """The inverse of `metrics_state`."""
        self.metrics = state
