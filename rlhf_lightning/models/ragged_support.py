"""Which models can read several sequences as one row of tokens, found out by trying."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_lightning.models import ragged_attention
from rlhf_lightning.models.lean_layers import lean_layers
from rlhf_lightning.models.ragged import Ragged, from_lengths


def filler(tokens: int) -> int:
    """How many tokens to add on a CPU, so that few numbers of tokens occur: up to a sixteenth, on average half of it.

    Its matrix products are prepared anew for every number of rows that has not been seen lately. For a model of 30
    layers with adapters that is 0.5 s, as long as a minibatch of 400 tokens takes.

    >>> [filler(n) for n in (1, 32, 430, 1000, 4000)]
    [31, 0, 18, 24, 96]
    """
    step = max(32, (1 << tokens.bit_length()) // 32)
    return -tokens % step


def ragged_forward(lm: Any, batch: Ragged) -> Tensor:
    """Final hidden states [N, H] of N tokens, by a model whose attention is `ragged_attention`."""
    # Nothing looks at the tokens that are added, and their hidden states are cut off: they have no gradient either.
    more = filler(len(batch)) if batch.ids.device.type == "cpu" else 0
    out = lm.base_model(
        input_ids=F.pad(batch.ids, (0, more)).unsqueeze(0),
        # A mask of four dimensions is passed on as it is: the attention goes by the layout.
        attention_mask=torch.zeros(1, 1, 1, 1, device=batch.ids.device),
        position_ids=F.pad(batch.positions, (0, more)).unsqueeze(0),
        use_cache=False,
        ragged=batch.layout,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden[0, : len(batch)]


@torch.no_grad()
def enable_ragged(lm: Any) -> None:
    """Set a model's attention to `ragged_attention` if two sequences in one row then give what each gives alone.

    Models that keep another state along a row (recurrent layers), add a bias of their own to the scores, or do not
    use transformers' attention interface stay as they are; their batches are padded.
    """
    if lm.config._attn_implementation != "sdpa":
        return
    device = lm.get_input_embeddings().weight.device
    first, second = (torch.tensor([x], device=device) for x in ([1, 2, 3, 0, 1], [2, 0, 3]))
    expected = torch.cat([lm.base_model(input_ids=x).last_hidden_state[0] for x in (first, second)])
    both = from_lengths(torch.cat([first[0], second[0]]), torch.tensor([5, 3], device=device))
    both = replace(both, layout=replace(both.layout, products=False))
    for layers in (lean_layers(lm), nullcontext()):
        try:
            lm.set_attn_implementation(ragged_attention.NAME)
            with layers:
                # Rounding of 16-bit weights stays below this; looking at a neighbour does not.
                if not torch.allclose(ragged_forward(lm, both), expected, rtol=1e-2, atol=1e-2):
                    raise ValueError("looks at a neighbour, or has other layers")  # no assert: `python -O` skips it
            return
        except Exception:  # whatever a model makes of a row that it was not written for
            lm.set_attn_implementation("sdpa")


def reads_ragged(lm: Any, batch: Ragged) -> bool:
    """Whether the model computes this batch without padding: a sliding window must not be shorter than a sequence."""
    if lm.config._attn_implementation != ragged_attention.NAME:
        return False
    window = getattr(lm.config.get_text_config(), "sliding_window", None)
    return window is None or int(batch.positions.max()) < window
