"""Log-likelihoods against a plain forward in float64, and continuations against transformers' own `generate`."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.language_model import LanguageModel
from rlhf_lightning.evaluation.opening import open_language_models
from tests.conftest import TinyRuns

PAIRS = [
    ("The cat sat on the", " mat"),
    ("The cat sat on the", " roof of the house"),
    ("Q: what is it?\nA: ", "a bird"),
    ("", "no context at all"),
    ("The cat sat on the", " m"),
    ("Another one that is rather longer than the others, so that batches differ", "."),
]


@pytest.fixture(scope="module")
def models(tiny: TinyRuns) -> dict[str, LanguageModel]:
    """A base and two artefacts, whose adapters sit on that base."""
    names = {"base": "embedded:tiny", "sft": str(tiny.root / "sft"), "ppo": str(tiny.root / "ppo")}
    return open_language_models(names)


def reference(model: LanguageModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Sum of log-probabilities and whether all are the largest, one token and one float64 forward at a time."""
    lm, total, greedy = model.backbone.lm.double(), 0.0, True
    with torch.no_grad(), model.backbone.using(model.adapter):
        for i, token in enumerate(continuation):
            ids = torch.tensor([context + continuation[:i]])
            row = lm(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].log_softmax(-1)
            total, greedy = total + float(row[token]), greedy and int(row.argmax()) == token
    lm.float()
    return total, greedy


@pytest.mark.parametrize("name", ["base", "sft", "ppo"])
def test_loglikelihoods_are_those_of_a_plain_forward(models: dict[str, LanguageModel], name: str) -> None:
    model = models[name]
    found = model.loglikelihood(PAIRS, with_greedy=True)
    for (context, continuation), one in zip(PAIRS, found, strict=True):
        bare = context.rstrip()
        before = list(bare.encode()) if bare else []
        after = (context + continuation)[len(bare) :] if bare else continuation
        encode = model.template.tokenizer
        ids = encode(bare)["input_ids"] if before else [model.start_id]
        total, greedy = reference(model, ids, encode(after)["input_ids"])
        assert one.logprob == pytest.approx(total, abs=2e-4)
        assert one.tokens == len(after.encode())  # a token a byte
        assert one.greedy == greedy
        assert not one.cut


def test_models_on_one_base_differ(models: dict[str, LanguageModel]) -> None:
    assert models["base"].backbone is models["sft"].backbone is models["ppo"].backbone
    values = [m.loglikelihood(PAIRS[:1])[0].logprob for m in models.values()]
    assert len({round(v, 3) for v in values}) == 3
    again = [m.loglikelihood(PAIRS[:1])[0].logprob for m in models.values()]
    assert values == again


def test_answers_do_not_depend_on_the_batch(models: dict[str, LanguageModel]) -> None:
    model = models["sft"]
    together = [x.logprob for x in model.loglikelihood(PAIRS)]
    alone = [model.loglikelihood([pair])[0].logprob for pair in PAIRS]
    assert together == pytest.approx(alone, abs=1e-4)
    small = LanguageModel("small", model.backbone, model.adapter, model.template, model.limits, max_batch_tokens=1)
    assert [x.logprob for x in small.loglikelihood(PAIRS)] == pytest.approx(alone, abs=1e-4)
    prompts = [context or "x" for context, _ in PAIRS]
    for temperature in (0.0, 1.0):
        texts = [c.text for c in model.generate(prompts, 12, temperature, rows=range(6))]
        backwards = model.generate(prompts[::-1], 12, temperature, rows=range(5, -1, -1))
        assert texts == [c.text for c in backwards[::-1]]
        assert texts == [c.text for c in small.generate(prompts, 12, temperature)]


def test_equal_prompts_are_sampled_apart(models: dict[str, LanguageModel]) -> None:
    samples = models["base"].generate(["A"] * 8, 12, temperature=1.0, stop=())
    assert len({s.text for s in samples}) > 4
    assert [s.text for s in samples] != [s.text for s in models["base"].generate(["A"] * 8, 12, 1.0, (), seed=1)]


@pytest.mark.parametrize("name", ["base", "sft"])
def test_greedy_continuations_are_those_of_generate(models: dict[str, LanguageModel], name: str) -> None:
    model = models[name]
    for prompt in ("The cat", "Write a word."):
        ids = torch.tensor([model.template.tokenizer(prompt)["input_ids"]])
        with torch.no_grad(), model.backbone.using(model.adapter):
            out = model.backbone.lm.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0
            )
        expected = model.template.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        (found,) = model.generate([prompt], 16, stop=())
        assert found.text == expected.strip()


def test_a_stop_string_ends_a_continuation_and_its_decoding(models: dict[str, LanguageModel]) -> None:
    model = models["base"]
    (whole,) = model.generate(["The cat"], 16, temperature=1.0, stop=())
    letters = [c for c in whole.text if c.isascii() and not c.isspace()]
    stop = letters[len(letters) // 2]
    (cut,) = model.generate(["The cat"], 16, temperature=1.0, stop=[stop])
    assert cut.text == whole.text.split(stop)[0].strip()
    assert cut.ended
    assert cut.tokens < 16
    pair = whole.text[3:5]  # no token holds two characters: it is cut afterwards
    (late,) = model.generate(["The cat"], 16, temperature=1.0, stop=[pair])
    assert late.text == whole.text.split(pair)[0].strip()


def test_text_is_read_in_windows(models: dict[str, LanguageModel]) -> None:
    model = models["base"]
    text = "One day a cat went out."
    ids = model.template.tokenizer(text)["input_ids"]
    found, other = model.text_nll([text, "x"], context_tokens=10)
    windows = [([model.start_id], ids[:10]), ([ids[9]], ids[10:20]), ([ids[19]], ids[20:])]
    assert found.logprob == pytest.approx(sum(reference(model, *w)[0] for w in windows), abs=2e-4)
    assert (found.tokens, other.tokens) == (len(ids), 1)
    (whole,) = model.text_nll([text])
    assert whole.logprob == pytest.approx(reference(model, [model.start_id], ids)[0], abs=2e-4)


def test_what_is_too_long_loses_its_beginning_and_says_so(models: dict[str, LanguageModel]) -> None:
    model = models["base"]
    limit = model.limits.context
    assert limit is not None
    long = "abcdefghij" * (limit // 10 + 3)
    long_pair, short_pair = model.loglikelihood([(long, " end"), (long[-(limit - 3) :], " end")])
    assert (long_pair.cut, short_pair.cut) == (True, False)
    assert long_pair.logprob == pytest.approx(short_pair.logprob, abs=1e-3)
    long_one, short_one = model.generate([long, long[-(limit - 8) :]], 8)
    assert (long_one.cut, short_one.cut) == (True, False)
    assert long_one.text == short_one.text
    with pytest.raises(UserError, match=r"max_tokens is 512, which leaves no room"):
        model.generate(["a"], limit)


def test_chat_goes_through_the_template(models: dict[str, LanguageModel]) -> None:
    model = models["sft"]
    (chat,) = model.loglikelihood([("Hello", "Hi")], chat=True)
    total, _ = reference(model, model.template.encode_prompt("Hello"), model.template.tokenizer("Hi")["input_ids"])
    assert chat.logprob == pytest.approx(total, abs=2e-4)
    assert not math.isclose(chat.logprob, model.loglikelihood([("Hello", "Hi")])[0].logprob, abs_tol=1e-3)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(models: dict[str, LanguageModel], tiny: TinyRuns) -> None:
    there = open_language_models({"sft": str(tiny.root / "sft")}, device="cuda")["sft"]
    here = models["sft"]
    expected = [x.logprob for x in here.loglikelihood(PAIRS)]
    assert [x.logprob for x in there.loglikelihood(PAIRS)] == pytest.approx(expected, abs=1e-2)
    prompts = [context or "x" for context, _ in PAIRS]
    for stop in ((), ("e",)):
        texts = [c.text for c in here.generate(prompts, 12, stop=stop)]
        assert [c.text for c in there.generate(prompts, 12, stop=stop)] == texts
