"""From a source (a causal LM or an artefact) to a backbone ready to train, and back to files on disk."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from rlhf_lightning.artefacts import ADAPTER_FILE, HEAD_FILE, Source, load_adapter_tensors, load_head
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings, check_adapted
from rlhf_lightning.models.scalar_head import ScalarHead

ADAPTER = "policy"
"""Adapter that a single-role stage (SFT, reward model) trains."""


def base_dtype(precision: str, lora: LoraSettings | None) -> torch.dtype:
    """Precision of the weights of the base model under a Lightning precision.

    A frozen base needs no master copy, so under 16-bit precision it is kept in 16 bit (half the memory, twice
    the decoding speed); weights that are trained are float32 in every precision (App. C).

    Raises:
        UserError: 16-bit "-true" precision without adapters, which would leave no float32 weight to train.
    """
    if lora is None and precision in ("bf16-true", "16-true"):
        raise UserError(
            f"trainer.precision is {precision}, and with model.init_args.lora null it would train 16-bit weights: "
            "small steps would be rounded away. Take bf16-mixed, whose trained weights are float32, or adapters."
        )
    if precision.startswith("64"):
        return torch.float64
    if precision.endswith("-true") or lora is not None:
        if precision.startswith("bf16"):
            return torch.bfloat16
        if precision.startswith("16"):
            return torch.float16
    return torch.float32


def build_backbone(
    source: Source,
    lora: LoraSettings | None,
    dtype: torch.dtype,
    key: str,
    trust_remote_code: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Backbone:
    """A backbone whose trainable part starts at `source`: its adapter (or a fresh one), or all its weights.

    An adapter that `source` already has is continued with its own rank and targets; `lora` then only decides
    that there is one. With `lora` None it is merged into the weights, which are all trained. `config` has fields of the
    model's configuration to change.
    """
    lm = load_causal_lm(source.model, dtype, key, trust_remote_code, lora.base_bits if lora else None, config)
    if lora is None:
        return Backbone(merge_into(lm, source, key) if source.adapter else lm, freeze=False)
    backbone = Backbone(lm)
    attach_adapter(backbone, ADAPTER, source, lora, key, trainable=True)
    return backbone


def attach_adapter(
    backbone: Backbone, name: str, source: Source, lora: LoraSettings, key: str, trainable: bool
) -> None:
    """Add adapter `name` as a copy of `source`'s, or a fresh one where the source has none.

    Raises:
        UserError: Layers that there are none of, or that cannot have adapters; or the artefact does not fit the model.
    """
    if source.adapter is None:
        try:
            backbone.add_adapter(name, lora.peft_config(), trainable)
        except ValueError as error:
            raise UserError(f"model.init_args.lora.target_modules: {error}") from error
        return
    config, tensors, _ = load_adapter_tensors(source, key)
    _require_lora(config, source, key)
    config = replace(config, modules_to_save=None, task_type=None, inference_mode=False, lora_dropout=lora.dropout)
    try:
        backbone.add_adapter(name, config, trainable)
        backbone.load_adapter_state(name, tensors)
    except ValueError as error:
        raise UserError(f"{key}: the adapter in {source.adapter} does not fit {source.model}: {error}") from error


def _require_lora(config: Any, source: Source, key: str) -> None:
    if not isinstance(config, LoraConfig):
        kind = getattr(config, "peft_type", "unknown")
        raise UserError(f"{key}: the adapter in {source.adapter} is of type {kind}; only LoRA can be continued.")


def merge_into(lm: Any, source: Source, key: str) -> Any:
    """The causal LM with the source's adapter added into its weights, PEFT layers gone."""
    from peft import get_peft_model

    config, tensors, _ = load_adapter_tensors(source, key)
    _require_lora(config, source, key)
    named = {k.replace(".weight", f".{ADAPTER}.weight"): v for k, v in tensors.items()}
    try:
        wrapped = get_peft_model(lm, replace(config, modules_to_save=None, task_type=None), adapter_name=ADAPTER)
        check_adapted(lm)
        own = {n for n, _ in wrapped.named_parameters() if ".lora_" in n}
        if different := sorted(own ^ named.keys()):
            raise ValueError(f"{len(different)} tensors do not match, first: {different[0]}")
        wrapped.load_state_dict(named, strict=False)
    except (ValueError, RuntimeError) as error:  # PEFT's and torch's, whose message is many lines long
        reason = " ".join(str(error).split())[:250].strip()
        raise UserError(f"{key}: the adapter in {source.adapter} does not fit {source.model}: {reason}") from error
    return wrapped.merge_and_unload()  # type: ignore[operator]


def build_head(source: Source, hidden_size: int, seed: int, key: str) -> ScalarHead:
    """The source's scalar head if it is a reward model, else a new one drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ScalarHead(hidden_size)
    if source.is_reward_model:
        try:
            head.load_state_dict(load_head(source, key))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:250].strip()
            directory = source.adapter or source.model
            raise UserError(f"{key}: the scalar head in {directory} does not fit its model: {reason}") from error
    return head


def save_adapter(directory: Path, backbone: Backbone, name: str, base: str, head: ScalarHead | None = None) -> None:
    """Write a PEFT adapter directory that `peft.PeftModel.from_pretrained` reads.

    With a head it is a sequence-classification adapter: `score` holds the head's weight. transformers' scalar
    heads have no bias, so the bias stands beside it in `scalar_head.safetensors`: reward = logit + bias.
    """
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in backbone.adapter_state(name).items()}
    config: LoraConfig = replace(
        backbone.adapter_config(name),
        base_model_name_or_path=base,
        inference_mode=True,
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
        modules_to_save=["score"] if head else None,
    )
    if head is not None:
        tensors["base_model.model.score.weight"] = head.weight.detach().float().cpu().unsqueeze(0)
        save_head(directory, head)
    config.save_pretrained(str(directory))
    save_file(tensors, directory / ADAPTER_FILE, metadata={"format": "pt"})


def save_head(directory: Path, head: ScalarHead) -> None:
    """Write weight [H] and bias [] as safetensors."""
    save_file({k: v.detach().float().cpu() for k, v in head.state_dict().items()}, directory / HEAD_FILE)


def check_classifier(backbone: Backbone) -> None:
    """Check that `save_full` can write the model with a head, without allocating anything.

    Raises:
        UserError: transformers has no sequence classifier for it that is the same model with a scalar head.
    """
    lm = backbone.lm
    try:
        with torch.device("meta"):
            classifier = _classifier(lm.config)
        same = classifier.base_model.state_dict().keys() == lm.base_model.state_dict().keys()
        if not same or classifier.score.weight.shape != (1, backbone.hidden_size):
            raise ValueError("another model")
    except (AttributeError, ValueError) as error:
        raise UserError(
            "model.init_args.lora: null trains all weights, and such a reward model is written as a sequence "
            f"classifier of transformers, which has none for {lm.config.model_type} models. Train adapters, or take "
            "another model."
        ) from error


def save_full(directory: Path, backbone: Backbone, head: ScalarHead | None = None) -> None:
    """Write a transformers model directory; with a head, a sequence-classification model with one label."""
    if head is None:
        backbone.lm.save_pretrained(directory)
        return
    classifier = _classifier(backbone.lm.config)
    trunk: dict[str, Tensor] = backbone.lm.base_model.state_dict()
    classifier.base_model.load_state_dict(trunk)
    with torch.no_grad():
        classifier.score.weight.copy_(head.weight.detach().unsqueeze(0))
    classifier.save_pretrained(directory)
    save_head(directory, head)


def _classifier(config: Any) -> Any:
    """transformers' sequence classifier with one label for a causal LM's configuration."""
    from transformers import AutoModelForSequenceClassification

    config = deepcopy(config)
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config)
