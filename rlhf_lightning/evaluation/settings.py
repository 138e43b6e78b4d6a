"""What an evaluation can be told: the keys of `evaluate --config FILE`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from rlhf_lightning.bounds import check_number
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.judges import Judge
from rlhf_lightning.evaluation.tasks.kinds import AnyTask
from rlhf_lightning.evaluation.tasks.lm_eval_bridge import LmEvalSettings
from rlhf_lightning.evaluation.trust.settings import TrustSectionSettings
from rlhf_lightning.rollouts.settings import SamplingSettings

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
"""Names become file names."""

Precision = Literal["bf16-true", "16-true", "32-true"]
OnTrouble = Literal["error", "exclude"]


@dataclass(frozen=True)
class DecodingSettings:
    """How every model answers.

    Args:
        max_response_tokens: Responses are stopped here, EOS or not.
        temperature: Divides the logits; 0 takes the most likely token.
        batch_size: Prompts decoded together; limits memory, changes no result but by rounding.
        engine: native decodes in this process; transformers is `generate`, the reference.
    """

    max_response_tokens: int = 128
    temperature: float = 1.0
    batch_size: int = 64
    engine: Literal["native", "transformers"] = "native"

    def __post_init__(self) -> None:
        check_number("sampling.max_response_tokens", self.max_response_tokens, at_least=1)
        check_number("sampling.temperature", self.temperature, at_least=0)
        check_number("sampling.batch_size", self.batch_size, at_least=1)

    def for_engine(self) -> SamplingSettings:
        """The same as rollout engines want it."""
        return SamplingSettings(self.max_response_tokens, self.temperature, self.batch_size, self.engine)


@dataclass(frozen=True)
class PreferenceSettings:
    """How verdicts become win rates and ratings.

    Args:
        pairs: all compares every two models; baseline compares each with the baseline only, which is cheaper where
            verdicts cost money, and leaves the matrix with one column.
        on_failure: What a judge's failure, or an answer that is none, does: stop the evaluation, or leave the pair
            out and count it.
        on_empty: What happens to a pair in which exactly one response is empty: the judge decides, the empty one
            loses unasked, or the pair is left out. They are counted in any case.
    """

    pairs: Literal["all", "baseline"] = "all"
    on_failure: OnTrouble = "error"
    on_empty: Literal["judge", "lose", "exclude"] = "judge"


@dataclass(frozen=True)
class EvaluateSettings:
    """Compare models on the same prompts, with the same random numbers and decoding.

    Args:
        models: Name of each model, and where it is: an artefact of a stage (or its run directory), a Hub name, a
            transformers directory, a GGUF file, `embedded:...`; or a `.jsonl` file of responses from elsewhere, with
            `id` (or `prompt`) and `response` in each row.
        prompts: Files, globs or Hub names of prompts. Other fields of a row, such as `check`, are shown to judges.
        reference: The model that KL is measured to; by default `sft`, or the first one.
        baseline: The model that win rates are against; by default the reference.
        reward: A reward artefact, or several by name; every response gets their scores.
        judges: Who decides which of two responses is better, by name: a `class_path` and `init_args` each. Here are
            rlhf_lightning.evaluation.judges.RewardJudge, .command_judge.CommandJudge and .answers_file.AnswersFile,
            in rlhf_lightning.quickstart.gold_judge GoldJudge; or a subclass of rlhf_lightning.evaluation.judges.Judge
            of your own. By default every reward is one.
        samples_per_prompt: Responses of each model to each prompt.
        sampling: How every model answers.
        preference: How verdicts become win rates and ratings.
        tasks: Task evaluations, of what alignment may have cost and of harms: a `class_path` and `init_args` each. The
            classes are in rlhf_lightning.evaluation.tasks.kinds: Perplexity, MultipleChoice, Squad, Drop,
            Summarization, Translation, TruthfulQA, Toxicity, SentencePairs, Refusals.
        lm_eval: Tasks of lm-eval, where it is installed.
        trust: How far a reward model can be trusted, on held-out rankings and on these models' answers; null for none.
        seed: Of the random numbers. A response depends on it, on the prompt and on the sample's number alone.
        out: Directory of everything that is written.
        device: Such as cpu, cuda or cuda:1; auto takes a GPU where there is one.
        precision: Of the weights.
        prompt_format: Text around a plain prompt for models whose tokenizer has no chat template, in place of what
            an artefact says about itself.
        chat_template: Jinja template in place of the tokenizers' own, for all models.
        limit: Take at most so many prompts.
        on_bad_row: skip counts and leaves out broken rows instead of stopping at the first.
        on_missing: What to do about prompts that a file of responses does not answer: stop, or leave them out for
            that model, with a count.
        save_every: Responses that are computed before they are written to disk.
        micro_batch_tokens: Tokens of one forward when responses are measured.
        trust_remote_code: Run code that comes with a model. Only for authors you trust.
        overwrite: Replace generations that were made with other settings, instead of stopping. Those that fit stay.
    """

    models: dict[str, str]
    prompts: str | list[str]
    reference: str | None = None
    baseline: str | None = None
    reward: str | dict[str, str] | None = None
    judges: dict[str, Judge] = field(default_factory=dict)
    samples_per_prompt: int = 1
    sampling: DecodingSettings = DecodingSettings()
    preference: PreferenceSettings = PreferenceSettings()
    tasks: list[AnyTask] = field(default_factory=list)
    lm_eval: LmEvalSettings | None = None
    trust: TrustSectionSettings | None = None
    seed: int = 1
    out: str = "checkpoints/evaluation"
    device: str = "auto"
    precision: Precision = "bf16-true"
    prompt_format: str | None = None
    chat_template: str | None = None
    limit: int | None = None
    on_bad_row: Literal["error", "skip"] = "error"
    on_missing: OnTrouble = "error"
    save_every: int = 256
    micro_batch_tokens: int = 4096
    trust_remote_code: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_number("samples_per_prompt", self.samples_per_prompt, at_least=1)
        check_number("seed", self.seed, at_least=0, below=2**32)
        check_number("save_every", self.save_every, at_least=1)
        check_number("micro_batch_tokens", self.micro_batch_tokens, at_least=1)
        if not self.models:
            raise UserError("models: is empty; name at least one, such as `models: {sft: checkpoints/tiny/sft}`.")
        for key, names in (("models", self.models), ("reward", self.rewards), ("judges", self.judges)):
            for name in names:
                if not NAME.fullmatch(name):
                    raise UserError(
                        f"{key}: {name!r} cannot be a name: take letters, digits, `_`, `.`, `+` and `-`, for files are "
                        "called after it."
                    )
        for key in ("reference", "baseline"):
            name = getattr(self, key)
            if name is not None and name not in self.models:
                raise UserError(f"{key}: {name!r} is none of the models: {', '.join(self.models)}.")

    @property
    def rewards(self) -> dict[str, str]:
        """Reward artefacts by name; a single one is called `reward`."""
        if self.reward is None:
            return {}
        return {"reward": self.reward} if isinstance(self.reward, str) else dict(self.reward)

    @property
    def reference_name(self) -> str:
        """The model that KL is measured to."""
        if self.reference is not None:
            return self.reference
        return "sft" if "sft" in self.models else next(iter(self.models))

    @property
    def baseline_name(self) -> str:
        """The model that win rates are against."""
        return self.baseline or self.reference_name
