"""vLLM on the same GPU, in this process; the trained weights reach it in memory.

Written against vLLM's documented interface and tested with a stand-in for it: it has not been run on vLLM itself.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.rollouts.engine import Generated, Request
from rlhf_lightning.rollouts.settings import KEY, SamplingSettings, VllmSettings

IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"


class VllmEngine:
    """vLLM loads the base model once; before each rollout the policy's merged weights are copied over its own.

    Merged weights rather than a LoRA request: vLLM reads adapters from files only, and decodes merged weights as
    fast as any. Rows of the same prompt share it in vLLM's prefix cache.
    """

    def __init__(self, settings: VllmSettings) -> None:
        """
        Raises:
            UserError: vLLM is not installed, or would run where the weights cannot be handed to it.
        """
        self.settings = settings
        self._vllm = _import_vllm()
        self._llm: Any = None
        self._asleep = False

    def generate(
        self,
        backbone: Backbone,
        adapter: str | None,
        request: Request,
        settings: SamplingSettings,
        on_token: Callable[[int], None] | None = None,
    ) -> Generated:
        """See `RolloutEngine`. `settings.batch_size` is not used, and `on_token` is called once, at the end."""
        llm = self._start(backbone)
        self._load(llm, backbone, adapter)
        if self._asleep:
            llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        prompts = [ids[mask].tolist() for ids, mask in zip(request.prompt_ids, request.prompt_mask, strict=True)]
        outputs = llm.generate(
            [{"prompt_token_ids": tokens} for tokens in prompts],
            [self._sampling(request, settings, row) for row in range(len(prompts))],
            use_tqdm=False,
        )
        if self.settings.sleep:  # level 1: the weights go to main memory; level 2 would forget the frozen ones
            llm.sleep(level=1)
            self._asleep = True
        generated = _read([o.outputs[0] for o in outputs], request)
        if on_token:
            on_token(int(generated.response_mask.sum()))
        return generated

    def _start(self, backbone: Backbone) -> Any:
        if self._llm is None:
            if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
                raise UserError(f"{KEY}.engine: vllm works with one process only; set trainer.devices to 1.")
            lm = backbone.lm
            self._llm = self._vllm.LLM(
                model=lm.name_or_path,
                skip_tokenizer_init=True,
                dtype=str(lm.dtype).removeprefix("torch."),
                gpu_memory_utilization=self.settings.memory_fraction,
                max_model_len=self.settings.max_model_len,
                enable_sleep_mode=self.settings.sleep,
                enforce_eager=self.settings.enforce_eager,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",  # after the temperature
                generation_config="vllm",  # not the model's own penalties
            )
        return self._llm

    def _load(self, llm: Any, backbone: Backbone, adapter: str | None) -> None:
        if self._asleep:
            llm.wake_up(tags=["weights"])
        with backbone.merged(adapter):
            weights = list(merged_weights(backbone, adapter))
            llm.apply_model(lambda model: _load_into(model, weights))
        llm.reset_prefix_cache()  # it was computed with the weights of before

    def _sampling(self, request: Request, settings: SamplingSettings, row: int) -> Any:
        return self._vllm.SamplingParams(
            n=1,
            max_tokens=settings.max_response_tokens,
            min_tokens=settings.min_response_tokens,  # of all stop tokens
            temperature=settings.temperature,
            top_p=1.0,
            top_k=-1,
            seed=request.draws.row_seed(row),
            stop_token_ids=[request.eos_id],
            ignore_eos=True,  # the model's own idea of EOS; ours is the line above
            logprobs=0,  # of the sampled token alone
            detokenize=False,
        )


def merged_weights(backbone: Backbone, adapter: str | None) -> Iterator[tuple[str, Tensor]]:
    """Weights that training changes, under the names of the model's own checkpoint; to be read within `merged`.

    With an adapter these are the layers it is on; without, all weights.
    """
    changed = {key.split("base_model.model.")[-1].split(".lora_")[0] for key in _adapter_names(backbone, adapter)}
    for name, parameter in backbone.lm.named_parameters():
        layer, _, kind = name.replace(".base_layer.", ".").rpartition(".")
        if ".lora_" not in name and (adapter is None or layer in changed):
            yield f"{layer}.{kind}", parameter.detach()


def _adapter_names(backbone: Backbone, adapter: str | None) -> list[str]:
    return list(backbone.adapter_state(adapter)) if adapter else []


def _load_into(model: Any, weights: list[tuple[str, Tensor]]) -> None:
    model.load_weights(iter(weights))


def _read(outputs: list[Any], request: Request) -> Generated:
    """vLLM's answers as tensors."""
    device = request.prompt_ids.device
    width = max(1, *(len(o.token_ids) for o in outputs))
    ids = torch.full((len(outputs), width), request.pad_id, dtype=torch.long)
    mask = torch.zeros(len(outputs), width, dtype=torch.bool)
    logprobs = torch.zeros(len(outputs), width, dtype=torch.float32)
    for row, output in enumerate(outputs):
        tokens = list(output.token_ids)
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        mask[row, : len(tokens)] = True
        found = [choices[t].logprob for t, choices in zip(tokens, output.logprobs, strict=True)]
        logprobs[row, : len(tokens)] = torch.tensor(found, dtype=torch.float32)
    has_eos = ((ids == request.eos_id) & mask).any(1)
    return Generated(ids.to(device), mask.to(device), logprobs.to(device), ~has_eos.to(device))


def _import_vllm() -> Any:
    try:
        # In a process of its own vLLM could be given the weights through files or sockets only.
        if os.environ.setdefault(IN_PROCESS, "0") != "0":
            raise UserError(f"{KEY}.engine: vllm has to run in this process; unset the environment's {IN_PROCESS}.")
        return importlib.import_module("vllm")
    except ImportError as error:
        raise UserError(
            f"{KEY}.engine is vllm, which cannot be imported ({error}). Install it on a machine with a GPU "
            "(pip install -e '.[vllm]'), or take the engine native."
        ) from error
