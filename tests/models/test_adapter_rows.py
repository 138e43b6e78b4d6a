"""Different adapters for different rows of one forward, against one adapter after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.models.lora_linear import Rows, active, side_by_side, take_rows, use_single_node
from rlhf_lightning.models.ragged import Ragged, from_lengths, from_prompts
from rlhf_lightning.models.sources import resolve
from tests.models.test_backbone import randomize

X = torch.randn(7, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
ROWS: Rows = (("a", 3), (None, 1), ("b", 0))
"""The last part has what is left."""


def layer(out: int) -> Linear:
    """A PEFT layer with the adapters a and b, of other ranks and scales."""
    torch.manual_seed(out)
    config = LoraSettings(rank=3, alpha=5.0).peft_config()
    made = Linear(nn.Linear(6, out), "a", config, r=3, lora_alpha=5.0)
    made.update_layer("b", 2, lora_alpha=7.0, config=LoraSettings(rank=2, alpha=7.0).peft_config())
    made = made.to(torch.float64)
    for name in ("a", "b"):
        nn.init.normal_(made.lora_B[name].weight)
        for part in (made.lora_A, made.lora_B):
            part[name].requires_grad_()
    made.base_layer.requires_grad_(False)
    return made


def factors(layers: Sequence[Linear]) -> list[Tensor]:
    return [part[n].weight for one in layers for n in ("a", "b") for part in (one.lora_A, one.lora_B)]


def outcomes(layers: Sequence[Linear], f: Callable[[Tensor], Sequence[Tensor]]) -> list[Tensor]:
    x = X.clone().requires_grad_()
    outs = f(x)
    total = torch.stack([(out * torch.arange(out.numel()).view(out.shape)).sum() for out in outs]).sum()
    return [*outs, *torch.autograd.grad(total, [x, *factors(layers)])]


def by_peft(layers: Sequence[Linear], x: Tensor) -> list[Tensor]:
    outs = []
    for one in layers:
        parts = []
        for names, rows in ((["a"], x[:3]), ([], x[3:4]), (["b"], x[4:])):
            with active([one], names):
                parts.append(one(rows))
        outs.append(torch.cat(parts))
    return outs


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_and_gradients_are_pefts_part_by_part(count: int) -> None:
    plain, layers = ([layer(out) for out in (4, 2, 5)[:count]] for _ in range(2))
    for one in layers:
        use_single_node(one)

    def ours(x: Tensor) -> Sequence[Tensor]:
        with active(layers, [], ROWS):
            return side_by_side(layers, x) if count > 1 else [layers[0](x)]

    found, expected = outcomes(layers, ours), outcomes(plain, lambda x: by_peft(plain, x))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))


def test_a_layer_without_the_adapters_is_the_base() -> None:
    made = layer(4)
    use_single_node(made)
    with active([made], [], (("c", 3), (None, 0))):
        assert torch.equal(made(X), made.base_layer(X))


def test_what_peft_computes_cannot_take_rows() -> None:
    made = layer(4)
    assert not take_rows([made], ["a", "b"], X)
    use_single_node(made)
    assert take_rows([made], ["a", None, "b", "of another layer"], X)
    made.lora_dropout["b"] = nn.Dropout(0.5)
    assert not take_rows([made], ["a", "b"], X)
    assert take_rows([made], ["a"], X)
    assert take_rows([made.eval()], ["a", "b"], X)
    assert not take_rows([made], ["a"], X.float())


def test_adapters_are_back_after_an_error() -> None:
    made = layer(4)
    use_single_node(made)
    before = made(X)
    with pytest.raises(RuntimeError), active([made], [], ROWS):
        raise RuntimeError
    assert torch.equal(made(X), before)


# -- models -------------------------------------------------------------------------------------------------

NAMES = ["policy", None, "value", "policy"]


def backbone(dropout: float = 0.0) -> Backbone:
    made = Backbone(load_causal_lm(resolve("embedded:tiny"), torch.float64))
    made.add_adapter("policy", LoraSettings(rank=4, dropout=dropout).peft_config(), trainable=True)
    some = LoraSettings(rank=2, alpha=3.0, target_modules=["q_proj", "v_proj", "down_proj"])
    made.add_adapter("value", some.peft_config(), trainable=True)
    for seed, name in enumerate(("policy", "value")):
        randomize(made, name, seed)
    return made


def sequences() -> Ragged:
    generator = torch.Generator().manual_seed(2)
    return from_lengths(torch.randint(3, 200, (29,), generator=generator), torch.tensor([9, 13, 7]))


def prompts() -> Ragged:
    """Two prompts with two responses and one."""
    generator = torch.Generator().manual_seed(2)
    ids = [torch.randint(3, 200, shape, generator=generator) for shape in ((2, 5), (3, 4))]
    masks = [torch.ones_like(x, dtype=torch.bool) for x in ids]
    masks[0][1, :2], masks[1][0, 3:] = False, False
    return from_prompts(ids[0], masks[0], ids[1], masks[1], torch.tensor([0, 0, 1]))


def numbers(made: Backbone, names: Sequence[str | None], batch: Ragged, together: bool) -> list[Tensor]:
    """Hidden states, and gradients of a function of them."""
    if together:
        outs = made.hidden_by_adapter(names, batch)
    else:
        outs = []
        for name in names:
            with made.using(name):
                outs.append(made.hidden_ragged(batch))
    made.zero_grad()
    weights = (torch.arange(1, 1 + out.numel()).view(out.shape).cos() for out in outs)
    torch.stack([(out * w).sum() for out, w in zip(outs, weights, strict=True)]).cumsum(0).sum().backward()
    return [*(out.detach() for out in outs), *(p.grad for p in made.parameters() if p.grad is not None)]


@pytest.mark.parametrize("recomputing", [False, True])
@pytest.mark.parametrize("batch", [sequences, prompts])
def test_one_forward_is_one_adapter_after_another(
    batch: Callable[[], Ragged], recomputing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = backbone()
    made.gradient_checkpointing = recomputing
    expected = numbers(made, NAMES, batch(), together=False)
    forwards: list[int] = []
    compute = made.hidden_ragged
    monkeypatch.setattr(made, "hidden_ragged", lambda batch: (forwards.append(len(batch)), compute(batch))[1])
    found = numbers(made, NAMES, batch(), together=True)
    assert forwards == [len(NAMES) * len(batch())]
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))


def test_adapters_with_dropout_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = backbone(dropout=0.5).train(), sequences()
    assert not made.takes_rows(["policy", "value"])
    assert made.takes_rows(["value", None])
    torch.manual_seed(0)
    found = numbers(made, NAMES, batch, together=True)
    torch.manual_seed(0)
    expected = numbers(made, NAMES, batch, together=False)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_other_layers_take_turns() -> None:
    """An expert would get some of the tokens only, and so another adapter's."""
    made, batch = backbone(), sequences()
    expected = numbers(made, NAMES, batch, together=False)
    mlp = made.lm.base_model.layers[1].mlp
    mlp.__class__ = next(c for c in type(mlp).__mro__ if c.__name__ == "LlamaMLP" and c is not type(mlp))
    assert not made.takes_rows(NAMES)
    found = numbers(made, NAMES, batch, together=True)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("autocast", [True, False])
def test_in_16_bit_too(autocast: bool) -> None:
    made, batch = backbone().to(torch.bfloat16), sequences()
    if autocast:
        for name in ("policy", "value"):
            for tensor in made.adapter_state(name).values():
                tensor.data = tensor.data.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert made.takes_rows(NAMES)
        together = made.hidden_by_adapter(NAMES, batch)
        for name, found in zip(NAMES, together, strict=True):
            with made.using(name):
                expected = made.hidden_ragged(batch)
            # Products of other sizes may round otherwise.
            assert found.dtype == expected.dtype == torch.bfloat16
            assert (found - expected).float().norm() < 0.01 * expected.float().norm()


@pytest.mark.parametrize("attribute", ["_attn_implementation", "sliding_window"])
def test_models_that_pad_take_turns(attribute: str) -> None:
    """All of them, or this batch alone, which has a sequence longer than the window: rows of padding are no tokens."""
    made, batch = backbone(), sequences()
    expected = numbers(made, NAMES, batch, together=False)
    setattr(made.lm.config, attribute, {"_attn_implementation": "sdpa", "sliding_window": 10}[attribute])
    assert made.takes_rows(NAMES) == (attribute == "sliding_window")
    found = numbers(made, NAMES, batch, together=True)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, expected, strict=True))
