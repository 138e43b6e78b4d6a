"""What the stages' data modules share: reading before training, derived order, exact position on resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import lightning as L
import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from rlhf_lightning.bounds import check_number
from rlhf_lightning.data.card.card import DataCard
from rlhf_lightning.data.item_store import ItemStore, Storable
from rlhf_lightning.data.kinds import Row
from rlhf_lightning.data.length_limits import LengthLimits, OnLong, require_rows
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.identity import arguments_of
from rlhf_lightning.fitting.training_stream import ResumableSampler, TrainingStream
from rlhf_lightning.prompt_template import PromptTemplate


class Measured(Storable, Protocol):
    """An item whose row's lengths the data card notes."""

    def lengths(self) -> tuple[int, list[int]]:
        """Tokens of the prompt, and of each response."""
        ...


T = TypeVar("T", bound=Row)
Item = TypeVar("Item", bound=Measured)
OnBad = Literal["error", "skip"]


@dataclass(frozen=True)
class LoadingSettings:
    """How batches are made; one object, because jsonargparse takes a base class's parameters for a subclass's."""

    sources: dict[str, str | list[str] | None]
    """Files of each split."""
    batch_size: int
    """Over all processes: how many there are changes no step."""
    val_batch_size: int | None
    """Of each process; it changes no result."""
    max_prompt_tokens: int
    max_response_tokens: int | None
    """None where the data has no responses."""
    on_bad_row: OnBad
    on_long_prompt: OnLong
    limit: int | None
    num_workers: int
    seed: int | None

    def __post_init__(self) -> None:
        for name in ("batch_size", "val_batch_size", "max_prompt_tokens", "max_response_tokens", "limit"):
            check_number(f"data.init_args.{name}", getattr(self, name), at_least=1)
        check_number("data.init_args.num_workers", self.num_workers, at_least=0)


class StageDataModule(L.LightningDataModule):
    """Rows read, validated and turned into tokens in `setup`, so that bad input is reported before training."""

    stage: ClassVar[str]
    """The stage whose batches it makes."""
    shorten: ClassVar[str] = "data.init_args.max_prompt_tokens or max_response_tokens"
    """Keys that make rows shorter, for the message about one that is longer than the model's context."""

    def __init__(self, loading: LoadingSettings, arguments: Mapping[str, Any]) -> None:
        """
        Args:
            loading: How batches are made.
            arguments: `locals()` of the subclass's constructor, which a resumed run compares.
        """
        super().__init__()
        self.arguments = arguments_of(type(self).__init__, arguments)
        self.sources = loading.sources
        self.limits = LengthLimits(loading.max_prompt_tokens, loading.max_response_tokens or 0, loading.on_long_prompt)
        self.on_bad_row, self.limit = loading.on_bad_row, loading.limit
        self.batch_size, self.val_batch_size = loading.batch_size, loading.val_batch_size or loading.batch_size
        self.num_workers = loading.num_workers
        self._seed = loading.seed
        self.items: dict[str, Sequence[Any]] = {}
        self._provenance: dict[str, Any] = {}
        self.card = DataCard("data.init_args.")

    @property
    def template(self) -> PromptTemplate:
        """The template of the module that is being trained."""
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        template: PromptTemplate = module.template
        return template

    def check_row(self, ids: Sequence[int], row: Row) -> None:
        """Check that the module's model can read a row.

        Raises:
            UserError: It is longer than the context, or tokenizer and model do not belong together.
        """
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        module.limits.check(ids, f"{row.file}:{row.line}", self.shorten)

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
        self.record(name, files, stream, len(items))
        return items

    def _tokenized(self, name: str, rows: RowStream[T], tokenize: Callable[[T], Item | None]) -> Iterator[Item]:
        for row in rows:
            if (item := tokenize(row)) is not None:
                self.card.split(name, type(row)).add(row, *item.lengths())
                yield item

    def unread(self) -> list[str]:
        """Splits that have files and have not been read yet."""
        return [name for name, files in self.sources.items() if files is not None and name not in self.items]

    def record(self, name: str, files: str | Sequence[str], stream: RowStream[Any], kept: int) -> None:
        """Note where the rows of a split came from, for `provenance`; say what would mislead."""
        self._provenance[name] = {
            "files": [files] if isinstance(files, str) else list(files),
            "rows": kept,
            "skipped": stream.skipped,
            "fingerprint": stream.fingerprint,
        }
        for warning in self.card.close(name, self._provenance[name]):
            print(warning)

    def collate(self, items: list[Any]) -> Any:
        """Items to one batch."""
        raise NotImplementedError

    def training_row(self, epoch: int, number: int) -> int:
        """Which of the training items is an epoch's `number`-th, before shuffling."""
        return number

    def _own_batch_size(self, processes: int) -> int:
        """Rows of a training batch that one of so many processes computes.

        Raises:
            UserError: The processes cannot share a batch evenly.
        """
        if self.batch_size % processes:
            raise UserError(
                f"data.init_args.batch_size is {self.batch_size}, of all processes together, and {processes} of them "
                "cannot share it evenly. Change it or trainer.devices."
            )
        return self.batch_size // processes

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        items, trainer = self.items["train"], self.trainer
        own = self._own_batch_size(trainer.world_size)
        sampler = ResumableSampler(
            len(items), own, self.seed, trainer.global_rank, trainer.world_size, self.training_row
        )
        loader: DataLoader[Any] = DataLoader(
            items,  # type: ignore[arg-type]
            batch_size=own,
            sampler=sampler,
            collate_fn=self.collate,
            num_workers=self.num_workers,
        )
        accumulate = trainer.accumulate_grad_batches
        return TrainingStream(loader, sampler, accumulate, self._total, lambda: trainer.num_training_batches)

    def _total(self, own: Tensor) -> Tensor:
        assert self.trainer is not None
        if self.trainer.world_size == 1:
            return own
        device = self.trainer.strategy.root_device
        return self.trainer.strategy.reduce(own.to(device), reduce_op="sum")  # type: ignore[return-value]

    def _eval_loader(self, split: str) -> Any:
        if split not in self.items:
            return []
        return DataLoader(
            self.eval_items(split),  # type: ignore[arg-type]
            batch_size=self.val_batch_size,
            sampler=self._eval_sampler(len(self.items[split])),
            collate_fn=self.collate_eval,
            num_workers=self.num_workers,
        )

    def _eval_sampler(self, size: int) -> Sampler[int] | None:
        """Every row once, over all processes; repeated only where there are fewer rows than processes."""
        assert self.trainer is not None
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        if world_size == 1:
            return None
        kind: Any = UnrepeatedDistributedSampler if size >= world_size else DistributedSampler
        return kind(range(size), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[no-any-return]

    def eval_items(self, split: str) -> Any:
        """The data set of a validation, test or prediction."""
        return self.items[split]

    def collate_eval(self, items: list[Any]) -> Any:
        """Its items to one batch."""
        return self.collate(items)

    def val_dataloader(self) -> Any:
        return self._eval_loader("val")

    def test_dataloader(self) -> Any:
        return self._eval_loader("val")

    def predict_dataloader(self) -> Any:
        return self._eval_loader("val")


def pad(rows: Sequence[Sequence[Any]], value: Any, left: bool = False) -> Tensor:
    """Rows of different lengths as one tensor [B, T] of their common type."""
    width = max(len(row) for row in rows)
    filled = [
        [value] * (width - len(row)) + list(row) if left else list(row) + [value] * (width - len(row)) for row in rows
    ]
    return torch.tensor(filled)


@contextmanager
def naming(row: Row) -> Iterator[None]:
    """Puts file and row before what the template says about a row's text."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{row.file}:{row.line}: {error}") from error
