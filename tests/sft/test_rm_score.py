"""`val/rm_score`: which prompts, which responses, and whose scores."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.artefacts import read_info
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.building import ADAPTER
from rlhf_lightning.models.lora import LoraSettings
from rlhf_lightning.sft.data import DemonstrationDataModule
from rlhf_lightning.sft.module import SFTModule
from rlhf_lightning.sft.rm_score import Answer, RMScore
from rlhf_lightning.sft.selection import SelectionSettings
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import trainer
from tests.ppo.test_reward_models import FORMAT, foreign  # noqa: F401 (a fixture)

DEMONSTRATIONS = "configs/tiny/data/demonstrations.jsonl"


def made(root: Path, base: str, reward: str, lora: bool = True, val: str = DEMONSTRATIONS, **select: Any) -> SFTModule:
    """A module that has validated once."""
    settings = SelectionSettings(reward, **({"max_response_tokens": 7} | select))
    module = SFTModule(base, lora=LoraSettings(rank=4, alpha=8) if lora else None, select=settings, seed=2)
    data = DemonstrationDataModule(DEMONSTRATIONS, val, batch_size=8, max_prompt_tokens=128)
    trainer(root).validate(module, datamodule=data, verbose=False)
    return module


def answers(module: SFTModule, seed: int | None = None, rows: list[int] | None = None) -> list[Answer]:
    assert isinstance(module.rm_score, RMScore)
    adapter = ADAPTER if module.lora else None
    rows = list(range(len(module.rm_score.prompts))) if rows is None else rows
    seed = module.seed if seed is None else seed
    return module.rm_score.answers(module.backbone, adapter, module.template, seed, rows)


def plain_score(artefact: str, ids: list[int]) -> float:
    """By transformers and PEFT alone."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    final = Path(artefact) / "final"
    base: Any = AutoModelForCausalLM.from_pretrained(read_info(final, "").base_model)
    model: Any = PeftModel.from_pretrained(base, str(final)).eval()
    head = load_file(final / "scalar_head.safetensors")
    with torch.no_grad():
        hidden = model.base_model.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return float(hidden @ head["weight"] + head["bias"])


@pytest.mark.parametrize("lora", [True, False])
def test_scores_are_the_artefacts_and_responses_the_models(tiny: TinyRuns, tmp_path: Path, lora: bool) -> None:
    """Greedy responses are `generate`'s; their scores plain PEFT's; mean and error those of `statistics`."""
    module = made(tmp_path, str(tiny.root / "sft"), str(tiny.root / "reward"), lora, temperature=0.0, num_prompts=5)
    found, template = answers(module), module.template
    for answer in found[:3]:
        prompt = template.encode_prompt(answer.prompt)
        with module.backbone.using(ADAPTER if lora else None):
            out = module.backbone.lm.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=7,
                eos_token_id=template.eos_id,
                pad_token_id=template.tokenizer.pad_token_id,
            )[0, len(prompt) :].tolist()
        assert answer.response == template.decode(out)
        assert (answer.tokens, answer.ended) == (len(out), template.eos_id in out)
        read = prompt + template.encode_response(answer.response)[: None if answer.ended else -1]
        assert answer.score == pytest.approx(plain_score(str(tiny.root / "reward"), read), abs=1e-5)
    scores = [a.score for a in found]
    logged = {k: float(v) for k, v in module.trainer.callback_metrics.items()}
    assert logged["val/rm_score"] == pytest.approx(statistics.fmean(scores), abs=1e-6)
    assert logged["val/rm_score_se"] == pytest.approx(statistics.stdev(scores) / 5**0.5, abs=1e-6)
    assert logged["val/response_tokens"] == pytest.approx(statistics.fmean(a.tokens for a in found))
    assert logged["val/eos_rate"] == pytest.approx(statistics.fmean(a.ended for a in found))


def test_a_foreign_reward_model_reads_text(tiny: TinyRuns, foreign: str, tmp_path: Path) -> None:  # noqa: F811
    from transformers import AutoTokenizer

    module = made(tmp_path, str(tiny.root / "sft"), foreign, num_prompts=3)
    tokenizer: Any = AutoTokenizer.from_pretrained(Path(foreign) / "final")
    for answer in answers(module):
        ids = (
            tokenizer(FORMAT.replace("{prompt}", answer.prompt))["input_ids"] + tokenizer(answer.response)["input_ids"]
        )
        ids += [tokenizer.eos_token_id] if answer.ended else []
        assert answer.score == pytest.approx(plain_score(foreign, ids), abs=1e-5)


def test_a_text_that_is_too_long_for_the_reward_model_names_this_stages_keys(
    tiny: TinyRuns,
    foreign: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    module = made(tmp_path, str(tiny.root / "sft"), foreign, num_prompts=3)
    assert isinstance(module.rm_score, RMScore)
    with pytest.raises(UserError, match=r"context length is 256. Lower model.init_args.select.max_response_tokens or"):
        module.rm_score.reward_model.reader.sequence("Why?", "x" * 300, True)


def test_a_shared_base_is_loaded_once_and_nothing_of_the_reward_model_is_trained(
    tiny: TinyRuns, tmp_path: Path
) -> None:
    module = made(tmp_path, str(tiny.root / "sft"), str(tiny.root / "reward"))
    assert len([n for n, _ in module.named_parameters() if "embed_tokens" in n]) == 1
    assert not [n for n in module.trainable() if "reward" in n]
    full = made(tmp_path, str(tiny.root / "sft"), str(tiny.root / "reward"), lora=False)
    assert len([n for n, _ in full.named_parameters() if "embed_tokens" in n]) == 2
    assert not [n for n in full.trainable() if "reward" in n]


def test_random_numbers_belong_to_seed_and_prompt(tiny: TinyRuns, tmp_path: Path) -> None:
    module = made(tmp_path, str(tiny.root / "sft"), str(tiny.root / "reward"), batch_size=4)
    once = answers(module)
    assert once == answers(module)
    assert [a.response for a in answers(module, seed=3)] != [a.response for a in once]
    some = answers(module, rows=[1, 4, 9])
    assert [a.response for a in some] == [once[i].response for i in (1, 4, 9)]
    alone = [answers(module, rows=[i])[0].response for i in range(12)]
    assert alone == [a.response for a in once[:12]], "neither neighbours nor padding matter"
    assert len({a.response for a in once}) > 10, "prompts have numbers of their own"


def test_prompts_are_the_demonstrations_or_those_of_a_file(
    tiny: TinyRuns, tmp_path: Path, jsonl: Callable[..., str]
) -> None:
    reward = str(tiny.root / "reward")
    chat = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
    ]
    val = jsonl([{"messages": chat}, {"prompt": "What is it?", "response": "Hay."}], "val.jsonl")
    module = made(tmp_path, "embedded:tiny", reward, val=val)
    assert isinstance(module.rm_score, RMScore)
    turns, plain = (p.prompt for p in module.rm_score.prompts)
    assert [m.content for m in turns] == ["Hello.", "Yes?", "Why?"]  # type: ignore[union-attr]
    assert plain == "What is it?"
    given = jsonl([{"prompt": f"Number {i}?"} for i in range(30)], "prompts.jsonl")
    module = made(tmp_path, "embedded:tiny", reward, prompts=given, num_prompts=6)
    assert isinstance(module.rm_score, RMScore)
    chosen = [str(p.prompt) for p in module.rm_score.prompts]
    assert len(set(chosen)) == 6
    assert chosen != [f"Number {i}?" for i in range(6)], "drawn, not the first"
    assert chosen == sorted(chosen, key=lambda p: int(p[7:-1]))
