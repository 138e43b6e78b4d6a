"""What the stages' data modules share: reading before training, derived order, exact position on resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from rlhf_lightning.data.item_store import ItemStore, Storable
from rlhf_lightning.data.kinds import Row
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.data.openings import Openings
from rlhf_lightning.errors import UserError
from rlhf_lightning.prompt_template import PromptTemplate
from rlhf_lightning.seeding import generator

T = TypeVar("T", bound=Row)
Item = TypeVar("Item", bound=Storable)
OnBad = Literal["error", "skip"]
OnLong = Literal["error", "drop"]


class ResumableSampler(Sampler[int]):
    """Row numbers in an order that depends on (seed, epoch) alone, from wherever the run was cut off."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self.epoch, self.skip = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch; a new epoch starts at its first row."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.size, generator=generator(self.seed, "order", self.epoch)).tolist()
        yield from order[self.skip :]

    def __len__(self) -> int:
        return self.size  # the whole epoch: Lightning itself subtracts what a resumed run has done


@dataclass(frozen=True)
class LoadingSettings:
    """How batches are made; one object, because jsonargparse takes a base class's parameters for a subclass's."""

    sources: dict[str, str | list[str] | None]
    """Files of each split."""
    batch_size: int
    val_batch_size: int | None
    max_prompt_tokens: int
    max_response_tokens: int
    on_bad_row: OnBad
    on_long_prompt: OnLong
    limit: int | None
    num_workers: int
    seed: int | None


class StageDataModule(L.LightningDataModule):
    """Rows read, validated and turned into tokens in `setup`, so that bad input is reported before training."""

    def __init__(self, loading: LoadingSettings) -> None:
        super().__init__()
        self.sources = loading.sources
        self.limits = LengthLimits(loading.max_prompt_tokens, loading.max_response_tokens, loading.on_long_prompt)
        self.on_bad_row, self.limit = loading.on_bad_row, loading.limit
        self.batch_size, self.val_batch_size = loading.batch_size, loading.val_batch_size or loading.batch_size
        self.num_workers = loading.num_workers
        self._seed = loading.seed
        self.items: dict[str, Sequence[Any]] = {}
        self._provenance: dict[str, Any] = {}
        self._openings: dict[str, Openings] = {}
        self._sampler: ResumableSampler | None = None
        self._resume: dict[str, int] = {}

    @property
    def template(self) -> PromptTemplate:
        """The template of the module that is being trained."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        template: PromptTemplate = module.template
        return template

    @property
    def seed(self) -> int:
        """Seed of the row order: our own, else the module's."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        return int(module.seed) if self._seed is None else self._seed

    def provenance(self) -> dict[str, Any]:
        """Which rows were read, for `stage.json`."""
        return self._provenance

    def read(self, name: str, kind: type[T], item: type[Item], tokenize: Callable[[T], Item | None]) -> ItemStore[Item]:
        """Read, check and tokenize the rows of a split one by one, and note where they came from.

        Args:
            name: The split.
            kind: What its rows are.
            item: What `tokenize` makes of a row.
            tokenize: None leaves the row out.

        Raises:
            UserError: A broken row, a prompt over the limit, or no rows left.
        """
        key, files = f"data.init_args.{name}", self.sources[name]
        assert files is not None
        stream = RowStream(kind, files, key, self.on_bad_row, self.limit)
        items = ItemStore(item, self._tokenized(name, stream, tokenize))
        self.limits.report(name)
        require_rows(items, key)
        self._record(name, files, stream, len(items))
        return items

    def _tokenized(self, name: str, rows: RowStream[T], tokenize: Callable[[T], Item | None]) -> Iterator[Item]:
        compared = name in ("train", "val") and self.sources.get("val") is not None
        for row in rows:
            if compared:
                self._openings.setdefault(name, Openings()).add(row)
            if (item := tokenize(row)) is not None:
                yield item

    def unread(self) -> list[str]:
        """Splits that have files and have not been read yet."""
        return [name for name, files in self.sources.items() if files is not None and name not in self.items]

    def _record(self, name: str, files: str | Sequence[str], stream: RowStream[Any], kept: int) -> None:
        self._provenance[name] = {
            "files": [files] if isinstance(files, str) else list(files),
            "rows": kept,
            "skipped": stream.skipped,
            "fingerprint": stream.fingerprint,
        }
        if name == "val" and (shared := self._openings.pop("train").shared_with(self._openings.pop("val"))):
            print(f"data.init_args.val: {shared} of its prompts are training prompts too; val/ metrics will flatter.")

    def collate(self, items: list[Any]) -> Any:
        """Items to one batch."""
        raise NotImplementedError

    def train_dataloader(self) -> Any:
        items = self.items["train"]
        self._sampler = ResumableSampler(len(items), self.seed)
        self._sampler.epoch = self._resume.get("epoch", 0)
        self._sampler.skip = self._resume.get("batches", 0) * self.batch_size
        return DataLoader(
            items,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=self._sampler,
            collate_fn=self.collate,
            num_workers=self.num_workers,
        )

    def _eval_loader(self, split: str) -> Any:
        if split not in self.items:
            return []
        return DataLoader(
            self.items[split],  # type: ignore[arg-type]
            batch_size=self.val_batch_size,
            collate_fn=self.collate,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> Any:
        return self._eval_loader("val")

    def test_dataloader(self) -> Any:
        return self._eval_loader("val")

    def predict_dataloader(self) -> Any:
        return self._eval_loader("val")

    def state_dict(self) -> dict[str, Any]:
        if self.trainer is None or self._sampler is None:
            return {}
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        epoch, batches = self.trainer.current_epoch, progress.processed
        if batches >= self.trainer.num_training_batches:  # the epoch is over: the next one, from its first row
            epoch, batches = epoch + 1, 0
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resume = dict(state_dict)


def pad(rows: Sequence[Sequence[Any]], value: Any, left: bool = False) -> Tensor:
    """Rows of different lengths as one tensor [B, T] of their common type."""
    width = max(len(row) for row in rows)
    filled = [
        [value] * (width - len(row)) + list(row) if left else list(row) + [value] * (width - len(row)) for row in rows
    ]
    return torch.tensor(filled)


class LengthLimits:
    """Applies token limits to rows and counts what it changed, to say so once."""

    def __init__(self, max_prompt: int, max_response: int, on_long_prompt: OnLong) -> None:
        self.max_prompt, self.max_response, self.on_long_prompt = max_prompt, max_response, on_long_prompt
        self.dropped, self.cut = 0, 0

    def prompt_fits(self, ids: Sequence[int], where: str) -> bool:
        """Whether a prompt is short enough.

        Raises:
            UserError: It is not, and the user did not ask to drop such rows.
        """
        if len(ids) <= self.max_prompt:
            return True
        if self.on_long_prompt == "error":
            raise UserError(
                f"{where}: the prompt has {len(ids)} tokens, more than data.init_args.max_prompt_tokens = "
                f"{self.max_prompt}. Raise the limit, or set data.init_args.on_long_prompt to 'drop'."
            )
        self.dropped += 1
        return False

    def cut_response(self, ids: list[int]) -> list[int]:
        """A response cut to the limit; a cut response has no EOS, as if the model had been stopped there."""
        if len(ids) <= self.max_response:
            return ids
        self.cut += 1
        return ids[: self.max_response]

    def report(self, split: str) -> None:
        """Print what was left out or cut in a split."""
        if self.dropped:
            print(f"data.{split}: left out {self.dropped} rows with prompts over {self.max_prompt} tokens.")
        if self.cut:
            print(f"data.{split}: cut {self.cut} responses to {self.max_response} tokens.")
        self.dropped = self.cut = 0


def require_rows(items: Sequence[Any], key: str) -> None:
    """
    Raises:
        UserError: No rows are left.
    """
    if not items:
        raise UserError(f"{key}: no rows are left after the length limits; raise data.init_args.max_prompt_tokens.")
