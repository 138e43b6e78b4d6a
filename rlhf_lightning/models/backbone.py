"""The frozen base that several LoRA adapters share."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.masked import position_ids
from rlhf_lightning.models.checkpointing import checkpointed, checkpointed_layers
from rlhf_lightning.models.lean_layers import is_lean
from rlhf_lightning.models.load_errors import brief
from rlhf_lightning.models.lora import check_adapted
from rlhf_lightning.models.lora_linear import active, take_rows, use_single_node
from rlhf_lightning.models.quantized import QuantizedLinear
from rlhf_lightning.models.ragged import Ragged
from rlhf_lightning.models.ragged_attention import NAME
from rlhf_lightning.models.ragged_support import ragged_forward, reads_ragged
from rlhf_lightning.models.replaced_weights import replaced_weights
from rlhf_lightning.models.rms_norm import use_single_node_norms


class Backbone(nn.Module):
    """One causal LM, and any number of LoRA adapters on it of which one (or none) is active at a time.

    PEFT's own switching freezes the adapters that are not active, even for a graph built before the switch,
    so training silently stops; here the active adapter is switched on the layers and `requires_grad` is left
    alone. Switch only with `using`, `merged` and `hidden_by_adapter`.
    """

    def __init__(self, lm: Any, freeze: bool = True) -> None:
        """
        Args:
            lm: A transformers causal LM; it is changed in place.
            freeze: Freeze its own weights, as LoRA wants; False for full fine-tuning.
        """
        super().__init__()
        self.lm = lm
        self.lm.requires_grad_(not freeze)
        use_single_node_norms(self.lm)
        self._peft: list[Any] = []  # in a list: registering the wrapper would list every parameter twice
        self._layers: dict[str, LoraLayer] = {}
        self._checkpointing = False

    @property
    def hidden_size(self) -> int:
        """H of the final hidden states; a few models project them to another width than their layers have."""
        weight = getattr(self.unembed, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point():  # not packed codes
            return weight.shape[1]
        return int(self.lm.config.get_text_config().hidden_size)

    @property
    def gradient_checkpointing(self) -> bool:
        """Keep only the inputs of layers for the backward, and compute the rest again.

        Raises:
            UserError: When switched on for a model that is trained and has no layers to do so with.
        """
        return self._checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        # Frozen models have no backward; a reward model may well be of another kind than the policy.
        if on and not checkpointed_layers(self.lm) and any(p.requires_grad for p in self.parameters()):
            raise UserError(
                f"model.init_args.memory.gradient_checkpointing: transformers' {type(self.lm).__name__} has no layers "
                "that can be computed again. Set it to false, and lower micro_batch_tokens if memory is short."
            )
        self._checkpointing = on

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters present."""
        return list(self._peft[0].peft_config) if self._peft else []

    def add_adapter(self, name: str, config: LoraConfig, trainable: bool) -> None:
        """Add a LoRA adapter that changes nothing yet (B = 0).

        Raises:
            ValueError: `target_modules` matches no layer, or one that cannot have an adapter.
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
            linear = {n for n, m in self.lm.named_modules() if isinstance(m, nn.Linear) and m is not self.unembed}
            endings = sorted({n.rpartition(".")[2] for n in linear})
            raise ValueError(f"{brief(error)}. The model's layers: {', '.join(endings[:12])}.") from error
        check_adapted(self.lm)
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
        with torch.no_grad():
            own = [(layer.get_base_layer(), layer) for layer in self._layers.values() if name in layer.lora_A]
            weights = [(b, b.weight + layer.get_delta_weight(name).to(b.weight.dtype)) for b, layer in own]
        with replaced_weights(weights), self.using(None):
            yield

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

    def takes_rows(self, names: Sequence[str | None]) -> bool:
        """Whether `hidden_by_adapter` computes these adapters in one forward, under the autocast that there is now."""
        # In padded batches rows are not tokens, nor in layers that only some tokens go to (experts).
        tokens = self.lm.config._attn_implementation == NAME and is_lean(self.lm)
        return tokens and take_rows(list(self._layers.values()), names, self.lm.get_input_embeddings().weight)

    def hidden_by_adapter(self, names: Sequence[str | None], batch: Ragged) -> list[Tensor]:
        """Final hidden states [N, H] of the same N tokens under each of several adapters, in one forward if possible.

        The frozen weights then read all rows at once: products are larger and small operations fewer than one adapter
        after another. Dropout and variants of LoRA, which PEFT computes, take turns, and so do
        adapters on models whose layers are not those of `lean_layers`.

        Args:
            names: Adapters; None is the bare base model.
            batch: N tokens.
        """
        if len(names) > 1 and self.takes_rows(names) and reads_ragged(self.lm, batch):
            rows = tuple((name, len(batch)) for name in names)
            with active(list(self._layers.values()), [], rows):
                return list(self.hidden_ragged(batch.repeated(len(names))).split(len(batch)))
        found = []
        for name in names:
            with self.using(name):
                found.append(self.hidden_ragged(batch))
        return found

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
