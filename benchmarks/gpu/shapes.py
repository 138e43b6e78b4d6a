"""Llama-shaped models with random weights: times and memory depend on shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_lightning.models.tiny import tokenizer

# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied embeddings
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "tiny": (64, 128, 2, 4, 2, 300, True),
    "135m": (576, 1536, 30, 9, 3, 49152, True),
    "1b": (2048, 8192, 16, 32, 8, 128256, True),
    "8b": (4096, 14336, 32, 32, 8, 128256, False),
    "14b": (5120, 17408, 40, 40, 8, 151936, False),
    "32b": (5120, 25600, 64, 64, 8, 151936, False),
}


def configuration(shape: str) -> LlamaConfig:
    """The configuration of a shape; its tokenizer is the byte tokenizer of the tiny model."""
    hidden, intermediate, layers, heads, groups, vocabulary, tied = SHAPES[shape]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=128 if hidden >= 4096 else hidden // heads,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        tie_word_embeddings=tied,
    )


def build(shape: str, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A model of a shape, made where it will be: the largest ones would not fit on their way there."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LlamaForCausalLM(configuration(shape)).eval()
    finally:
        torch.set_default_dtype(before)


def write(shape: str, root: Path, device: str) -> str:
    """A model directory of a shape, made once."""
    directory = root / shape
    if not (directory / "config.json").is_file():
        build(shape, device).save_pretrained(directory)
        tokenizer().save_pretrained(directory)  # type: ignore[attr-defined]
    return str(directory)
