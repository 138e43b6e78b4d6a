"""The pretraining part of an optimizer step: its gradient, its size beside the policy loss's, its cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlhf_lightning.fitting.early_backward import EarlyBackward
from rlhf_lightning.ppo.buffer import MicroBatch
from rlhf_lightning.ppo.loss import ptx_loss
from rlhf_lightning.ppo.ptx import PtxBatch, PtxSettings, text_logprobs

if TYPE_CHECKING:
    from rlhf_lightning.ppo.module import PPOModule

NORMS = ("policy/grad_norm", "ptx/grad_norm")


class PtxUpdate:
    """Adds γ · ptx loss to the last micro-batch of every optimizer step, after PPO's own gradients.

    The gradient norms are those of the whole step (all micro-batches and processes), before clipping, over the
    policy's weights: of the policy loss, and of γ · ptx loss. They are sums of different numbers of parts, so they can
    only be told apart by keeping one of them: ptx's, from its first forward to the optimizer step that follows; it
    takes as much memory as the policy's gradients. The policy loss's is then the difference, computed in its place.
    With several processes ptx's gradients are summed over them once more, tensor by tensor.
    """

    def __init__(self, module: PPOModule, settings: PtxSettings) -> None:
        self.module, self.settings = module, settings
        self._gradients: dict[int, Tensor] = {}
        """Of the current step's ptx part, by the number of the trained tensor, summed over all processes."""
        self.clear()
        if settings.coef > 0:
            module.run_state.register("ptx", self.state_dict, self.load_state_dict, per_rank=True)

    def clear(self) -> None:
        """Begin an iteration; see `UpdateMetrics.clear`."""
        self._nll = self._targets = self._seconds = 0.0
        self._norms: dict[str, list[float]] = {name: [] for name in NORMS}
        self.commit()

    def commit(self) -> None:
        """An optimizer step has been made; see `UpdateMetrics.commit`."""
        norms = {name: list(values) for name, values in self._norms.items()}
        self._saved = {"nll": self._nll, "targets": self._targets, "norms": norms}

    def loss(self, batch: PtxBatch) -> Tensor:
        """γ · ptx loss of some sequences, as a share of the optimizer step's; a scalar."""
        roles = self.module.roles
        logprobs = text_logprobs(roles.backbone("policy"), roles.adapter("policy"), batch.ids)
        every = torch.ones_like(logprobs, dtype=torch.bool)
        return batch.weight * ptx_loss(logprobs, every, float(batch.num_targets))

    def single_rows(self, batch: MicroBatch) -> Iterator[tuple[str, MicroBatch]]:
        """Every sequence of a batch alone, beside a response that counts nothing."""
        for ids in batch.ptx.ids if batch.ptx is not None else ():
            assert batch.ptx is not None
            alone = PtxBatch(ids.unsqueeze(0), batch.ptx.num_targets, batch.ptx.weight)
            silent = batch.experience.silent_row()
            yield self.module.template.tokenizer.decode(ids), MicroBatch(silent, batch.num_tokens, alone)

    def add(self, gradients: EarlyBackward, batch: MicroBatch) -> None:
        """Count a batch's pretraining part in, where it has one."""
        if batch.ptx is None:
            return
        start = self._now()
        own = self.module.early_backward()
        for part in batch.ptx.parts(self.module.memory.micro_batch_tokens):
            own.add(self.loss(part))
        if own.total is not None:
            self._nll += float(own.total) / batch.ptx.weight * batch.ptx.num_targets
        self._targets += batch.ptx.ids[:, 1:].numel()
        gradients.include(own)
        self._gradients = self._over_processes(own.gradients)
        self._seconds += self._now() - start

    def _over_processes(self, own: list[Tensor | None]) -> dict[int, Tensor]:
        if self.module.trainer.world_size == 1:
            return {i: g for i, g in enumerate(own) if g is not None}
        policy = {id(p) for p in self.module.roles.trainable_parts()["policy"]}
        out = {}
        for i, parameter in enumerate(self.module.trainable().values()):
            if id(parameter) in policy:  # a process without sequences takes part in the sum all the same
                gradient = own[i]
                out[i] = self.module.reduce_sum(torch.zeros_like(parameter) if gradient is None else gradient)
                own[i] = None
        return out

    def measure(self) -> None:
        """Note both norms, when the step's gradients are complete and neither scaled nor clipped."""
        if not self._gradients:
            return
        parameters = list(self.module.trainable().values())
        ptx = list(self._gradients.values())
        norms = [float(torch.nn.utils.get_total_norm(ptx))]
        for i, gradient in self._gradients.items():
            whole = parameters[i].grad
            gradient.neg_()
            if whole is not None:
                gradient.add_(whole)
        norms.insert(0, float(torch.nn.utils.get_total_norm(ptx)))
        self._gradients = {}
        if all(map(torch.isfinite, torch.tensor(norms))):  # else the step is skipped, and counted
            for name, norm in zip(NORMS, norms, strict=True):
                self._norms[name].append(norm)

    def finish(self, reduce: Callable[..., Any]) -> dict[str, float]:
        """The iteration's metrics; starts anew. Empty without ptx.

        Args:
            reduce: The strategy's `reduce`.
        """
        if not self.settings.coef > 0:
            return {}
        sums = torch.tensor([self._nll, self._targets], dtype=torch.float64, device=self.module.device)
        nll, targets = reduce(sums, reduce_op="sum").tolist()
        out = {"time/ptx_s": self._seconds} | ({"ptx/loss": nll / targets} if targets else {})
        out |= {name: sum(norms) / len(norms) for name, norms in self._norms.items() if norms}
        self.clear()
        return out

    def _now(self) -> float:
        if self.module.device.type == "cuda":  # what was asked of it so far belongs to what comes before
            torch.cuda.synchronize(self.module.device)
        return time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return self._saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._nll, self._targets = state["nll"], state["targets"]
        self._norms = {name: list(values) for name, values in state["norms"].items()}
        self.commit()
