"""A frozen base whose linear layers are kept in 4 or 8 bits (bitsandbytes); adapters on it stay as they are."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf_lightning.errors import UserError

Bits = Literal[4, 8]
KEY = "model.init_args.lora.base_bits"


def require_package(bits: int | None) -> None:
    """
    Raises:
        UserError: Not a number of bits that there is, or bitsandbytes is not installed.
    """
    if bits not in (None, 4, 8):
        raise UserError(f"{KEY} is {bits}; it must be 4, 8 or null.")
    if bits is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{KEY}: a {bits}-bit base needs the package bitsandbytes. Install it "
            "(`pip install 'bitsandbytes>=0.48'`), or set base_bits to null."
        )


def loading_options(bits: Bits, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` needs to be told, for weights that go to torch's default device.

    4: nf4 in blocks of 64, their scales quantized again (QLoRA, arXiv 2305.14314). 8: int8 with a scale a row
    (LLM.int8(), arXiv 2208.07339). transformers leaves embeddings and unembedding as they are.

    Args:
        bits: 4 or 8.
        dtype: Of what is not quantized, and of all products.

    Raises:
        UserError: bitsandbytes cannot do this on the device, or in this precision.
    """
    from transformers import BitsAndBytesConfig

    device = torch.get_default_device()
    _try_out(bits, dtype, device)
    if bits == 4:
        config: Any = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    # Without a device, transformers takes the first GPU, whatever the trainer runs on.
    return {"quantization_config": config, "device_map": {"": device}}


def _try_out(bits: Bits, dtype: torch.dtype, device: torch.device) -> None:
    try:
        import bitsandbytes.functional as codes

        x = torch.zeros(64, 64, dtype=dtype, device=device)
        if bits == 4:
            codes.dequantize_4bit(*codes.quantize_4bit(x, quant_type="nf4", compress_statistics=True))
        else:
            codes.int8_vectorwise_quant(x.to(torch.float16))
    except Exception as error:  # a library that does not load, a missing kernel, a refused dtype: each its own type
        reason = " ".join(str(error).split())[:150].rstrip(".")
        name = str(dtype).removeprefix("torch.")
        raise UserError(
            f"{KEY}: bitsandbytes has no {bits}-bit weights for {name} on {device.type} here ({reason}). Set "
            "base_bits to null, or trainer.precision (32-true, bf16-mixed, 16-mixed) or trainer.accelerator to others."
        ) from error


class QuantizedLinear(nn.Module):
    """Mixed into bitsandbytes' frozen layers: the product with the whole weight, made from its codes where needed.

    Their own forwards differ between training and evaluation, round an input by the rows beside it (8 bits), and
    change the codes' layout in place (4 bits, some CPUs). Here rows are independent, and sampling, scoring and
    update compute the same numbers.
    """

    weight: Any
    bias: nn.Parameter | None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, in], made anew."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        with torch.autocast(x.device.type, enabled=False):
            return _Product.apply(x, self)  # type: ignore[no-any-return]


class _Product(torch.autograd.Function):
    """x Wᵀ + bias, frozen; W exists during the product, and again during its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:  # type: ignore[override]
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(x.dtype)
        return F.linear(x, layer.dense(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad @ ctx.layer.dense(grad.dtype), None


@cache
def _classes() -> dict[type, type]:
    """bitsandbytes' layers and ours; made once, where the package is known to be there."""
    import bitsandbytes as bnb
    from bitsandbytes.functional import dequantize_4bit

    class Linear4(QuantizedLinear, bnb.nn.Linear4bit):
        def dense(self, dtype: torch.dtype) -> Tensor:
            weight: Tensor = dequantize_4bit(self.weight.data, self.weight.quant_state)
            return weight.to(dtype)

    class Linear8(QuantizedLinear, bnb.nn.Linear8bitLt):
        row_scale: Tensor

        def dense(self, dtype: torch.dtype) -> Tensor:
            if self.row_scale.device != self.weight.device:
                self.row_scale = self.row_scale.to(self.weight.device)
            weight: Tensor = self.weight.data * self.row_scale
            return weight.to(dtype)

    return {bnb.nn.Linear4bit: Linear4, bnb.nn.Linear8bitLt: Linear8}


def use_whole_products(lm: nn.Module) -> None:
    """Turn a model's bitsandbytes layers into `QuantizedLinear`s."""
    for module in lm.modules():
        own = _classes().get(type(module))
        if own is None:
            continue
        weight: Any = module.weight
        if getattr(weight, "SCB", None) is not None:
            # No buffer: "-true" precisions would round it. Not left on the weight: `Module.to` forgets it there.
            module.row_scale = weight.SCB.float().unsqueeze(1) / 127
            weight.CB = weight.SCB = None
        module.__class__ = own
