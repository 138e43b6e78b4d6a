"""Rows of text to the same tokens in the same batches for both sides."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peer.rankings import StrictRanking, expand_pairs, ordered_responses, strict_rankings
from rlhf_lightning.data.kinds import Message
from rlhf_lightning.fitting.training_stream import ResumableSampler
from rlhf_lightning.models.loading import load_tokenizer
from rlhf_lightning.ppo.prompts import PromptItem, PromptStream
from rlhf_lightning.prompt_template import PromptTemplate

MAX_PROMPT = 256
MAX_RESPONSE = 256
Rows = list[dict[str, Any]]


def read_rows(directory: Path, name: str) -> Rows:
    """Rows of `name`.jsonl or `name`.jsonl.gz; none where there is no such file. Chats are left out."""
    for file in (directory / f"{name}.jsonl", directory / f"{name}.jsonl.gz"):
        if file.is_file():
            with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
                rows = [json.loads(line) for line in lines if line.strip()]
            return [r for r in rows if isinstance(r.get("prompt"), str)]
    return []


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write JSON lines and return the path."""
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(file)


@dataclass(frozen=True)
class Work:
    """What a run computes, for both sides."""

    ours: str
    """JSON lines for this project's data module."""
    peer: str
    """JSON lines of token ids in the order in which this project reads its rows."""
    facts: dict[str, Any]
    """Tokens of each step and whatever else has to be said about it."""


class Maker:
    """Makes work from a folder of data, with one tokenizer and one seed."""

    def __init__(self, data: Path, tokenizer: str, out: Path, seed: int) -> None:
        self.data, self.out, self.seed = data, out, seed
        self.template = PromptTemplate(load_tokenizer(tokenizer))
        out.mkdir(parents=True, exist_ok=True)

    def sft(self, steps: int, batch_size: int) -> Work:
        """Demonstrations of at most MAX_PROMPT + MAX_RESPONSE tokens; longer ones are left out."""
        fitting = []
        for row in self._shuffled(read_rows(self.data, "demonstrations")):
            if not isinstance(row.get("response"), str):
                continue
            messages = (Message("user", row["prompt"]), Message("assistant", row["response"]))
            ids, is_response = self.template.encode_conversation(messages)
            if self._fits(is_response.index(True), sum(is_response)):
                fitting.append((row, {"input_ids": ids, "labels": _labels(ids, is_response)}))
        chosen = _cycle(fitting, steps * batch_size)
        text = [{"prompt": row["prompt"], "response": row["response"]} for row, _ in chosen]
        tokens = [chosen[i][1] for i in self._order(len(chosen), batch_size)]
        facts = {
            "step_tokens": _per_step([len(t["input_ids"]) for t in tokens], batch_size),
            "step_labels": _per_step([sum(x >= 0 for x in t["labels"][1:]) for t in tokens], batch_size),
            "mean_tokens": sum(len(t["input_ids"]) for t in tokens) / len(tokens),
            "rows_available": len(fitting),
        }
        return self._write("sft", text, tokens, facts)

    def reward(self, steps: int, prompts: int, k: int) -> Work:
        """Rankings of K responses for this project, and all their K(K-1)/2 pairs, step by step, for the peer."""
        rows = (read_rows(self.data, "comparisons") if k == 2 else []) or read_rows(self.data, "rankings")
        rows = self._shuffled([self._shortened(row) for row in rows if self._fits(len(self._prompt(row)), 1)])
        chosen = strict_rankings([r for r in rows if len(r["responses"]) > 1], k, steps * prompts, self.seed)
        text = [{"prompt": c.prompt, "responses": c.responses, "ranks": list(range(1, k + 1))} for c in chosen]
        tokens: Rows = []
        ours_tokens, peer_tokens = [], []
        for i in self._order(len(chosen), prompts):
            prompt, responses = self._tokens(chosen[i])
            pairs = [(prompt + responses[a], prompt + responses[b]) for a, b in expand_pairs(k)]
            tokens += [{"chosen_ids": a, "rejected_ids": b} for a, b in pairs]
            ours_tokens.append(len(prompt) + sum(map(len, responses)))
            peer_tokens.append(sum(len(a) + len(b) for a, b in pairs))
        facts = {
            "k": k,
            "pairs_per_step": prompts * k * (k - 1) // 2,
            "step_tokens_ours": _per_step(ours_tokens, prompts),
            "step_tokens_peer": _per_step(peer_tokens, prompts),
            "rankings_with_borrowed_responses": sum(c.borrowed > 0 for c in chosen),
            "rankings": len(chosen),
        }
        return self._write(f"reward-{k}", text, tokens, facts)

    def ppo(self, iterations: int, prompts: int, response_tokens: int) -> Work:
        """Prompts in order, and responses of exactly that many tokens of real text for the check."""
        fitting = [(row, ids) for row in self._shuffled(read_rows(self.data, "prompts")) if (ids := self._short(row))]
        chosen = _cycle(fitting, iterations * prompts)
        stream = PromptStream([PromptItem(ids, "") for _, ids in chosen], prompts, self.seed, 0)
        order = [row for i in range(iterations) for row in stream.rows(i)]
        tokens = [{"input_ids": chosen[i][1]} for i in order]
        given: list[int] = []
        for row in read_rows(self.data, "demonstrations"):
            given += self.template.encode_response(row["response"])[:-1]
        given = (given * (1 + prompts * response_tokens // len(given)))[: prompts * response_tokens]
        facts = {
            "step_prompt_tokens": _per_step([len(t["input_ids"]) for t in tokens], prompts),
            "given_responses": [
                given[i : i + response_tokens] for i in range(0, prompts * response_tokens, response_tokens)
            ],
        }
        return self._write("ppo", [{"prompt": row["prompt"]} for row, _ in chosen], tokens, facts)

    def _prompt(self, row: dict[str, Any]) -> list[int]:
        return self.template.encode_prompt(row["prompt"])

    def _short(self, row: dict[str, Any]) -> list[int]:
        ids = self._prompt(row)
        return ids if len(ids) <= MAX_PROMPT else []

    def _tokens(self, ranking: StrictRanking) -> tuple[list[int], list[list[int]]]:
        responses = [self.template.encode_response(r) for r in ranking.responses]
        return self.template.encode_prompt(ranking.prompt), responses

    def _shortened(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with its different responses that are short enough, best first."""
        short = [
            r for r in ordered_responses(row) if self._fits(1, len(self.template.encode_response(r))) and r.strip()
        ]
        return {"prompt": row["prompt"], "responses": short, "ranks": list(range(1, len(short) + 1))}

    def _fits(self, prompt: int, response: int) -> bool:
        return prompt <= MAX_PROMPT and response <= MAX_RESPONSE

    def _shuffled(self, rows: Rows) -> Rows:
        random.Random(self.seed).shuffle(rows)
        return rows

    def _order(self, size: int, batch_size: int) -> list[int]:
        """The order in which this project's data modules read rows; equal losses on both sides prove it."""
        return list(ResumableSampler(size, batch_size, self.seed))

    def _write(self, name: str, text: Rows, tokens: Rows, facts: dict[str, Any]) -> Work:
        ours = write_rows(self.out / f"{name}.jsonl", text)
        return Work(ours, write_rows(self.out / f"{name}-tokens.jsonl", tokens), facts)


def _labels(ids: list[int], is_response: list[bool]) -> list[int]:
    return [t if flag else -100 for t, flag in zip(ids, is_response, strict=True)]


def _cycle(items: list[Any], count: int) -> list[Any]:
    if not items:
        raise SystemExit("error: --data has no rows that are short enough for this stage.")
    return [items[i % len(items)] for i in range(count)]


def _per_step(values: list[int], size: int) -> list[int]:
    return list(_sums(values, size))


def _sums(values: list[int], size: int) -> Iterator[int]:
    for start in range(0, len(values), size):
        yield sum(values[start : start + size])
