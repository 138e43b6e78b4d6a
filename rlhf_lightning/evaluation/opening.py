"""Names of models and artefacts to language models, with as few copies of base weights as possible."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rlhf_lightning.artefacts import open_source, source_fingerprint
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import attach_adapter
from rlhf_lightning.models.limits import load_limits
from rlhf_lightning.models.loading import load_causal_lm, load_tokenizer
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.prompt_template import PromptTemplate


def open_language_models(
    models: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    max_batch_tokens: int = 8192,
    trust_remote_code: bool = False,
) -> dict[str, LanguageModel]:
    """Load models; adapters on one base share it.

    Args:
        models: Name in results to artefact (or run directory), model directory or Hub name.
        dtype: Precision of the weights. Log-likelihoods of close choices differ between 16 and 32 bit.
        device: Where to compute.
        max_batch_tokens: Tokens of one forward; limits memory.
        trust_remote_code: Run code that comes with a model. Only for authors you trust.

    Raises:
        UserError: A model cannot be opened; the message names it.
    """
    sources = {name: open_source(model, f"models.{name}") for name, model in models.items()}
    bases: dict[str, Backbone] = {}
    opened = {}
    for name, source in sources.items():
        key = f"models.{name}"
        limits = load_limits(source.model, key, trust_remote_code)
        tokenizer = load_tokenizer(source.tokenizer, key=key, trust_remote_code=trust_remote_code)
        template = PromptTemplate(tokenizer, source.info.prompt_format if source.info else "{prompt}\n\n")
        if source.model not in bases:
            bases[source.model] = Backbone(load_causal_lm(source.model, dtype, key, trust_remote_code).to(device))
        base = bases[source.model]
        if source.adapter:
            attach_adapter(base, name, source, LoraSettings(), key, trainable=False)
            base.to(device)
        opened[name] = LanguageModel(
            name, base, name if source.adapter else None, template, limits, source_fingerprint(source), max_batch_tokens
        )
    return opened
