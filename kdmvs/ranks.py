"""What a process knows of its fellow ranks, the processes that train one network together; alone it has none.

A rank sees its part of every batch. A loss divides by counts over all ranks (`total`), so that the parts of the ranks
add up to what one process would find, and batch norm takes its statistics over all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdmvs.errors import RankError

T = TypeVar("T")

LISTENING = "KDMVS_LISTENING"
"""The descriptor of the socket on which rank 0 is to listen; set by `kdmvs.launch`, absent under torchrun."""

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for its fellows: longer than a slow disk or the writing of a state takes."""

_apart = False


def rank() -> int:
    """This process's number; rank 0 is the one that writes and speaks."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def count() -> int:
    """How many ranks there are; 1 without a process group, and within `alone`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _apart else 1


def total(tensor: Tensor) -> Tensor:
    """The sum over all ranks, without a gradient; the tensor itself where there is one rank."""
    if count() == 1:
        return tensor
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def share(part: int) -> float:
    """What share of all ranks' items this rank has; a mean times its share is this rank's part of the mean of all."""
    return 1.0 if count() == 1 else part / float(total(torch.tensor(float(part), dtype=torch.float64)))


def gathered(value: T) -> list[T]:
    """A value of every rank, in their order; every rank gets the list."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """Rank 0's value, on every rank."""
    values = [value]
    if count() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def any_of(flag: bool) -> bool:
    """Whether it is true on any rank."""
    return bool(total(torch.tensor(int(flag)))) if count() > 1 else flag


@contextmanager
def alone() -> Iterator[None]:
    """Within, this rank has no fellows: it works on a whole batch of its own."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Meet the fellow ranks that `kdmvs.launch` (or torchrun) started, and part at the end: NCCL on GPUs, gloo on CPUs.

    Raises:
        RankError: a fellow rank is gone; what happened, it says itself.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if LISTENING in os.environ:
            number = int(os.environ["RANK"])
            # rank 0 takes over a socket that listens already: no port is guessed, and nobody knocks too early
            listening = int(os.environ[LISTENING]) if number == 0 else None
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                size,
                is_master=number == 0,
                timeout=PATIENCE,
                master_listen_fd=listening,
            )
            dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=PATIENCE)
        else:
            dist.init_process_group(backend, timeout=PATIENCE)
        yield
    except SystemExit:  # all ranks have agreed to stop
        dist.destroy_process_group()
        raise
    except RuntimeError as error:
        if not _is_loss_of_a_fellow(error):
            raise
        text = " ".join(str(error).split())
        raise RankError(f"rank {os.environ['RANK']} of {size} lost its fellow ranks ({text[:200]})") from error
    dist.destroy_process_group()


def _is_loss_of_a_fellow(error: RuntimeError) -> bool:
    """Gloo says so in a plain RuntimeError that names its own file; NCCL and the store have types of their own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def together(network: nn.Module, device: torch.device) -> nn.Module:
    """The module to train with: its gradient is the mean over ranks, its batch norm sees all ranks.

    The network's batch norms are replaced within it; its entries, and so its checkpoints, keep their names. Rank 0's
    weights become everyone's. With one rank it is the network itself, untouched.
    """
    if count() == 1:
        return network
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if isinstance(child, _BatchNorm) and not isinstance(child, SharedBatchNorm):
                    setattr(parent, name, SharedBatchNorm.taking_over(child))
    return nn.parallel.DistributedDataParallel(network, forward_sync_buffers=False)


class SharedBatchNorm(_BatchNorm):
    """Batch norm over the batches of all ranks, on a CPU too: torch 2.13's SyncBatchNorm refuses CPU tensors."""

    @classmethod
    def taking_over(cls, norm: _BatchNorm) -> SharedBatchNorm:
        """In the place of a batch norm: the same parameters and running statistics, not copies of them."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        for name, parameter in norm.named_parameters():
            setattr(made, name, parameter)
        for name, buffer in norm.named_buffers():
            setattr(made, name, buffer)
        return made.train(norm.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected a batch axis and a channel axis, found {input.dim()} axes")

    def forward(self, input: Tensor) -> Tensor:
        if count() == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        y, mean, variance, number = _Normalised.apply(input, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                weight = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean.to(self.running_mean), weight)
                self.running_var.lerp_((variance * (number / (number - 1))).to(self.running_var), weight)
        return y


class _Normalised(torch.autograd.Function):
    """Batch norm whose mean and variance are those of all ranks' inputs, and so is its gradient.

    Forward: means, squared deviations and counts of the ranks, combined as Chan, Golub and LeVeque (1979) combine
    samples; no difference of large squares is taken. Backward: two sums per channel over all ranks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
        axes = [0, *range(2, x.dim())]
        along = [1, -1, *[1] * (x.dim() - 2)]
        mean = x.mean(axes)
        deviation = (x - mean.view(along)).square_().sum(axes)
        number = x.new_tensor([x.numel() / x.shape[1]])
        mine = torch.cat([mean, deviation, number])
        parts = [torch.empty_like(mine) for _ in range(count())]
        dist.all_gather(parts, mine)
        means, deviations, numbers = torch.stack(parts).split([len(mean), len(mean), 1], dim=1)
        every = numbers.sum()
        mean = (means * numbers).sum(0) / every
        variance = (deviations + numbers * (means - mean).square()).sum(0) / every
        scale = torch.rsqrt(variance + eps)
        normal = (x - mean.view(along)).mul_(scale.view(along))
        ctx.save_for_backward(normal, weight, scale, every)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance, every)
        y = normal if weight is None else normal * weight.view(along)
        return y.clone() if y is normal else y if bias is None else y.add_(bias.view(along)), mean, variance, every

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> Any:
        normal, weight, scale, every = ctx.saved_tensors
        axes = [0, *range(2, dy.dim())]
        along = [1, -1, *[1] * (dy.dim() - 2)]
        sums = torch.stack([dy.sum(axes), (dy * normal).sum(axes)])
        ahead, onto = total(sums) / every
        dx = (dy - ahead.view(along)).sub_(normal * onto.view(along))
        dx = dx * (scale if weight is None else scale * weight).view(along)
        return dx, None if weight is None else sums[1], sums[0] if ctx.has_bias else None, None
