"""Replaying a step's kernels on a GPU, where launching them one by one takes longer than running them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)


class RecordedStep:
    """Calls a function that works on tensors at fixed addresses: the first time as it is, later by replaying it.

    Every call does the step once. Where the function cannot be recorded (it waits for the device somewhere), it
    says so once and goes on calling it.
    """

    def __init__(self, step: Callable[[], None]) -> None:
        """
        Args:
            step: Reads and writes the same tensors, of the same shapes, at every call; returns nothing.
        """
        self.step = step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def __call__(self) -> None:
        if self.graph is None and self.calls == 1:
            self._record()
        self.calls += 1
        if self.graph is not None:
            self.graph.replay()
        elif self.calls == 1:
            self._warm_up()
        else:
            self.step()

    def release(self) -> None:
        """Give the graph back now: collected as garbage while another one is recorded, it would spoil that."""
        if self.graph is not None:
            self.graph.reset()
        self.graph, self.calls = None, 0

    def _warm_up(self) -> None:
        """On a side stream, as recording will be: libraries allocate their workspaces at the first call."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.step()
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.step()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            logger.warning("Decoding goes on without CUDA graphs (sampling.cuda_graphs): %s", reason)
            return
        self.graph = graph
