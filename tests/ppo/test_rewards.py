"""Python functions as rewards, their weighted sum, and what they start a value function from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlhf_lightning.data.kinds import Message
from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.guard import NonFiniteError
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptDataModule, PromptItem, PromptRow, collate_prompts
from rlhf_lightning.ppo.reward_functions import FunctionReward
from rlhf_lightning.ppo.reward_sum import Rewards
from rlhf_lightning.ppo.reward_terms import RewardTerm, describe, named_terms
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.scoring import ScoredRollout, score_rollout
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.schedule import OptimizerSettings, ScheduleSettings
from rlhf_lightning.text_reward_models import RewardError, failing_together
from tests.conftest import TinyRuns
from tests.ppo.reward_examples import Brevity, FailsWhere, letters, same_start
from tests.ppo.test_ppo_run import data, module, trainer

ROWS = [PromptRow("one", {"category": "a"}), PromptRow("two", {"id": "7"}), PromptRow("three")]


def reward(function: Any, batch_size: int = 2) -> FunctionReward:
    return FunctionReward(function, "model.init_args.reward", "mine", batch_size)


def score(function: Any, responses: Sequence[str] = ("x", "yy", "z"), batch_size: int = 2) -> list[float]:
    return reward(function, batch_size).score(ROWS, responses, [True] * 3, lambda done: None)


def test_a_function_is_called_in_batches_with_texts_and_rows() -> None:
    calls: list[Any] = []
    done: list[int] = []

    def function(prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[int]:
        calls.append((prompts, responses, rows))
        return [len(r) for r in responses]

    assert reward(function).score(ROWS, ["x", "yy", "z"], [True] * 3, done.append) == [1.0, 2.0, 1.0]
    assert calls == [(["one", "two"], ["x", "yy"], [{"category": "a"}, {"id": "7"}]), (["three"], ["z"], [{}])]
    assert done == [2, 1]


class Network(nn.Module):
    """Whose own call takes any arguments, but not its forward."""

    def forward(self, prompts: Sequence[str], responses: Sequence[str]) -> torch.Tensor:
        return torch.tensor([float(len(r)) for r in responses])


class Sized(Brevity):
    """Whose truth is that of its length."""

    def __len__(self) -> int:
        return 0


def test_a_torch_module_gets_what_its_forward_takes() -> None:
    assert score(Network()) == [1.0, 2.0, 1.0]


def test_an_object_that_counts_as_false_is_a_reward_all_the_same() -> None:
    (term,) = named_terms(Sized(), has_model=False, weight=1.0)
    assert isinstance(term.function, Sized)


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2.0, True],
        (1, 2, 1),
        np.array([1, 2, 1], dtype=np.float32),
        torch.tensor([1.0, 2.0, 1.0], requires_grad=True),
        [torch.tensor(1.0), np.float64(2), np.int64(1)],
    ],
)
def test_lists_arrays_and_tensors_of_numbers_will_do(returned: Any) -> None:
    assert score(lambda prompts, responses: returned, batch_size=3) == [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("raise", ["raised KeyError: 'no such thing' (reward_examples.py, line "]),
        ("nan", ["returned nan, which is not finite"]),
        ("inf", ["returned inf, which is not finite"]),
        ("huge", ["which is not finite"]),
        ("text", ["returned 'good' (str), which is no number"]),
        ("none", ["returned None (NoneType), which is no number"]),
        ("vector", ["returned [1.0] (list), which is no number"]),
        ("short", ["returned 0 numbers for 1 responses"]),
    ],
)
def test_a_failure_names_the_prompt_and_response_that_broke_it(tmp_path: Path, how: str, parts: list[str]) -> None:
    (tmp_path / "broken").touch()
    with pytest.raises(RewardError) as failure:
        score(FailsWhere(str(tmp_path / "broken"), "two", how))
    message = str(failure.value)
    for part in [*parts, "model.init_args.reward: the reward 'mine'", "prompt 'two'", "response 'yy'", "--ckpt_path"]:
        assert part in message
    assert "\n" not in message
    assert len(message) < 480


@pytest.mark.parametrize(
    ("returned", "said"),
    [(3.0, "a float and not"), ("abc", "a str and not"), ({0: 1}, "a dict"), (None, "a NoneType"), (iter([1]), "iter")],
)
def test_what_is_no_list_is_refused(returned: Any, said: str) -> None:
    with pytest.raises(RewardError, match=said):
        score(lambda prompts, responses: returned)


def test_a_failure_that_no_row_shows_alone_names_the_first() -> None:
    def function(prompts: list[str], responses: list[str]) -> list[float]:
        if len(prompts) > 1:
            raise RuntimeError("too many\nat once")
        return [0.0]

    with pytest.raises(RewardError, match=r"RuntimeError: too many at once .*'one' and the response 'x', first of 2"):
        score(function)


def test_long_texts_are_shortened() -> None:
    with pytest.raises(RewardError) as failure:
        score(lambda prompts, responses: [float("nan")] * 2, ["y" * 10_000, "", ""])
    assert len(str(failure.value)) < 480
    assert "yyy'..." in str(failure.value)


@pytest.mark.parametrize("function", [lambda prompts: [], lambda a, b, c: [], lambda a, b, *, strict: []])
def test_a_function_of_other_arguments_is_refused_before_it_is_called(function: Any) -> None:
    with pytest.raises(UserError, match=r"cannot be called as reward\(prompts, responses\)"):
        reward(function)


# -- sums ---------------------------------------------------------------------------------------------------


def rollout(responses: Sequence[Sequence[int]], truncated: Sequence[bool] | None = None) -> Rollout:
    width = max(map(len, responses))
    ids = torch.tensor([[*r, *[9] * (width - len(r))] for r in responses])
    mask = torch.tensor([[True] * len(r) + [False] * (width - len(r)) for r in responses])
    cut = torch.tensor(truncated or [False] * len(responses))
    ones = torch.ones(len(responses), 1, dtype=torch.long)
    return Rollout(ones, ones.bool(), ids, mask, cut, torch.zeros(mask.shape))


def text(ids: Sequence[int]) -> str:
    return "".join(chr(96 + i) for i in ids)


def test_the_sum_is_weighted_and_each_reward_is_there() -> None:
    terms = [RewardTerm(lambda prompts, responses: [len(r) for r in responses], name="length", weight=-0.5)]
    terms += [RewardTerm(lambda prompts, responses: [r.count("a") for r in responses], name="as", weight=2.0)]
    rewards = Rewards(terms, True, 3.0, text, 64)
    progress: list[tuple[str, int]] = []
    add = rewards.of(ROWS, lambda *args: progress.append(args))
    assert add is not None
    total, parts = add(rollout([[1, 1], [2], [3, 1, 4]]), torch.tensor([0.1, 0.2, 0.3]))
    # lengths 2, 1, 3; a's 2, 0, 1
    assert {name: values.tolist() for name, values in parts.items()} == {
        "model": pytest.approx([0.1, 0.2, 0.3]),
        "length": [2.0, 1.0, 3.0],
        "as": [2.0, 0.0, 1.0],
    }
    assert total.tolist() == pytest.approx([0.3 - 1.0 + 4.0, 0.6 - 0.5, 0.9 - 1.5 + 2.0])
    assert progress == [("reward length", 3), ("reward as", 3)]


def test_a_reward_model_alone_is_left_as_it_is() -> None:
    assert Rewards(None, True, 1.0, text, 64).of(ROWS) is None
    assert Rewards(None, True, 2.0, text, 64).of(ROWS) is not None


@pytest.mark.parametrize(
    ("reward", "model", "weight", "said"),
    [
        (None, False, 1.0, "reward_from is missing, and so is model.init_args.reward"),
        ([], False, 1.0, "there is nothing to optimize"),
        (None, True, 0.0, "every reward has weight 0"),
        ([RewardTerm(letters, weight=0.0)], False, 1.0, "every reward has weight 0"),
        (None, True, float("nan"), "model.init_args.reward_weight is nan"),
        ([RewardTerm(letters, weight=float("inf"))], True, 1.0, r"reward\[0\].weight is inf"),
        ([RewardTerm(letters, batch_size=0)], True, 1.0, r"reward\[0\].batch_size is 0"),
        ([RewardTerm(letters), RewardTerm(letters)], True, 1.0, r"reward\[1\]: the name 'letters' is that of .*\[0\]"),
        ([RewardTerm(letters, name="model")], True, 1.0, r"reward\[0\]: the name 'model' is that of .*reward_from"),
        ([RewardTerm(letters, name="a/b")], True, 1.0, r"reward\[0\].name is 'a/b'"),
        ([RewardTerm()], True, 1.0, r"reward\[0\]: give either `function` or `reward_from`"),
        ([RewardTerm(letters, "x")], True, 1.0, r"reward\[0\]: give either `function` or `reward_from`"),
        ([RewardTerm(reward_from="nowhere")], True, 1.0, r"reward\[0\].reward_from: 'nowhere' is not a reward model"),
    ],
)
def test_settings_that_cannot_be(reward: Any, model: bool, weight: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Rewards(reward, model, weight, text, 64)


def test_the_same_function_twice_under_two_names() -> None:
    rewards = Rewards([RewardTerm(letters), RewardTerm(letters, name="again", weight=0)], False, 1.0, text, 64)
    assert [t.name for t in rewards.terms] == ["letters", "again"]


def test_from_python_a_term_or_functions_will_do() -> None:
    alone: Any = RewardTerm(letters, weight=2.0)
    assert [(t.name, t.weight, t.key) for t in Rewards(alone, False, 1.0, text, 64).terms] == [
        ("letters", 2.0, "model.init_args.reward")
    ]
    functions: Any = [letters, Brevity(3)]
    assert [t.name for t in Rewards(functions, False, 1.0, text, 64).terms] == ["letters", "Brevity"]
    wrong: Any = ["letters"]
    with pytest.raises(UserError, match=r"reward\[0\].function is a str, which cannot be called"):
        Rewards(wrong, False, 1.0, text, 64)


def test_a_failure_elsewhere_ends_this_process_too() -> None:
    def strategy(decide: Callable[[bool], bool]) -> Any:
        return SimpleNamespace(reduce_boolean_decision=lambda own, all: decide(own))

    with pytest.raises(RewardError, match="another process"), failing_together(strategy(lambda own: True)):
        pass
    with pytest.raises(RewardError, match="mine"), failing_together(strategy(lambda own: own)):
        raise RewardError("mine")
    with failing_together(strategy(lambda own: own)):
        pass


class Poisoned(PPOModule):
    """Scores a response by a number that is none."""

    def score(self, *args: Any, **kwargs: Any) -> ScoredRollout:
        scored = super().score(*args, **kwargs)
        scored.scores[1] = float("nan")
        return scored


def test_a_number_that_is_not_finite_ends_all_processes(
    tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked before one of them raises; the others would wait for its advantages."""
    run, asked = trainer(tmp_path), list[bool]()
    monkeypatch.setattr(run.strategy, "reduce_boolean_decision", lambda own, all: asked.append(own) or own)
    with pytest.raises(NonFiniteError, match="The score of 1 of 8 responses is not finite"):
        run.fit(module(tiny, Poisoned), datamodule=data())
    assert asked[-1] is True


# -- identity -----------------------------------------------------------------------------------------------


def test_a_reward_is_described_without_addresses_and_counters() -> None:
    assert describe(letters) == "tests.ppo.reward_examples.letters"
    brief = Brevity(5)
    brief([], [], [])
    assert describe(brief) == {
        "class_path": "tests.ppo.reward_examples.Brevity",
        "attributes": {"characters": 5, "scale": 1.0},
    }
    assert describe(partial(same_start, prompts=[])) == {
        "partial": "tests.ppo.reward_examples.same_start",
        "args": [[["prompts", []]]],
    }
    assert "0x" not in str(describe(Brevity(object())))  # type: ignore[arg-type]
    assert describe(Brevity(5)) != describe(Brevity(6))
    long = describe(Brevity(["word"] * 10_000))  # type: ignore[arg-type]
    assert len(str(long)) < 300


def test_a_set_is_described_alike_in_every_process() -> None:
    imports = "from rlhf_lightning.ppo.reward_terms import describe; from tests.ppo.reward_examples import Brevity"
    code = f"{imports}; print(describe(Brevity({{'a', 'b', 'c', 'dd', 'e'}}))['attributes']['characters'])"
    printed = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        printed.add(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).stdout)
    assert printed == {b"['a', 'b', 'c', 'dd', 'e']\n"}


def test_prompts_keep_the_fields_of_their_rows() -> None:
    chat = (Message("system", "s"), Message("user", "u"))
    item = PromptItem([1, 2], "tëxt", PromptRow(chat, {"n": 1, "flags": ["x"], "deep": {"a": None}}))
    back = PromptItem.unpacked(item.packed())
    assert (back.ids, back.text) == (item.ids, item.text)
    assert back.row is not None
    assert (back.row.prompt, back.row.fields) == (chat, {"n": 1, "flags": ["x"], "deep": {"a": None}})
    assert PromptItem.unpacked(PromptItem([], "").packed()) == PromptItem([], "")
    batch = collate_prompts([item, PromptItem([3], "plain")], 0).to(torch.device("cpu"))
    assert [row.prompt for row in batch.given] == [chat, "plain"]


# -- in a run -----------------------------------------------------------------------------------------------


def without_model(tiny: TinyRuns, reward: Any, cls: type[PPOModule] = PPOModule, **overrides: Any) -> Any:
    settings: dict[str, Any] = {
        "optimizer": OptimizerSettings(lr=1e-2),
        "schedule": ScheduleSettings("constant"),
        "sampling": SamplingSettings(max_response_tokens=10),
        "num_minibatches": 2,
        "seed": 3,
    }
    return cls(str(tiny.root / "sft"), reward=reward, **(settings | overrides))


@pytest.mark.parametrize("lora", [True, False])
def test_without_a_reward_model_values_start_at_zero_and_learn(tiny: TinyRuns, tmp_path: Path, lora: bool) -> None:
    ppo = without_model(tiny, letters, **({} if lora else {"lora": None}))
    ppo.configure_model()
    ppo.eval()
    sampled = rollout([[20, 21, 2], [22, 2]])
    with torch.no_grad():
        assert (ppo.roles.values(sampled) == 0).all()
        assert (ppo.roles.score(sampled) == 0).all()
        value, policy = ppo.roles.backbone("value"), ppo.roles.backbone("policy")
    assert (value is policy) == lora
    parts = ppo.roles.trainable_parts()
    assert len(parts["value"]) == len(parts["policy"]) + 2
    trainer(tmp_path, max_epochs=2).fit(ppo, datamodule=data())
    with torch.no_grad():
        assert (ppo.roles.values(sampled)[sampled.response_mask] != 0).all()


def test_a_function_alone_is_learnt(tiny: TinyRuns, tmp_path: Path) -> None:
    """The random model writes letters a fifth of the time, and is taught to write more of them."""
    seen: list[float] = []

    class Noting(PPOModule):
        def on_train_epoch_end(self) -> None:
            seen.append(self.ppo_loop.metrics["rollout/score_mean"])
            assert self.ppo_loop.metrics["rollout/reward/letters"] == pytest.approx(seen[-1])

    free = {"missing_eos_penalty": 0.0, "kl_coef": 0.0, "lora": None, "optimizer": OptimizerSettings(lr=3e-3)}
    ppo = without_model(tiny, letters, Noting, **free)
    trainer(tmp_path, max_epochs=20).fit(ppo, datamodule=data(32))
    assert sum(seen[-3:]) / 3 > sum(seen[:3]) / 3 + 0.1, str(seen)


def test_metrics_of_each_reward_in_training_evaluation_and_prediction(tiny: TinyRuns, tmp_path: Path) -> None:
    terms = [RewardTerm(letters, weight=0.5), RewardTerm(Brevity(6), name="short", weight=0.1)]
    ppo = module(tiny, reward=terms)
    prompts = type(data())("configs/tiny/data/prompts.jsonl", "configs/tiny/data/prompts.jsonl", batch_size=8)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(ppo, datamodule=prompts)
    found = run.callback_metrics
    for split in ("rollout", "val"):
        parts = [found[f"{split}/reward/{name}"] for name in ("model", "letters", "short")]
        total = parts[0] + 0.5 * parts[1] + 0.1 * parts[2]
        assert found[f"{split}/score_mean"].item() == pytest.approx(total.item(), abs=1e-5)
    tested = trainer(tmp_path).test(ppo, datamodule=prompts, verbose=False)[0]
    assert {"test/reward/model", "test/reward/letters", "test/reward/short"} <= tested.keys()
    predicted = trainer(tmp_path).predict(ppo, datamodule=prompts)
    row = predicted[0][0]  # type: ignore[index]
    assert row["reward/letters"] == pytest.approx(letters([""], [row["response"]])[0])
    parts = row["reward/model"] + 0.5 * row["reward/letters"] + 0.1 * row["reward/short"]
    assert row["score"] == pytest.approx(parts, abs=1e-5)


def test_a_second_reward_of_weight_zero_changes_no_weight(tiny: TinyRuns, tmp_path: Path) -> None:
    ends = []
    for extra in (None, [RewardTerm(letters, weight=0.0)]):
        ppo = module(tiny, reward=extra)
        trainer(tmp_path / str(extra is None), max_epochs=2).fit(ppo, datamodule=data())
        ends.append(ppo.trainable())
    assert all(torch.equal(p, ends[1][n]) for n, p in ends[0].items())


def test_values_start_in_the_units_of_the_weighted_score(tiny: TinyRuns) -> None:
    plain, doubled = module(tiny), module(tiny, reward_weight=2.0)
    for ppo in (plain, doubled):
        ppo.configure_model()
        ppo.eval()
    sampled = rollout([[20, 21, 2], [22, 2], [2]])
    scored = [
        score_rollout(p.roles, sampled, 1.0, 64, rewards=p.rewards.of([PromptRow("")] * 3)) for p in (plain, doubled)
    ]
    assert torch.equal(scored[1].scores, 2 * scored[0].scores)
    assert torch.allclose(scored[1].values, 2 * scored[0].values, atol=1e-6)
    assert torch.equal(scored[1].rewards["model"], scored[0].scores)


def test_fields_of_the_rows_reach_a_function(tiny: TinyRuns, tmp_path: Path, jsonl: Callable[..., str]) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rows: list[dict[str, Any]] = [{"prompt": f"Question {i}?", "id": f"q{i}", "level": i} for i in range(7)]
    rows.append({"prompt": chat, "category": "chat", "flags": ["odd"]})
    seen: dict[str, dict[str, Any]] = {}

    def noting(prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[float]:
        seen.update(zip(prompts, rows, strict=True))
        return [0.0] * len(prompts)

    prompts = PromptDataModule(jsonl(rows), batch_size=8, max_prompt_tokens=128)
    trainer(tmp_path, max_epochs=1, precision="bf16-true").fit(without_model(tiny, noting), datamodule=prompts)
    assert len(seen) == 8
    assert seen["Question 3?"] == {"id": "q3", "level": 3}
    assert seen["System: Be brief.\n\nUser: Why?"] == {"category": "chat", "flags": ["odd"]}
