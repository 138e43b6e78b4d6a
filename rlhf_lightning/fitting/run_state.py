"""The one place where state beyond weights and optimizer is registered, and thereby saved and restored."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_lightning.errors import UserError

State = dict[str, Any]
_PLAIN = (int, float, bool, str, type(None), Tensor)


@dataclass(frozen=True)
class _Part:
    save: Callable[[], State]
    load: Callable[[State], None]
    per_rank: bool


class RunState:
    """Named parts of a run's state; each is saved into every checkpoint, and given back on resume.

    Seeds are not here: they are derived from (seed, purpose, position), see `seeding`.

    Example: `module.run_state.register("kl", controller.state_dict, controller.load_state_dict)`
    """

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}
        self._first: State | None = None
        self._run: weakref.ref[Any] | None = None  # not the run itself: copies of a module would copy it

    def register(
        self, name: str, save: Callable[[], State], load: Callable[[State], None], per_rank: bool = False
    ) -> None:
        """Have something saved from now on. Register before `fit` reads a checkpoint: in `setup` at the latest.

        Args:
            name: Unique.
            save: Gives its state: numbers, strings, lists, dicts and tensors only.
            load: Takes what `save` gave, tensors on the CPU.
            per_rank: Whether every process has a state of its own.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._parts:
            raise ValueError(f"{name!r} is registered already")
        self._parts[name] = _Part(save, load, per_rank)

    def begin(self, run: object) -> None:
        """Put all parts where they stood before the first run, if this is another one; before a checkpoint is read.

        Args:
            run: The same object whenever the same run goes on.
        """
        if self._first is None:
            self._first = {name: deepcopy(part.save()) for name, part in self._parts.items()}
        elif self._run is None or run is not self._run():
            for name, state in self._first.items():
                self._parts[name].load(deepcopy(state))
        self._run = weakref.ref(run)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def state(self) -> State:
        """All parts, for a checkpoint; called on every process.

        Raises:
            TypeError: A part holds something a safe load would refuse.
        """
        out = {}
        for name, part in self._parts.items():
            own = part.save()
            _require_plain(own, name)
            out[name] = {"ranks": all_processes(own)} if part.per_rank else {"shared": own}
        return out

    def restore(self, state: State) -> None:
        """Give every part its state back.

        Raises:
            UserError: The checkpoint has other parts, or was written by another number of processes.
        """
        if different := sorted(state.keys() ^ self._parts.keys()):
            side = "has no" if different[0] in self._parts else "has an unknown"
            raise UserError(
                f"--ckpt_path: the checkpoint {side} state {different[0]!r}; it was written by another version or "
                "configuration. Start again without --ckpt_path."
            )
        rank, world_size = _rank_and_world()
        for name, part in self._parts.items():
            if not part.per_rank:
                part.load(state[name]["shared"])
                continue
            ranks = state[name]["ranks"]
            if len(ranks) != world_size:
                raise UserError(
                    f"--ckpt_path: the checkpoint was written by {len(ranks)} processes, this run has {world_size}. "
                    "Set trainer.devices and trainer.num_nodes as they were."
                )
            part.load(ranks[rank])


def _rank_and_world() -> tuple[int, int]:
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def all_processes(own: Any) -> list[Any]:
    """What each process has, by rank, tensors on the CPU; every process must call it."""
    own = _to_cpu(own)
    _, world_size = _rank_and_world()
    if world_size == 1:
        return [own]
    gathered: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {k: _to_cpu(v) for k, v in value.items()}
    return [_to_cpu(v) for v in value] if isinstance(value, list) else value


def _require_plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(item, where)
    elif type(value) not in _PLAIN:
        raise TypeError(f"registered state {where!r} holds a {type(value).__name__}; only plain values and tensors")
