"""Which samples a training sees, in what order: a function of the seed and the step, so that there is no state."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdmvs.errors import KdmvsError
from kdmvs.flow import ahead
from kdmvs.scans import Sample, collate


@runtime_checkable
class Samples(Protocol):
    """What can be trained on: `kdmvs.scans.ViewGroups`, or anything like it.

    An index beyond the length is the same sample in a later pass; `name` is scan/view/light.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name(self, index: int) -> str: ...


class Stream(Sampler[list[int]]):
    """Batches of an endless stream of permutations, from a step on; no sample is repeated or left out in a pass.

    Pass p of sample i is the index p * len + i, so that the dataset draws its crop anew in every pass. Rank r of n
    gets the r-th, (r + n)-th, ... of every batch: the batches are the same whatever the number of ranks.
    """

    def __init__(
        self, length: int, batch: int, first: int, last: int, seed: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.length, self.batch, self.first, self.last, self.seed = length, batch, first, last, seed
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        current, order = -1, torch.empty(0)
        for step in range(self.first, self.last):
            indices = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                lap, place = divmod(position, self.length)
                if lap != current:
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + lap)
                    current, order = lap, torch.randperm(self.length, generator=generator)
                indices.append(lap * self.length + int(order[place]))
            yield indices[self.rank :: self.ranks]


def split(samples: Samples, share: float) -> tuple[list[int], list[int]]:
    """Indices for training and for validation; a reference view is on one side with all its lights.

    The choice is spread evenly over the views, the last of every 1/share going to validation, and at least one where
    a share is asked for and there are two.
    """
    if share == 0:
        return list(range(len(samples))), []
    references = sorted({samples.name(i).rsplit("/", 1)[0] for i in range(len(samples))})
    held = {name for k, name in enumerate(references) if int((k + 1) * share) > int(k * share)}
    if not held and len(references) > 1:
        held = {references[-1]}
    training = [i for i in range(len(samples)) if samples.name(i).rsplit("/", 1)[0] not in held]
    validation = [i for i in range(len(samples)) if samples.name(i).rsplit("/", 1)[0] in held]
    return training, validation


class Chosen(Dataset[Sample | KdmvsError]):
    """Some samples of a dataset; an index beyond the length is the same sample in a later pass."""

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        self.samples, self.indices = samples, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample | KdmvsError:
        """The sample, or the user's error: raised in a loader's process it would reach ours inside a traceback."""
        lap, place = divmod(index, len(self.indices))
        try:
            return self.samples[lap * len(self.samples) + self.indices[place]]
        except KdmvsError as error:
            return error


def collate_or_error(found: Sequence[Sample | KdmvsError]) -> Sample | KdmvsError:
    """A batch, or the first error among its samples."""
    error = next((item for item in found if isinstance(item, KdmvsError)), None)
    return error or collate([item for item in found if isinstance(item, Sample)])


class Batches:
    """The batches of a loader in its order; an error among them is raised where it is met.

    A loader without processes is drawn from by a thread, while the batch before is worked on: decoding, reading HDF5
    and copying let go of Python's lock. `waited_s` is how many seconds the caller has waited for batches so far.
    """

    def __init__(self, loader: DataLoader[Sample | KdmvsError]) -> None:
        self.loader = loader
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Sample]:
        drawn: Iterator[Sample | KdmvsError | None] = iter(self.loader)
        if self.loader.num_workers == 0:
            drawn = _ahead(drawn)
        while True:
            start = time.perf_counter()
            batch = next(drawn, None)
            self.waited_s += time.perf_counter() - start
            if batch is None:
                return
            if isinstance(batch, KdmvsError):
                raise batch
            yield batch


def _ahead(drawn: Iterator[Sample | KdmvsError | None]) -> Iterator[Sample | KdmvsError | None]:
    """The same batches and then None without end, drawn in a thread of their own."""
    return (batch for _, batch in ahead(lambda _: next(drawn, None), count()))
