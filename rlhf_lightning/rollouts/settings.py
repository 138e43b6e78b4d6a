"""How responses are sampled, and by which engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.bounds import check_number

EngineName = Literal["native", "transformers", "vllm"]
KEY = "model.init_args.sampling"


@dataclass(frozen=True)
class VllmSettings:
    """What only the vLLM engine reads."""

    memory_fraction: float = 0.4
    """Share of the GPU's memory that vLLM takes for its copy of the weights and its cache while it samples."""
    max_model_len: int | None = None
    """Longest prompt and response together, tokens; null is the model's own limit."""
    sleep: bool = True
    """Give that memory back during scoring and update; its weights wait in main memory."""
    enforce_eager: bool = False
    """Do without CUDA graphs: starts faster, decodes slower."""

    def __post_init__(self) -> None:
        check_number(f"{KEY}.vllm.memory_fraction", self.memory_fraction, above=0, at_most=1)
        check_number(f"{KEY}.vllm.max_model_len", self.max_model_len, at_least=1)


@dataclass(frozen=True)
class SamplingSettings:
    """How responses are sampled. C.4: temperature 1; top-k and top-p are not given and not applied."""

    max_response_tokens: int = 1000
    """Responses are stopped here, EOS or not (App. C: 1k)."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    batch_size: int = 64
    """Prompts decoded together; limits memory, changes no result but by rounding. vLLM makes its own batches."""
    engine: EngineName = "native"
    """native: our own decoding; transformers: `generate`, the reference; vllm: needs a GPU and vLLM installed."""
    cuda_graphs: bool = True
    """The native engine on a GPU replays recorded kernels instead of launching each anew."""
    vllm: VllmSettings = VllmSettings()
    min_response_tokens: int = 0
    """EOS is none of a response's first so many tokens: it has no probability there, in sampling as in the
    log-probabilities of policy and reference that the update sees."""

    def __post_init__(self) -> None:
        check_number(f"{KEY}.max_response_tokens", self.max_response_tokens, at_least=1)
        check_number(
            f"{KEY}.min_response_tokens", self.min_response_tokens, at_least=0, at_most=self.max_response_tokens
        )
        check_number(f"{KEY}.temperature", self.temperature, at_least=0)
        check_number(f"{KEY}.batch_size", self.batch_size, at_least=1)
