"""Decoding a batch of prompts in this process, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from rlhf_lightning.masked import position_ids
from rlhf_lightning.models.ragged_attention import NAME
from rlhf_lightning.rollouts.cuda_graphs import RecordedStep
from rlhf_lightning.rollouts.engine import Generated
from rlhf_lightning.rollouts.inverse_cdf import draw
from rlhf_lightning.rollouts.kv_cache import fix_shapes, release_shapes, roomy_cache
from rlhf_lightning.rollouts.lean_decoder import LeanDecoder
from rlhf_lightning.rollouts.settings import SamplingSettings


@torch.no_grad()
def decode(
    lm: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    settings: SamplingSettings,
    uniforms: Tensor,
    eos_id: int,
    pad_id: int,
    on_token: Callable[[int], None] | None = None,
    fixed_shapes: bool | None = None,
    lean: LeanDecoder | None = None,
    stops: Tensor | None = None,
) -> Generated:
    """Sample one response per prompt.

    Equal prompts are computed once. Finished rows leave the batch when enough of them have gathered.

    Args:
        lm: A transformers causal LM, on the tensors' device, with the weights to sample from active.
        prompt_ids: [B, P], padded left.
        prompt_mask: Bool [B, P].
        settings: Length limit, temperature, whether to use CUDA graphs.
        uniforms: [B, max_response_tokens] numbers in [0, 1).
        eos_id: Ends a response and belongs to it.
        pad_id: Written after the end.
        on_token: Called with the number of tokens just sampled, for a progress bar.
        fixed_shapes: Keep shapes and addresses from token to token; by default where CUDA graphs want it.
        lean: Computes all tokens but a response's first, in place of the model.
        stops: Bool [V], tokens after which a row is not continued, besides EOS.
    """
    on_gpu = prompt_ids.device.type == "cuda"
    batch = Batch(lm, prompt_ids, prompt_mask, settings, uniforms, eos_id, pad_id, lean, stops)
    batch.read_prompts(on_gpu and settings.cuda_graphs if fixed_shapes is None else fixed_shapes)
    try:
        return _to_the_end(batch, settings.max_response_tokens, on_token, on_gpu)
    finally:
        batch.forget_step()


def _to_the_end(batch: Batch, limit: int, on_token: Callable[[int], None] | None, on_gpu: bool) -> Generated:
    # Asking how many rows are alive waits for the GPU, and every new size of the batch is recorded anew.
    check_every, shrink_at = (16, 0.5) if on_gpu else (1, 0.75)
    reported = 0
    while True:
        sampled, alive = torch.stack([batch.response_mask.sum(), batch.alive.sum()]).tolist()
        if on_token:
            on_token(sampled - reported)
        reported = sampled
        if alive == 0 or batch.sampled == limit:
            return batch.result()
        if alive <= shrink_at * len(batch.rows):
            batch.drop_finished()
        for _ in range(min(check_every, limit - batch.sampled)):
            batch.next_token()


class Batch:
    """The responses of a batch, and the rows that are still being written."""

    def __init__(
        self,
        lm: Any,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        settings: SamplingSettings,
        uniforms: Tensor,
        eos_id: int,
        pad_id: int,
        lean: LeanDecoder | None = None,
        stops: Tensor | None = None,
    ) -> None:
        """See `decode`."""
        size, limit, device = len(prompt_ids), settings.max_response_tokens, prompt_ids.device
        self.lm, self.temperature, self.uniforms, self.lean = lm, settings.temperature, uniforms, lean
        self.eos_id, self.pad_id, self.first_eos = eos_id, pad_id, settings.min_response_tokens
        self.prompt_ids, self.prompt_mask, self.stops = prompt_ids, prompt_mask, stops
        # Of all responses, [B, R]:
        self.response_ids = prompt_ids.new_full((size, limit), pad_id)
        self.response_mask = torch.zeros(size, limit, dtype=torch.bool, device=device)
        self.logprobs = torch.zeros(size, limit, dtype=torch.float32, device=device)
        # Of the rows still in the batch, [N]:
        self.rows = torch.arange(size, device=device)
        self.alive = torch.ones(size, dtype=torch.bool, device=device)
        self.token = prompt_ids[:, -1].clone()
        self.position = position_ids(prompt_mask)[:, -1:].clone()
        width = prompt_mask.shape[1] + limit
        spare = (lean.columns(width) if lean else width) - prompt_mask.shape[1]
        self.mask = torch.cat([prompt_mask, prompt_mask.new_zeros(size, spare)], dim=1)
        # Tokens sampled so far; the same on the device; and where the cache's next column is, on the device too.
        self.sampled = 0
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        self.column = self.step + prompt_ids.shape[1] - 1
        self._fixed, self._record, self._room = False, False, 0
        self._work: Tensor | None = None
        self._recorded: RecordedStep | None = None
        """Of the present shapes, on a GPU. It refers to this object, so that only letting it go frees both at once,
        and the weights and the cache with them."""

    @property
    def filled(self) -> int:
        """Columns of the cache that are filled."""
        return self.prompt_ids.shape[1] + self.sampled - 1

    def read_prompts(self, fixed_shapes: bool) -> None:
        """Compute the prompts and sample the first tokens."""
        first, prompt_of = _distinct(self.prompt_ids, self.prompt_mask)
        roomy = roomy_cache(self.lm.config, self.mask.shape[1] - 1)
        # Others may not take a mask of four dimensions: Falcon adds ALiBi's bias to a mask that it makes itself.
        self._fixed = fixed_shapes and roomy is not None and self.lm.config._attn_implementation == NAME
        self._fixed = self.lean.fixed_shapes if self.lean else self._fixed
        self._record = fixed_shapes and self.token.is_cuda
        self.cache: Cache = roomy or DynamicCache(config=self.lm.config)
        mask = self.prompt_mask[first]
        hidden = self._hidden(self.prompt_ids[first], mask, position_ids(mask))
        if self.lean:
            self.lean.read(self.cache, prompt_of, self.mask.shape[1] - 1)
        elif len(first) < len(self.rows):
            self.cache.batch_select_indices(prompt_of)
        self._sample(hidden[prompt_of])
        self.sampled = 1

    def next_token(self) -> None:
        """Sample a token for every row that is alive."""
        if not self._fixed:
            self._step()
        else:
            if self.filled == self._room:
                self._let_shapes_change()
            if self._room == 0:
                self._room = self._make_room(self.filled + 1)
                self._recorded = RecordedStep(self._step) if self._record else None
            (self._recorded or self._step)()
        self.sampled += 1

    def drop_finished(self) -> None:
        """Take the rows that have ended out of the batch."""
        keep = self.alive.nonzero().squeeze(1)
        self._let_shapes_change()
        if self.lean:
            self.lean.keep(keep)
        else:
            self.cache.batch_select_indices(keep)
        self.rows, self.alive, self.mask = self.rows[keep], self.alive[keep], self.mask[keep]
        self.token, self.position = self.token[keep], self.position[keep]

    def result(self) -> Generated:
        """The responses, without columns that are padding in all of them."""
        self._let_shapes_change()
        width = max(1, int(self.response_mask.sum(1).max()))
        ids, mask = self.response_ids[:, :width], self.response_mask[:, :width]
        has_eos = ((ids == self.eos_id) & mask).any(1)
        return Generated(ids, mask, self.logprobs[:, :width], ~has_eos)

    def _make_room(self, columns: int) -> int:
        if self.lean:
            return self.lean.columns(columns)
        return fix_shapes(self.cache, columns, self.column)

    def _let_shapes_change(self) -> None:
        if self._room:
            self.forget_step()
            if not self.lean:
                release_shapes(self.cache, self.filled)
            self._room = 0

    def forget_step(self) -> None:
        """Let go of the recorded step, if there is one."""
        if self._recorded is not None:
            self._recorded.release()
            self._recorded = None

    def _step(self) -> None:
        """From the last tokens to the next ones. With fixed shapes nothing here may wait for the device."""
        self.mask.index_fill_(1, self.column, True)
        self.position.add_(1)
        mask = self.mask[:, : self._room if self._fixed else self.filled + 1]
        if self.lean:
            self._sample(self.lean.step(self.token, mask, self.position, self.column))
        else:
            mask = mask[:, None, None] if self._fixed else mask
            self._sample(self._hidden(self.token.unsqueeze(1), mask, self.position))

    def _hidden(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """The last column's hidden states as a matrix: a [N, 1, H] slice makes torch copy the unembedding N times."""
        out = self.lm.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True
        )
        hidden: Tensor = out.last_hidden_state
        return hidden[:, -1]

    def _workspace(self, logits: Tensor) -> Tensor:
        if self._work is None:
            self._work = torch.empty(logits.numel(), dtype=torch.float32, device=logits.device)
        return self._work

    def _sample(self, hidden: Tensor) -> None:
        logits = self.lm.get_output_embeddings()(hidden)
        if self.first_eos:  # compared on the device: a recorded step runs at every position
            logits[:, self.eos_id].masked_fill_(self.step < self.first_eos, -torch.inf)
        token, logprob = draw(logits, self.temperature, self.uniforms[self.rows, self.step], self._workspace(logits))
        place = (self.rows, self.step.expand_as(self.rows))
        self.response_ids.index_put_(place, torch.where(self.alive, token, self.pad_id))
        self.response_mask.index_put_(place, self.alive)
        self.logprobs.index_put_(place, torch.where(self.alive, logprob, 0.0))
        self.alive.logical_and_(token != self.eos_id)
        if self.stops is not None:
            self.alive.logical_and_(~self.stops[token])
        self.token.copy_(token)
        self.step.add_(1)
        self.column.add_(1)


def _distinct(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows that differ [U], and for each row the one of them that it equals, as a position among them [B]."""
    found: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    same: list[int] = []
    for row, (tokens, valid) in enumerate(zip(ids.tolist(), mask.tolist(), strict=True)):
        key = tuple(t for t, v in zip(tokens, valid, strict=True) if v)
        if key not in found:
            found[key] = len(first)
            first.append(row)
        same.append(found[key])
    return torch.tensor(first, device=ids.device), torch.tensor(same, device=ids.device)
