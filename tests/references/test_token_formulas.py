"""Log-probabilities, the SFT loss, positions, packing, sampling and schedules against their references."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_lightning import logprobs as logprobs_module
from rlhf_lightning.logprobs import token_logprobs
from rlhf_lightning.masked import last_valid_index, position_ids
from rlhf_lightning.models.ragged import Ragged
from rlhf_lightning.rollouts.inverse_cdf import sample
from rlhf_lightning.schedule import ScheduleSettings, lr_factor
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.sft.packing import PackedRows, SFTExample, collate, pack
from tests.references import token_formulas as formulas
from tests.references.agreement import FLOAT32, fast

MASKS = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width).filter(any), min_size=1, max_size=4)
)
SEED = st.integers(0, 10**6)


@fast
@given(MASKS)
def test_last_valid_index_and_positions(mask: list[list[bool]]) -> None:
    assert last_valid_index(torch.tensor(mask)).tolist() == [formulas.last_valid_index(row) for row in mask]
    assert position_ids(torch.tensor(mask)).tolist() == [formulas.position_ids(row) for row in mask]


def scalars(x: Tensor) -> Any:
    """Nested lists of 0-dim float64 tensors that gradients can be asked of."""
    if x.ndim:
        return [scalars(part) for part in x]
    return x.detach().double().requires_grad_()


def slopes(x: Any) -> Any:
    if isinstance(x, list):
        return [slopes(part) for part in x]
    return 0.0 if x.grad is None else x.grad.item()


@pytest.mark.parametrize("chunk", [1, 2, 256])
def test_token_logprobs(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 on purpose, whatever comes in; gradients with respect to hidden states and the unembedding."""
    monkeypatch.setattr(logprobs_module, "chunk_rows", lambda device: chunk)

    @fast
    @given(st.integers(1, 5), SEED, st.sampled_from([1.0, 0.7, 2.0]), st.sampled_from([1.0, 0.0, 4.0]))
    def run(size: int, seed: int, temperature: float, scale: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        hidden, weight = (torch.randn(shape, generator=generator) for shape in ((size, 3), (4, 3)))
        hidden = scale * hidden
        targets = torch.randint(4, (size,), generator=generator)
        cotangent = torch.randn(size, generator=generator)
        h, w = scalars(hidden), scalars(weight)
        log_p = [
            formulas.log_softmax([sum(a * b for a, b in zip(row, column, strict=True)) for column in w], temperature)
            for row in h
        ]
        sum(c.item() * p[int(t)] for c, p, t in zip(cotangent, log_p, targets, strict=True)).backward()
        for dtype in (torch.float32, torch.float64):
            x, u = (part.to(dtype, copy=True).requires_grad_() for part in (hidden, weight))
            found, entropy = token_logprobs(x, targets, lambda states, u=u: states @ u.T, temperature)  # type: ignore[misc]
            (found * cotangent).sum().backward()
            assert found.dtype == entropy.dtype == torch.float32
            assert not entropy.requires_grad
            tolerance = FLOAT32 * max(1.0, scale) ** 2 * 10
            expected = [p[int(t)].item() for p, t in zip(log_p, targets, strict=True)]
            assert found.tolist() == pytest.approx(expected, abs=tolerance)
            assert entropy.tolist() == pytest.approx([formulas.entropy(p) for p in log_p], abs=tolerance)
            assert x.grad is not None
            assert u.grad is not None
            assert torch.allclose(x.grad.double(), torch.tensor(slopes(h)).double(), rtol=0, atol=tolerance)
            assert torch.allclose(u.grad.double(), torch.tensor(slopes(w)).double(), rtol=0, atol=tolerance)
        frozen = torch.nn.Linear(3, 4, bias=False).requires_grad_(False)
        frozen.weight.copy_(weight)
        x = hidden.clone().requires_grad_()
        found, entropy = token_logprobs(x, targets, frozen, temperature)
        (found * cotangent).sum().backward()
        assert found.tolist() == pytest.approx(expected, abs=tolerance)
        assert entropy.tolist() == pytest.approx([formulas.entropy(p) for p in log_p], abs=tolerance)
        assert x.grad is not None
        assert torch.allclose(x.grad.double(), torch.tensor(slopes(h)).double(), rtol=0, atol=tolerance)
        with torch.no_grad():
            without, nothing = token_logprobs(hidden, targets, frozen, temperature, with_entropy=False)
        assert torch.equal(without, found.detach())
        assert not nothing.any()

    run()


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("chunk", [2, 256])
def test_a_token_that_could_not_be_drawn(frozen: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a float64 softmax over the other tokens: values, entropies and gradients, at a temperature."""
    monkeypatch.setattr(logprobs_module, "chunk_rows", lambda device: chunk)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator)
    targets, excluded = torch.tensor([0, 1, 3, 0, 2]), torch.tensor([3, 3, -1, -1, 0])
    layer = torch.nn.Linear(3, 4, bias=False).requires_grad_(not frozen)
    layer.weight.data.copy_(weight)
    x, exact = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    found, entropy = token_logprobs(x, targets, layer, 0.7, excluded=excluded)
    logits = exact @ weight.double().T / 0.7
    for row, (target, without) in enumerate(zip(targets.tolist(), excluded.tolist(), strict=True)):
        log_p = logits[row, [v for v in range(4) if v != without]].log_softmax(0)
        place = target - (0 <= without < target)
        assert found[row].item() == pytest.approx(log_p[place].item(), abs=1e-6)
        assert entropy[row].item() == pytest.approx(-(log_p.exp() * log_p).sum().item(), abs=1e-6)
        (log_p[place] * (row + 1)).backward(retain_graph=True)
    (found * torch.arange(1, 6)).sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    assert torch.allclose(x.grad.double(), exact.grad, atol=1e-5)


def test_logits_are_computed_again_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory does not grow with the rows; without gradients they are computed once."""
    monkeypatch.setattr(logprobs_module, "chunk_rows", lambda device: 2)
    rows: list[int] = []

    def unembed(hidden: Tensor) -> Tensor:
        rows.append(len(hidden))
        return 2 * hidden

    hidden, targets = torch.randn(5, 3, requires_grad=True), torch.zeros(5, dtype=torch.long)
    found, _ = token_logprobs(hidden, targets, unembed)
    assert rows == [2, 2, 1]
    found.sum().backward()
    assert sorted(rows) == [1, 1, 2, 2, 2, 2]
    with torch.no_grad():
        token_logprobs(hidden, targets, unembed)
    assert len(rows) == 9


def test_no_tokens_keep_the_graph() -> None:
    hidden = torch.zeros(0, 3, requires_grad=True)
    found, entropy = token_logprobs(hidden, torch.zeros(0, dtype=torch.long), lambda h: h)
    found.sum().backward()
    assert found.shape == entropy.shape == (0,)
    assert hidden.grad is not None


class Lookup:
    """A backbone whose logits are a table: what stands at [row, column], NaN in the padding."""

    def __init__(self, table: Tensor, valid: Tensor) -> None:
        self.table, self.valid = table, valid

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        yield

    def hidden_ragged(self, batch: Ragged) -> Tensor:
        return self.table[self.valid]

    def unembed(self, hidden: Tensor) -> Tensor:
        return hidden


EXAMPLES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=5
)


def packed_rows(examples: list[SFTExample], limit: int) -> list[list[SFTExample]]:
    return list(PackedRows(examples, pack(np.array([len(e.ids) for e in examples]), limit)))


@fast
@given(EXAMPLES, SEED, st.booleans())
def test_sft_loss(drawn: list[list[tuple[int, bool]]], seed: int, packed: bool) -> None:
    """The sum of the module's token losses over the tokens of a step, one example a row and packed."""
    examples = [SFTExample([t for t, _ in row], [flag for _, flag in row]) for row in drawn]
    rows = packed_rows(examples, 8) if packed else [[e] for e in examples]
    batch = collate(rows, pad_id=3)
    table = torch.full((*batch.input_ids.shape, 4), torch.nan)
    generator = torch.Generator().manual_seed(seed)
    columns = {}  # where each example is, in reading order
    for b, row in enumerate(rows):
        start = 0
        for e in row:
            columns[id(e)] = (b, start)
            table[b, start : start + len(e.ids)] = torch.randn(len(e.ids), 4, generator=generator)
            start += len(e.ids)
    logits = [scalars(table[b, c : c + len(e.ids)]) for e in examples for b, c in [columns[id(e)]]]
    expected = formulas.sft_loss(logits, [(e.ids, e.is_response) for e in examples], num_tokens=7)
    table.requires_grad_()
    module = SimpleNamespace(lora=None, backbone=Lookup(table, batch.segments > 0))
    loss = SFTModule.token_losses(module, batch).sum() / 7  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected.item(), rel=FLOAT32, abs=FLOAT32)
    loss.backward()
    assert table.grad is not None
    if expected.requires_grad:
        expected.backward()
    seen = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
    for e, values in zip(examples, logits, strict=True):
        b, c = columns[id(e)]
        seen[b, c : c + len(e.ids)] = True
        assert torch.allclose(table.grad[b, c : c + len(e.ids)], torch.tensor(slopes(values)), rtol=0, atol=FLOAT32)
    assert (table.grad[~seen] == 0).all()


@fast
@given(EXAMPLES, st.integers(5, 12))
def test_packed_rows(drawn: list[list[tuple[int, bool]]], limit: int) -> None:
    examples = [SFTExample([t for t, _ in row], [flag for _, flag in row]) for row in drawn]
    rows = packed_rows(examples, limit)
    assert sorted(id(e) for row in rows for e in row) == sorted(map(id, examples))
    free = [limit - sum(len(e.ids) for e in row) for row in rows]
    assert min(free) >= 0
    # No row was begun with an example that had room in one before.
    assert all(max(len(e.ids) for e in row) > room for n, row in enumerate(rows) for room in free[:n])
    batch = collate(rows, pad_id=3)
    width = batch.input_ids.shape[1]
    for b, row in enumerate(rows):
        used = sum(len(e.ids) for e in row)
        assert batch.input_ids[b].tolist() == [t for e in row for t in e.ids] + [3] * (width - used)
    tokens, targets = batch.ragged()
    lengths = [len(e.ids) for row in rows for e in row]
    assert tokens.ids.tolist() == [t for row in rows for e in row for t in e.ids]
    assert tokens.positions.tolist() == formulas.packed_positions(lengths)
    flags = [flag and i > 0 for row in rows for e in row for i, flag in enumerate(e.is_response)]
    assert targets.tolist() == [i for i, flag in enumerate(flags) if flag]


@fast
@given(st.integers(1, 5), SEED, st.sampled_from([1.0, 0.7, 3.0]), st.floats(0, 1, exclude_max=True, width=32))
def test_sampling(size: int, seed: int, temperature: float, uniform: float) -> None:
    """Where the uniform number is not within rounding of a boundary, the token is the inverse of the cumulative."""
    logits = 2 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    probabilities = [math.exp(x.item()) for x in formulas.log_softmax(scalars(logits), temperature)]
    boundaries = torch.tensor(probabilities).cumsum(0)[:-1]
    if len(boundaries) and (boundaries - uniform).abs().min() < 1e-6:
        return
    token = sample(logits.unsqueeze(0), temperature, torch.tensor([uniform]))
    assert token.tolist() == [formulas.inverse_cdf(probabilities, min(uniform, 1 - 1e-9))]


def test_a_token_without_probability_is_never_drawn() -> None:
    """Neither by 0, nor by a number beyond a total that rounding has left below 1."""
    inf = math.inf
    assert sample(torch.tensor([[-inf, 0.0]]), 1.0, torch.zeros(1)).tolist() == [1]
    uniform = 1 - 2.0**-24
    for seed in range(100):  # until a total is too small; which one it is depends on the order of sums
        logits = torch.randn(2000, generator=torch.Generator().manual_seed(seed))
        logits[-1] = -inf
        if logits.softmax(-1).cumsum(-1)[-1] < uniform:
            break
    assert seed < 99
    assert int(sample(logits.unsqueeze(0), 1.0, torch.tensor([uniform]))) < 1999


@fast
@given(
    st.sampled_from(["cosine", "constant"]),
    st.sampled_from([0.0, 0.25, 1.0, 3.0, 200.0]),
    st.sampled_from([0.1, 0.0, 1.0]),
    st.sampled_from([0.1, 0.0]),
    st.integers(4, 50),
)
def test_schedule(name: Any, warmup: float, start: float, final: float, total: int) -> None:
    factor = lr_factor(ScheduleSettings(name, warmup, start, final), total)
    for step in range(total + 2):
        expected = formulas.learning_rate(step, name, warmup, start, final, total)
        assert factor(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "warmup", "needed"),
    [("cosine", 0, True), ("cosine", 5, True), ("constant", 0, False), ("constant", 0.5, True), ("constant", 1, False)],
)
def test_which_schedules_need_the_length_of_the_run(name: Any, warmup: float, needed: bool) -> None:
    settings = ScheduleSettings(name, warmup=warmup)
    assert settings.needs_length == needed
    rates = [[lr_factor(settings, total)(step) for step in range(9)] for total in (8, 80)]
    assert (rates[0] != rates[1]) == needed
