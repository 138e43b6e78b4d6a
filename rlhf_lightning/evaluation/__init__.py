"""Judging models: the same prompts, random numbers and decoding for all, and intervals over prompts.

`python -m rlhf_lightning evaluate --config FILE` (`command.py`) goes through three steps:

1. Settings (`settings.py`), prompts, models and judges are checked, before anything heavy is loaded (`context.py`).
2. Every model answers every prompt (`generating.py`), in batches that are on disk before the next one starts.
3. Every section is computed from what is on disk (`sections.py`), unless its inputs are those of the last time.

What is in the directory `out`, and stays as it is from version to version:

| path | content |
|---|---|
| `generations/<model>.jsonl` | one row (`generations.Generation`) a prompt and sample, in no particular order |
| `generations/<model>.json` | what the rows were made with (`identity`) and measured by (`measured`) |
| `judgements/<judge>.jsonl` | what a judge said that sees two responses or is a command, so that it is asked once |
| `results/<section>.json` | `{"section", "inputs", "seconds", "result"}`; `result` is what the section returned |
| `evaluation.json` | settings, versions, commit, command; fingerprints of models, rewards and prompts; seconds |

A section is a module with a `SECTION = Section(...)` (see `sections.Section`) and a line in `sections.SECTIONS`. Its
settings are a dataclass and one field of `EvaluateSettings`; None there leaves the section out. It gets the settings
and an `EvaluationContext`, which has the prompts, every model's generations, and the models themselves (loaded when
they are asked for, adapters of one base on one copy of it), and returns a dictionary that JSON can hold: intervals as
`{"mean", "low", "high"}`, numbers that do not exist as None. Readers take `sections.read_results(out)`,
which are those that `evaluation.json` lists: an earlier evaluation may have left others. Responses that were made with
other settings are an error that says so; `overwrite` replaces them.

Files in reading order: settings, prompts, sources, bases, evaluated_model, generations, measuring, generating, judges,
judging, preference, outputs, command; `intervals`, `ratings` and `length_control` have the statistics.
"""
