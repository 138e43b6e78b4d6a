"""How an iteration's experience is cut into optimizer steps and micro-batches."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from rlhf_lightning.ppo.buffer import Experience, MicroBatch, UpdatePlan
from rlhf_lightning.ppo.rollout import Rollout

PROMPTS, RESPONSES = [3, 1, 2], [1, 4, 2]


def experience() -> Experience:
    """Three rows; every number says which row and column it is from."""
    width_p, width_r = max(PROMPTS), max(RESPONSES)
    prompt_mask = torch.tensor([[t >= width_p - n for t in range(width_p)] for n in PROMPTS])
    response_mask = torch.tensor([[t < n for t in range(width_r)] for n in RESPONSES])
    place = 10 * torch.arange(3).unsqueeze(1) + torch.arange(width_r)
    numbers = [torch.where(response_mask, place + 100.0 * k, 0.0) for k in range(5)]
    prompt_ids = 10 * torch.arange(3).unsqueeze(1) + torch.arange(width_p)
    rollout = Rollout(prompt_ids, prompt_mask, place, response_mask, torch.tensor([False, True, False]), place / 10)
    return Experience(rollout, *numbers)


@pytest.mark.parametrize(("rows", "epochs", "minibatches", "accumulate"), [(12, 1, 3, 2), (13, 3, 4, 1), (5, 2, 1, 5)])
def test_every_epoch_takes_every_row_once(rows: int, epochs: int, minibatches: int, accumulate: int) -> None:
    plan = UpdatePlan(rows, epochs, minibatches, accumulate)
    steps = plan.order(seed=1, iteration=0, own=list(range(rows)))
    assert len(steps) == epochs * minibatches
    assert all(len(step) == accumulate for step in steps)
    assert len(plan) == sum(map(len, steps))
    orders = []
    for epoch in range(epochs):
        own = steps[epoch * minibatches : (epoch + 1) * minibatches]
        orders.append([int(row) for step in own for part in step for row in part])
        assert sorted(orders[-1]) == list(range(rows))
        sizes = [sum(map(len, step)) for step in own]
        assert max(sizes) - min(sizes) <= 1
    assert len(set(map(tuple, orders))) == epochs  # shuffled anew


def test_order_depends_on_seed_and_iteration_alone() -> None:
    plan = UpdatePlan(20, 1, 2, 1)

    def order(seed: int, iteration: int) -> list[int]:
        return torch.cat([part for step in plan.order(seed, iteration, list(range(20))) for part in step]).tolist()

    torch.manual_seed(0)
    first = order(1, 0)
    torch.manual_seed(1)
    assert order(1, 0) == first
    assert first != list(range(20))
    assert len({tuple(order(*key)) for key in [(1, 0), (2, 0), (1, 1)]}) == 3


@pytest.mark.parametrize(("rows", "epochs", "minibatches", "world_size"), [(12, 1, 3, 2), (12, 3, 4, 3), (4, 2, 4, 2)])
def test_processes_make_the_minibatches_of_one(rows: int, epochs: int, minibatches: int, world_size: int) -> None:
    plan = UpdatePlan(rows, epochs, minibatches, 1)
    own = [plan.own_rows(1, 0, rank, world_size) for rank in range(world_size)]
    assert sorted(row for part in own for row in part) == list(range(rows))
    alone = plan.order(1, 0, plan.own_rows(1, 0))
    shares = [plan.order(1, 0, part) for part in own]
    for step, (whole,) in enumerate(alone):
        parts = [[own[r][i] for i in shares[r][step][0].tolist()] for r in range(world_size)]
        assert sorted(row for part in parts for row in part) == sorted(whole.tolist())
        if step < minibatches:  # evenly in the first epoch; later a process may have none
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_silent_row_has_no_valid_token() -> None:
    assert not experience().silent_row().rollout.response_mask.any()


def test_rows_are_trimmed_to_their_own_longest_prompt_and_response() -> None:
    part = experience().rows(torch.tensor([2, 0]))
    assert part.rollout.prompt_ids.tolist() == [[20, 21, 22], [0, 1, 2]]
    assert part.rollout.response_ids.tolist() == [[20, 21], [0, 1]]
    assert part.rollout.response_mask.tolist() == [[True, True], [True, False]]
    assert part.values.tolist() == [[120.0, 121.0], [100.0, 0.0]]
    assert part.returns.tolist() == [[320.0, 321.0], [300.0, 0.0]]
    one = experience().rows(torch.tensor([1]))
    assert one.rollout.prompt_ids.tolist() == [[12]]
    assert one.rollout.prompt_mask.tolist() == [[True]]
    assert one.rollout.truncated.tolist() == [True]
    assert one.advantages.tolist() == [[210.0, 211.0, 212.0, 213.0]]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(100, [[1, 0, 2]]), (9, [[1, 0], [2]]), (8, [[1], [0, 2]]), (5, [[1], [0], [2]]), (1, [[1], [0], [2]])],
)
def test_parts_hold_rows_of_similar_length_and_the_tokens_of_the_step(limit: int, expected: list[list[int]]) -> None:
    """Rows of 4, 5 and 4 tokens, longest first; a part's loss is a share of the same step."""
    parts = list(MicroBatch(experience(), 7.0).parts(limit))
    assert [(part.experience.rollout.response_ids[:, 0] // 10).tolist() for part in parts] == expected
    assert [part.num_tokens for part in parts] == [7.0] * len(expected)
    for part, rows in zip(parts, expected, strict=True):
        assert part.experience.rollout.response_ids.shape[1] == max(RESPONSES[r] for r in rows)
        assert part.experience.returns[:, 0].tolist() == [300.0 + 10 * r for r in rows]


def test_state_holds_everything() -> None:
    before = experience()
    after = MicroBatch(before, 7.0).to(torch.device("cpu")).experience
    for name in (f.name for f in fields(Experience)[1:]):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    for name in (f.name for f in fields(Rollout)):
        assert torch.equal(getattr(after.rollout, name), getattr(before.rollout, name)), name
    assert len(before.state()) == len(fields(Rollout)) + len(fields(Experience)) - 1
