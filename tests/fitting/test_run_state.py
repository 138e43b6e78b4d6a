"""Registered state: saved with every checkpoint, given back on resume, plain by construction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.position import whole_steps
from rlhf_lightning.fitting.run_state import RunState


class Counter:
    def __init__(self) -> None:
        self.value: Any = 0

    def save(self) -> dict[str, Any]:
        return {"value": self.value}

    def load(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


def registered(*names: str, per_rank: bool = False) -> tuple[RunState, list[Counter]]:
    state, counters = RunState(), [Counter() for _ in names]
    for name, counter in zip(names, counters, strict=True):
        state.register(name, counter.save, counter.load, per_rank)
    return state, counters


@pytest.mark.parametrize("per_rank", [False, True])
def test_what_is_saved_comes_back(per_rank: bool) -> None:
    state, (one, two) = registered("one", "two", per_rank=per_rank)
    one.value, two.value = torch.arange(3), {"list": [1, None, "x", 0.5, True]}
    fresh, (first, second) = registered("one", "two", per_rank=per_rank)
    fresh.restore(state.state())
    assert torch.equal(first.value, torch.arange(3))
    assert second.value == two.value


def test_a_name_is_taken_once() -> None:
    state, _ = registered("one")
    with pytest.raises(ValueError, match="'one' is registered already"):
        state.register("one", dict, lambda _: None)


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), object(), {1, 2}, {"deep": [np.int64(3)]}])
def test_what_a_safe_load_would_refuse_is_refused_on_saving(value: Any) -> None:
    state, (counter,) = registered("one")
    counter.value = value
    with pytest.raises(TypeError, match=r"registered state 'one\.value"):
        state.state()


def test_another_number_of_processes_is_refused() -> None:
    state, _ = registered("one", per_rank=True)
    saved = state.state()
    saved["one"]["ranks"].append(saved["one"]["ranks"][0])
    with pytest.raises(UserError, match="written by 2 processes, this run has 1"):
        state.restore(saved)


def test_another_run_begins_as_the_first_did() -> None:
    state, (counter,) = registered("one")
    counter.value = {"list": [1]}
    first, second = Counter(), Counter()
    state.begin(first)
    counter.value["list"].append(2)
    state.begin(first)
    assert counter.value == {"list": [1, 2]}, "it goes on"
    state.begin(second)
    assert counter.value == {"list": [1]}


def test_gradients_that_wait_for_their_step_do_not_count() -> None:
    assert [whole_steps(n, 10, 4) for n in range(11)] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 10]
    assert whole_steps(0, 0, 4) == 0
