"""A frozen base in 4 or 8 bits: near the whole one, as small as it should be, and switched like any other."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_lightning.errors import UserError
from rlhf_lightning.models import quantized, ragged_attention
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.lora_linear import SingleNode
from rlhf_lightning.models.quantized import QuantizedLinear
from rlhf_lightning.models.sources import resolve

BITS = [4, 8]
IDS = torch.randint(3, 200, (3, 7), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 7, dtype=torch.bool)


@pytest.fixture
def _package() -> None:
    pytest.importorskip("bitsandbytes", reason="needs the optional package bitsandbytes")


needs_package = pytest.mark.usefixtures("_package")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose linear layers outweigh everything else."""
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("wide")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=256,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=True,
        )
        model = LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter)
    model.save_pretrained(directory)
    return directory


def load(directory: Path, bits: Any, dtype: torch.dtype = torch.float32) -> Any:
    return load_causal_lm(str(directory), dtype, bits=bits)


def adapted(lm: Any, names: tuple[str, ...] = ("a",), dropout: float = 0.0) -> Backbone:
    backbone = Backbone(lm)
    generator = torch.Generator().manual_seed(0)
    for name in names:
        backbone.add_adapter(name, LoraSettings(rank=4, dropout=dropout).peft_config(), trainable=True)
        with torch.no_grad():
            for tensor in backbone.adapter_state(name).values():
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return backbone


def layers(lm: nn.Module) -> dict[str, QuantizedLinear]:
    return {n: m for n, m in lm.named_modules() if isinstance(m, QuantizedLinear)}


def stored(layer: Any) -> int:
    """Bytes of a layer's codes and scales."""
    weight: Any = layer.weight
    tensors = [weight.data]
    if (state := getattr(weight, "quant_state", None)) is not None:
        tensors += [state.absmax, state.state2.absmax]
    else:
        assert weight.CB is None
        tensors.append(layer.row_scale)
    return sum(t.numel() * t.element_size() for t in tensors)


def whole(lm: Any, bits_lm: Any) -> Any:
    """`lm` with the very weights that the codes of `bits_lm` stand for."""
    for name, layer in layers(bits_lm).items():
        lm.get_submodule(name).weight.data = layer.dense(lm.dtype)
    return lm


@needs_package
@pytest.mark.parametrize(("bits", "most"), [(4, 0.135), (8, 0.26)])
def test_linear_layers_shrink_and_the_rest_stays(wide: Path, bits: int, most: float) -> None:
    """4: half a byte a weight and an 8-bit scale for 64 of them; 8: a byte, and a float a row. Float32 has four."""
    plain, lm = load(wide, None), load(wide, bits)
    found = layers(lm)
    assert {n for n, m in plain.named_modules() if type(m) is nn.Linear} == {*found, "lm_head"}
    assert sum(map(stored, found.values())) < most * sum(4 * plain.get_submodule(n).weight.numel() for n in found)
    assert torch.equal(lm.get_input_embeddings().weight, plain.get_input_embeddings().weight)
    assert torch.equal(lm.get_output_embeddings().weight, plain.get_output_embeddings().weight)
    assert lm.config._attn_implementation == ragged_attention.NAME, "no padding: as with the whole base"


@needs_package
@pytest.mark.parametrize(("bits", "step"), [(4, 0.15), (8, 0.5 / 127)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_is_off_by_half_a_step_at_most(wide: Path, bits: int, step: float, dtype: torch.dtype) -> None:
    """nf4: gaps of up to 0.3 of a block's largest weight; int8: of 1/127 of a row's; and rounding to the dtype."""
    plain = load(wide, None)
    for name, layer in layers(load(wide, bits, dtype)).items():
        weight, dense = plain.get_submodule(name).weight, layer.dense(dtype)
        groups, near = (weight.view(-1, 64), dense.view(-1, 64)) if bits == 4 else (weight, dense)
        largest = groups.abs().amax(1, keepdim=True)
        assert dense.dtype == dtype
        slack = 0.01 if dtype == torch.bfloat16 or bits == 4 else 0.002
        assert ((groups - near.float()).abs() <= (step + slack) * largest).all()


@needs_package
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients_are_those_of_the_same_weights_unquantized(wide: Path, bits: int, dropout: float) -> None:
    """Training mode and evaluation, padding-free or not, with the single node and (dropout) with PEFT's own layers."""
    lm = load(wide, bits)
    results = []
    for model in (lm, whole(load(wide, None), lm)):
        backbone = adapted(model, dropout=dropout)
        backbone.train()
        torch.manual_seed(3)
        with backbone.using("a"):
            hidden = backbone.hidden(IDS, MASK)
        trained = list(backbone.adapter_state("a").values())
        results.append([hidden, *torch.autograd.grad(hidden.square().sum(), trained)])
        backbone.eval()
        with torch.no_grad(), backbone.using("a"):
            results[-1] += [backbone.hidden(IDS, MASK), lm.get_output_embeddings()(hidden)]
    for found, expected in zip(*results, strict=True):
        assert torch.allclose(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())))


@needs_package
@pytest.mark.parametrize("bits", BITS)
def test_near_the_unquantized_model(wide: Path, bits: int) -> None:
    logits = load(wide, None)(input_ids=IDS).logits
    error = (load(wide, bits)(input_ids=IDS).logits - logits).std() / logits.std()
    assert 0 < error < (0.25 if bits == 4 else 0.03)


@needs_package
@pytest.mark.parametrize("bits", BITS)
def test_a_row_does_not_depend_on_the_rows_beside_it(wide: Path, bits: int) -> None:
    """Evaluation without gradients, where bitsandbytes rounds a batch together or changes its codes in place."""
    lm = load(wide, bits)
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    x[0] *= 100  # an outlier, to LLM.int8()
    layer: Any = lm.get_submodule("model.layers.0.mlp.up_proj")
    codes = layer.weight.data.clone()
    with torch.no_grad():
        assert torch.allclose(layer(x)[1:], layer(x[1:]), atol=1e-5)
    assert torch.equal(layer.weight.data, codes)
    assert torch.equal(layer(x), layer.train()(x))


@needs_package
@pytest.mark.parametrize("bits", BITS)
def test_adapters_switch_and_train_alone(wide: Path, bits: int) -> None:
    backbone = adapted(load(wide, bits), ("a", "b"))
    assert all(isinstance(layer, SingleNode) for layer in backbone._layers.values())
    with backbone.using("a"):
        first = backbone.hidden(IDS, MASK)
    with backbone.using("b"):
        second = backbone.hidden(IDS, MASK)
    assert not torch.allclose(first, second)
    (first.sum() + second.square().sum()).backward()
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is not None) == (".lora_" in name), name


@needs_package
@pytest.mark.parametrize("bits", BITS)
def test_decoding_uses_the_adapter_and_leaves_the_codes(wide: Path, bits: int) -> None:
    backbone = adapted(load(wide, bits))
    codes = {n: layer.weight.data.clone() for n, layer in layers(backbone.lm).items()}
    with torch.no_grad(), backbone.using("a"):
        expected = backbone.hidden(IDS, MASK)
    bare = backbone.hidden(IDS, MASK)
    with pytest.raises(RuntimeError), torch.no_grad(), backbone.merged("a"):
        assert torch.equal(backbone.hidden(IDS, MASK), expected)
        raise RuntimeError
    assert torch.equal(backbone.hidden(IDS, MASK), bare)
    assert not torch.allclose(bare, expected)
    assert all(torch.equal(layer.weight.data, codes[n]) for n, layer in layers(backbone.lm).items())


@needs_package
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_copy_and_a_change_of_dtype_keep_the_codes(wide: Path, bits: int, gradient_checkpointing: bool) -> None:
    """`trainer.precision: bf16-true` converts the whole module: codes and scales are not for it to round."""
    backbone = adapted(load(wide, bits, torch.bfloat16))
    backbone.gradient_checkpointing = gradient_checkpointing
    holder = nn.Module()
    holder.backbone = deepcopy(backbone)
    holder.to(torch.bfloat16)
    copies = layers(holder)
    for name, layer in layers(backbone).items():
        assert torch.equal(layer.dense(torch.bfloat16), copies[f"backbone.{name}"].dense(torch.bfloat16))
    with holder.backbone.using("a"):
        holder.backbone.hidden(IDS, MASK).sum().backward()
    assert all((p.grad is not None) == (".lora_" in n) for n, p in holder.named_parameters())


@needs_package
@pytest.mark.parametrize("bits", BITS)
def test_autocast_computes_in_16_bits(wide: Path, bits: int) -> None:
    backbone = adapted(load(wide, bits, torch.bfloat16))
    x = torch.randn(4, 128, requires_grad=True)
    layer = backbone._layers["model.layers.0.self_attn.q_proj"]
    for active in (["a"], []):
        layer._active_adapter = active
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = layer(x)  # type: ignore[operator]
        assert out.dtype == torch.bfloat16
        (slope,) = torch.autograd.grad(out.float().sum(), x)
        assert slope.dtype == torch.float32


@needs_package
def test_a_precision_without_codes_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.init_args\.lora\.base_bits: .*float64 on cpu.*base_bits to null"):
        load_causal_lm(resolve("embedded:tiny"), torch.float64, bits=4)


@needs_package
@pytest.mark.parametrize(("bits", "name"), [(4, "quantize_4bit"), (8, "int8_vectorwise_quant")])
def test_a_device_without_kernels_is_refused(monkeypatch: pytest.MonkeyPatch, bits: Any, name: str) -> None:
    def missing(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(f"bitsandbytes.functional.{name}", missing)
    with pytest.raises(UserError, match=r"lora\.base_bits: .* on cpu here \(no kernel\).*trainer\.accelerator"):
        load_causal_lm(resolve("embedded:tiny"), bits=bits)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"lora\.base_bits: .*'bitsandbytes>=0\.48'.*null"):
        LoraSettings(base_bits=4)
    LoraSettings()


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.init_args\.lora\.base_bits is 3; it must be 4, 8 or null"):
        LoraSettings(base_bits=3)  # type: ignore[arg-type]
