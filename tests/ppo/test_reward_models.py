"""Reward models that are not the policy's: another size, another tokenizer, several of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_lightning.artefacts import Source, open_source, read_info
from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.module import PPOModule
from rlhf_lightning.ppo.prompts import PromptRow
from rlhf_lightning.ppo.reward_terms import RewardTerm
from rlhf_lightning.ppo.rollout import Rollout
from rlhf_lightning.ppo.scoring import score_rollout
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.text_reward_models import RewardReader
from tests.conftest import TinyRuns
from tests.ppo.test_ppo_run import data, trainer

FORMAT = "Question {prompt} Answer "
PROMPTS = ["What does a cat eat?", "Where does a dog sleep?", "Why?"]
RESPONSES = ["Seeds and hay.", "Here", "I do not know"]


def pairs_tokenizer() -> Any:
    """Bytes and pairs of letters, in another order than the tiny model's, without a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "t"), ("e", "s"), ("h", "e"), ("o", "w")]
    vocab = {t: i for i, t in enumerate([*letters, *(a + b for a, b in merges), "<pad>", "<eos>"])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True) for t in ("<pad>", "<eos>")])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def write_model(directory: Path, tokenizer: Any, hidden: int = 32) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def foreign(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward artefact of another size and with another tokenizer and prompt format."""
    base = write_model(tmp_path_factory.mktemp("foreign"), pairs_tokenizer())
    settings = ("--model.init_args.init_from", base, "--model.init_args.prompt_format", FORMAT)
    # A directory of each module that uses this fixture.
    return str(tiny.run("reward", f"{Path(base).name}/foreign_reward", *settings, "--trainer.max_epochs", "1"))


@pytest.fixture(scope="module")
def larger(tiny: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward artefact of another size, with the policy's tokenizer and chat template."""
    from rlhf_lightning.models.tiny import tokenizer

    base = write_model(tmp_path_factory.mktemp("larger"), tokenizer(), hidden=96)
    return str(tiny.run("reward", "larger_reward", "--model.init_args.init_from", base, "--trainer.max_epochs", "1"))


def rollout(ppo: PPOModule, ended: list[bool]) -> Rollout:
    """The texts as the policy's tokens; a response that ended has its EOS."""
    from rlhf_lightning.datamodule import pad

    prompts = [ppo.template.encode_prompt(p) for p in PROMPTS]
    responses = [ppo.template.encode_response(r)[: None if e else -1] for r, e in zip(RESPONSES, ended, strict=True)]
    masks = pad([[True] * len(r) for r in responses], False)
    return Rollout(
        pad(prompts, 0, left=True),
        pad([[True] * len(p) for p in prompts], False, left=True),
        pad(responses, 0),
        masks,
        ~torch.tensor(ended),
        torch.zeros(masks.shape),
    )


def scores(ppo: PPOModule, ended: list[bool], name: str | None = None) -> torch.Tensor:
    rows = [PromptRow(p) for p in PROMPTS]
    scored = score_rollout(ppo.roles, rollout(ppo, ended), 1.0, 64, rewards=ppo.rewards.of(rows))
    return scored.scores if name is None else scored.rewards[name]


def made(tiny: TinyRuns, reward_from: str | None, reward: Any = None, build: bool = True, **settings: Any) -> PPOModule:
    sampling = SamplingSettings(max_response_tokens=10)
    ppo = PPOModule(
        str(tiny.root / "sft"), reward_from, reward=reward, sampling=sampling, num_minibatches=2, seed=3, **settings
    )
    if build:
        ppo.configure_model()
        ppo.eval()
    return ppo


def plain_scores(artefact: str, ended: list[bool]) -> list[float]:
    """By transformers and PEFT alone, one text at a time."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final = Path(artefact) / "final"
    tokenizer: Any = AutoTokenizer.from_pretrained(final)
    base: Any = AutoModelForCausalLM.from_pretrained(read_info(final, "").base_model)
    model: Any = PeftModel.from_pretrained(base, str(final)).eval()
    head = load_file(final / "scalar_head.safetensors")
    out = []
    for prompt, response, end in zip(PROMPTS, RESPONSES, ended, strict=True):
        ids = tokenizer(FORMAT.replace("{prompt}", prompt))["input_ids"] + tokenizer(response)["input_ids"]
        ids += [tokenizer.eos_token_id] if end else []
        with torch.no_grad():
            hidden = model.base_model.model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        out.append(float(hidden @ head["weight"] + head["bias"]))
    return out


@pytest.mark.parametrize("lora", [True, False])
def test_a_foreign_reward_model_reads_text_with_its_own_template(tiny: TinyRuns, foreign: str, lora: bool) -> None:
    ppo = made(tiny, None, [RewardTerm(reward_from=foreign, name="rm")], **({} if lora else {"lora": None}))
    for ended in ([True, True, True], [True, False, True]):
        assert scores(ppo, ended).tolist() == pytest.approx(plain_scores(foreign, ended), abs=1e-5)
    assert plain_scores(foreign, [True] * 3)[1] != pytest.approx(plain_scores(foreign, [False] * 3)[1], abs=1e-3)
    assert not [n for n in ppo.trainable() if "text_reward" in n]


def test_the_tokens_of_a_forward_change_no_score(tiny: TinyRuns, foreign: str) -> None:
    ppo = made(tiny, None, [RewardTerm(reward_from=foreign)])
    whole = scores(ppo, [True] * 3)
    for scorer in ppo.rewards._scorers:
        scorer.micro_batch_tokens = 1  # type: ignore[union-attr]
    assert torch.allclose(whole, scores(ppo, [True] * 3), atol=1e-6)


def test_a_second_model_on_the_policys_base_takes_no_weights_of_its_own(tiny: TinyRuns) -> None:
    """Through text or token ids, the same model gives the same scores where text and ids are one."""
    reward = str(tiny.root / "reward")
    ppo = made(tiny, reward, [RewardTerm(reward_from=reward, name="again", weight=0.5)])
    assert len([n for n, _ in ppo.named_parameters() if "embed_tokens" in n]) == 1
    for ended in ([True, True, True], [False, True, False]):
        through_text, by_ids = scores(ppo, ended, "again"), scores(ppo, ended, "model")
        assert torch.allclose(through_text, by_ids, atol=1e-5)
        assert torch.allclose(scores(ppo, ended), 1.5 * by_ids, atol=1e-5)


def test_a_reward_model_of_another_size_gives_value_its_base(tiny: TinyRuns, larger: str, tmp_path: Path) -> None:
    ppo = made(tiny, larger)
    roles = ppo.roles
    assert roles.backbone("reward") is roles.backbone("value") is not roles.backbone("policy")
    assert (roles.backbone("policy").hidden_size, roles.value_head.weight.shape) == (64, (96,))
    assert torch.equal(roles.value_head.weight, roles.reward_head.weight)  # type: ignore[union-attr]
    values = {n: p.clone() for n, p in ppo.trainable().items()}
    trainer(tmp_path, max_epochs=1).fit(ppo, datamodule=data())
    changed = {n for n, p in ppo.trainable().items() if not torch.equal(p, values[n])}
    assert any(".value." in n for n in changed)
    assert any(".policy." in n for n in changed)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_with_a_foreign_reward_model(tiny: TinyRuns, foreign: str, tmp_path: Path, precision: str) -> None:
    ppo = made(tiny, None, [RewardTerm(reward_from=foreign)], build=False)
    run = trainer(tmp_path, max_epochs=1, precision=precision)
    run.fit(ppo, datamodule=data())
    found = run.callback_metrics
    assert found["rollout/reward/foreign_reward"] == pytest.approx(found["rollout/score_mean"])
    assert {p.name for p in (tmp_path / "final").iterdir()} >= {"adapter_model.safetensors", "stage.json"}


def test_the_models_are_part_of_a_runs_identity(tiny: TinyRuns, foreign: str) -> None:
    ppo = PPOModule(str(tiny.root / "sft"), reward=[RewardTerm(reward_from=foreign)])
    assert ppo.source_fingerprints().keys() == {"model.init_args.policy_from", "model.init_args.reward[0].reward_from"}
    assert ppo.arguments["reward"] == {"foreign_reward": {"weight": 1.0}}


# -- what it cannot read --------------------------------------------------------------------------------------


def reader(tiny: TinyRuns, tmp_path: Path, tokenizer: Any) -> RewardReader:
    tokenizer.save_pretrained(tmp_path)
    source: Source = replace(open_source(str(tiny.root / "reward"), ""), tokenizer=str(tmp_path))
    return RewardReader(source, "model.init_args.reward[0].reward_from")


def words(known: list[str], unknown: str | None = "<unk>") -> Any:
    """A tokenizer of whole words; others are unknown, or, without a token for that, nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {t: i for i, t in enumerate(["<pad>", "<eos>", *([unknown] if unknown else []), *known])}
    model: Any = models.WordLevel(vocab, unk_token=unknown) if unknown else models.BPE(vocab, [])
    core = Tokenizer(model)
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token=unknown)


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (lambda: words(["cat", "eats"]), r"1 of its 2 tokens are unknown \(<unk>\)"),
        (lambda: words(["x", "y"], None), "it gives no tokens"),
    ],
)
def test_text_that_its_tokenizer_cannot_encode(
    tiny: TinyRuns, tmp_path: Path, tokenizer: Callable[[], Any], said: str
) -> None:
    unable = reader(tiny, tmp_path, tokenizer())
    known = "cat eats" if unable.template.tokenizer.unk_token else "x y"
    assert unable.sequence(known, known, True)
    assert unable.sequence(known, "", False) == unable.prompt(known)
    with pytest.raises(UserError, match=f"cannot encode the prompt 'cat sleeps': {said}"):
        unable.prompt("cat sleeps")
    with pytest.raises(UserError, match=f"cannot encode the response 'cat sleeps' to '{known}': {said}"):
        unable.sequence(known, "cat sleeps", True)


def test_a_text_may_write_the_unknown_token_itself(tiny: TinyRuns, tmp_path: Path) -> None:
    assert reader(tiny, tmp_path, words(["cat"])).prompt("cat <unk>")


def test_text_longer_than_its_context(tiny: TinyRuns, foreign: str) -> None:
    short = RewardReader(open_source(foreign, ""), "model.init_args.reward[0].reward_from")
    assert short.prompt("x" * (256 - 16))
    with pytest.raises(UserError, match=r"the prompt 'xxx.* has 257 tokens .* context length is 256. Lower data"):
        short.prompt("x" * (257 - 16))
    with pytest.raises(UserError, match=r"the response 'y' to 'xxx.* has 257 tokens"):
        short.sequence("x" * (255 - 16), "y", True)


def test_an_unreadable_prompt_is_found_before_training(tiny: TinyRuns, foreign: str, tmp_path: Path) -> None:
    ppo = made(tiny, None, [RewardTerm(reward_from=foreign)], build=False)
    scorer: Any = ppo.rewards._scorers[0]
    words(["cat"]).save_pretrained(tmp_path)
    scorer.reader = RewardReader(replace(scorer.reader.source, tokenizer=str(tmp_path)), scorer.reader.key)
    with pytest.raises(UserError, match=r"prompts.jsonl:1: .*reward_from: .* cannot encode the prompt"):
        trainer(tmp_path).fit(ppo, datamodule=data())
