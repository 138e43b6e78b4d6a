"""Floating-point operations that the mathematics of a stage needs, and bytes that decoding has to read.

Attention's own products are left out: at these lengths they are some per cent. Whatever a side computes beyond what is
needed (padding, logits nobody reads, a prompt again for each response) is not counted, so that it lowers utilisation.
"""

from __future__ import annotations

from dataclasses import dataclass

RANK = 16


@dataclass(frozen=True)
class Sizes:
    """Weights of a causal LM, by what is done with them."""

    body: int
    """Of the linear layers of all blocks."""
    vocabulary: int
    """Of the unembedding."""
    adapter: int
    """Of LoRA on all linear layers of the blocks."""

    def forward(self, tokens: float, logits: float = 0) -> float:
        """A forward pass of so many tokens, with logits of some: 2 a weight."""
        return 2 * ((self.body + self.adapter) * tokens + self.vocabulary * logits)

    def training(self, tokens: float, logits: float = 0, frozen: bool = True) -> float:
        """Forward, backward through activations, and backward into the weights that are trained: 2 a weight each.

        >>> Sizes(body=10, vocabulary=5, adapter=1).training(1, 1)  # 4 a frozen weight, 6 a trained one
        66
        >>> Sizes(body=10, vocabulary=5, adapter=1).training(1, 1, frozen=False)
        90
        """
        if not frozen:
            return 6 * (self.body * tokens + self.vocabulary * logits)
        return (4 * self.body + 6 * self.adapter) * tokens + 4 * self.vocabulary * logits


def sizes(base: str) -> Sizes:
    """The sizes of a model, from its configuration alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    head = lm.get_output_embeddings()
    layers = [m for m in lm.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    body = sum(m.weight.numel() for m in layers)
    return Sizes(body, head.weight.numel(), sum(RANK * (m.in_features + m.out_features) for m in layers))


def ppo_flops(size: Sizes, tokens: float, response_tokens: float) -> dict[str, float]:
    """Per iteration: what the update needs (policy and value), and what scoring needs.

    Scoring is the reference, the reward and the value. This project computes the policy's log-probabilities once more
    there; the peer takes those of decoding. That pass is not counted as needed.
    """
    return {
        "update": size.training(tokens, response_tokens) + size.training(tokens),
        "scoring": size.forward(tokens, response_tokens) + 2 * size.forward(tokens),
    }


def decode_bytes(size: Sizes, tokens: int, bytes_per_weight: int = 2) -> float:
    """Bytes that decoding so many tokens has to read: every weight once a token, for all rows together."""
    return float(tokens * bytes_per_weight * (size.body + size.vocabulary))
