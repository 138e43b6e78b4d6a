"""Loading tokenizers and causal language models, and the frozen base that several LoRA adapters share."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.masked import position_ids
from rlhf_lightning.models.checkpointing import checkpointed
from rlhf_lightning.models.load_errors import brief, missing_tensors, remedy
from rlhf_lightning.models.lora_linear import active, use_single_node
from rlhf_lightning.models.quantized import Bits, QuantizedLinear, loading_options, use_whole_products
from rlhf_lightning.models.ragged import Ragged
from rlhf_lightning.models.ragged_support import enable_ragged, ragged_forward, reads_ragged
from rlhf_lightning.models.rms_norm import use_single_node_norms


def load_tokenizer(
    name: str,
    pad_token: str | None = None,
    key: str = "model.init_args.base_model",
    trust_remote_code: bool = False,
    need_pad: bool = True,
) -> Any:
    """A tokenizer, from a directory or Hub name, whose PAD is not its EOS.

    A PAD that is EOS hides where a response ends. Our own code reads masks, never PAD ids; but a reward model
    opened with plain transformers looks for the last token that is not PAD and would skip the EOS. Who only reads
    and samples, and writes no artefact, can do without (`need_pad=False`).

    Raises:
        UserError: No tokenizer there, no PAD, PAD = EOS (unless `pad_token` asks for it), or an unknown token.
    """
    from transformers import AutoTokenizer

    if Path(name).is_dir() and not any(Path(name).glob("*token*")) and not any(Path(name).glob("vocab*")):
        raise UserError(f"{key}: {name!r} has no tokenizer (tokenizer.json and others). Copy the model's own there.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises half a dozen types for "not there"
        raise UserError(f"{key}: cannot load a tokenizer from {name!r}: {brief(error)}. {remedy(name)}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{key}: the tokenizer of {name!r} has no EOS token, so a model could never say that it has finished. "
            "Set eos_token in its tokenizer_config.json."
        )
    free = [t for t in tokenizer.all_special_tokens if t != tokenizer.eos_token]
    such = f", such as {free[:4]}" if free else ""
    hint = f"Set model.init_args.pad_token to an existing token that is never written{such}."
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise UserError(f"model.init_args.pad_token: {pad_token!r} is not in the vocabulary of {name!r}. {hint}")
        tokenizer.pad_token = pad_token
    elif not need_pad:
        return tokenizer
    elif tokenizer.pad_token is None:
        raise UserError(f"{key}: the tokenizer of {name!r} has no PAD token. {hint}")
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(f"{key}: the tokenizer of {name!r} uses EOS ({tokenizer.eos_token!r}) as PAD. {hint}")
    return tokenizer


def load_causal_lm(
    name: str,
    dtype: torch.dtype = torch.float32,
    key: str = "model.init_args.base_model",
    trust_remote_code: bool = False,
    bits: Bits | None = None,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """A causal language model from safetensors in a directory or on the Hub, in evaluation mode.

    Args:
        name: Directory or Hub name.
        dtype: Of its weights.
        key: Configuration key to name in an error.
        trust_remote_code: Run code that comes with the model.
        bits: Keep its linear layers in so many bits, frozen; `dtype` is then that of the rest and of products.
        config: Fields of its configuration to change.

    Raises:
        UserError: It cannot be loaded; the message names `key`.
    """
    from transformers import AutoModelForCausalLM

    quantized = loading_options(bits, dtype) if bits else {}
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **quantized,
            **(config or {}),
        )
    except Exception as error:
        raise UserError(f"{key}: cannot load a causal LM from {name!r}: {brief(error)}. {remedy(name)}") from error
    if missing := missing_tensors(model, loading, name):  # transformers would draw them at random
        raise UserError(
            f"{key}: the weights in {name!r} lack {len(missing)} tensors that its config.json asks for, such as "
            f"{missing[0]}. Restore the files of one model."
        )
    model.eval()
    if bits:
        use_whole_products(model)
    _check_plain_logits(model, name, key)
    enable_ragged(model)
    return model


@torch.no_grad()
def _check_plain_logits(model: Any, name: str, key: str) -> None:
    """Logits must be the unembedding of the final hidden states and nothing more: we compute only the rows we need."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.get_input_embeddings().weight.device)
    hidden = model.base_model(input_ids=ids).last_hidden_state
    if not torch.allclose(model(input_ids=ids).logits, model.get_output_embeddings()(hidden), atol=1e-2, rtol=1e-2):
        raise UserError(
            f"{key}: {name!r} transforms its logits after the unembedding (a scale or soft cap); unsupported."
        )


class Backbone(nn.Module):
    """One causal LM, and any number of LoRA adapters on it of which one (or none) is active at a time.

    PEFT's own switching freezes the adapters that are not active, even for a graph built before the switch,
    so training silently stops; here the active adapter is switched on the layers and `requires_grad` is left
    alone. Switch only with `using` and `merged`.
    """

    def __init__(self, lm: Any, freeze: bool = True) -> None:
        """
        Args:
            lm: A transformers causal LM; it is changed in place.
            freeze: Freeze its own weights, as LoRA wants; False for full fine-tuning.
        """
        super().__init__()
        self.lm = lm
        self.gradient_checkpointing = False
        """Keep only the inputs of layers for the backward, and compute the rest again."""
        self.lm.requires_grad_(not freeze)
        use_single_node_norms(self.lm)
        self._peft: list[Any] = []  # in a list: registering the wrapper would list every parameter twice
        self._layers: dict[str, LoraLayer] = {}

    @property
    def hidden_size(self) -> int:
        return int(self.lm.config.get_text_config().hidden_size)

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters present."""
        return list(self._peft[0].peft_config) if self._peft else []

    def add_adapter(self, name: str, config: LoraConfig, trainable: bool) -> None:
        """Add a LoRA adapter that changes nothing yet (B = 0).

        Raises:
            ValueError: `target_modules` matches no layer.
        """
        before = {n: p.requires_grad for n, p in self.named_parameters()}
        try:
            if self._peft:
                self._peft[0].add_adapter(name, config)
            else:
                with warnings.catch_warnings():  # PEFT asks quantized models for a name that transformers retires
                    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                    self._peft.append(get_peft_model(self.lm, config, adapter_name=name))
        except (ValueError, re.error) as error:
            endings = sorted({n.rpartition(".")[2] for n, m in self.lm.named_modules() if isinstance(m, nn.Linear)})
            raise ValueError(f"{brief(error)}. The model's layers: {', '.join(endings[:12])}.") from error
        self._layers = {n: m for n, m in self.lm.named_modules() if isinstance(m, LoraLayer)}
        for layer in self._layers.values():
            use_single_node(layer)
        for n, p in self.named_parameters():
            p.requires_grad_(before.get(n, trainable and f".{name}." in n and ".lora_" in n))
        self._activate([])

    def adapter_config(self, name: str) -> LoraConfig:
        """The PEFT configuration of an adapter, target modules resolved to names."""
        config: LoraConfig = self._peft[0].peft_config[name]
        return config

    def adapter_state(self, name: str) -> dict[str, Tensor]:
        """Tensors of an adapter under the names PEFT gives them in `adapter_model.safetensors`."""
        state = {}
        for layer_name, layer in self._layers.items():
            if name in layer.lora_A:
                for part in ("lora_A", "lora_B"):
                    state[f"base_model.model.{layer_name}.{part}.weight"] = getattr(layer, part)[name].weight
        return state

    @torch.no_grad()
    def load_adapter_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Copy tensors into an adapter.

        Raises:
            ValueError: The names or shapes are not exactly the adapter's.
        """
        own = self.adapter_state(name)
        if own.keys() != state.keys():
            different = sorted(own.keys() ^ state.keys())
            raise ValueError(f"{len(different)} tensors do not match, first: {different[0]}")
        for key, tensor in own.items():
            if tensor.shape != state[key].shape:
                raise ValueError(f"{key} is {tuple(state[key].shape)}, the model's is {tuple(tensor.shape)}")
            tensor.copy_(state[key])

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Run a block with one adapter active; None is the bare base model."""
        assert name is None or name in self.adapters, f"no adapter {name!r}"
        with active(list(self._layers.values()), [name] if name else []):
            yield

    @contextmanager
    def merged(self, name: str | None) -> Iterator[None]:
        """Run a block with an adapter added into the weights, for decoding, where small products cost most.

        Subtracting it again would change the base by rounding, so the original tensors are kept and put back.
        Codes of a quantized base have no room for an addition: there the adapter is active instead.
        """
        if any(isinstance(layer.get_base_layer(), QuantizedLinear) for layer in self._layers.values()):
            with self.using(name):
                yield
            return
        originals = {}
        try:
            if name is not None:
                for layer_name, layer in self._layers.items():
                    if name in layer.lora_A:
                        base = layer.get_base_layer()
                        originals[layer_name] = base.weight.data
                        base.weight.data = base.weight.data + layer.get_delta_weight(name).to(base.weight.dtype)
            with self.using(None):
                yield
        finally:
            for layer_name, weight in originals.items():
                self._layers[layer_name].get_base_layer().weight.data = weight

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Final hidden states [B, T, H] of the active adapter; padding may be on either side.

        Args:
            input_ids: [B, T].
            attention_mask: Bool [B, T].
            positions: [B, T]; by default counted from `attention_mask`.
        """
        with self._keeping():
            out = self.lm.base_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids(attention_mask) if positions is None else positions,
                use_cache=False,
            )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def hidden_ragged(self, batch: Ragged) -> Tensor:
        """Final hidden states [N, H] of the active adapter for N tokens, without padding.

        Outputs and gradients are those of separate sequences, up to the order of sums. A model that cannot do
        without is given padded rows, with shared prompts repeated.
        """
        if reads_ragged(self.lm, batch):
            with self._keeping():
                return ragged_forward(self.lm, batch)
        rows = []
        for block in batch.layout.blocks:
            hidden = self.hidden(batch.ids[block.keys], block.valid, batch.positions[block.keys])
            rows.append(hidden[:, -block.width :].flatten(0, 1))
        return torch.cat(rows)[batch.layout.places]

    @property
    def unembed(self) -> Any:
        """The layer that turns hidden states [..., H] into logits [..., V]."""
        return self.lm.get_output_embeddings()

    def _keeping(self) -> AbstractContextManager[None]:
        """How much a forward keeps for its backward."""
        return checkpointed(self.lm) if self.gradient_checkpointing else nullcontext()

    def _activate(self, names: list[str]) -> None:
        for layer in self._layers.values():
            layer._active_adapter = names
