"""Gloo ranks for tests: forks of this process, which start in no time and cannot hang it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

import torch

from kdmvs import ranks

CPU = torch.device("cpu")
TIMEOUT_S = 240


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any, meet: bool = True) -> list[Any]:
    """What a function returns on each of some gloo ranks; an error of theirs is raised.

    With `meet` they have met when the function begins; otherwise it is for the function to meet, as a stage does.
    """
    found = answers(count, work, *arguments, meet=meet)
    errors = [item for item in found if isinstance(item, BaseException)]
    if errors:
        raise errors[0]
    return found


def answers(count: int, work: Callable[..., Any], *arguments: Any, meet: bool = True) -> list[Any]:
    """What a function returns or raises on each of some ranks; a rank that hangs is a failure."""
    context = multiprocessing.get_context("fork")
    results = [context.Pipe(duplex=False) for _ in range(count)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        processes = [
            context.Process(target=_rank, args=(number, count, listening, answer, work, arguments, meet))
            for number, (_, answer) in enumerate(results)
        ]
        for process in processes:
            process.start()
    found = []
    try:
        for process, (reader, writer) in zip(processes, results, strict=True):
            writer.close()
            assert reader.poll(TIMEOUT_S), f"{process.name} did not end in {TIMEOUT_S} s"
            found.append(pickle.loads(reader.recv_bytes()))
            process.join(TIMEOUT_S)
    finally:
        for process in processes:
            process.kill()
    return found


def _rank(
    number: int,
    count: int,
    listening: socket.socket,
    answer: Any,
    work: Callable[..., Any],
    arguments: Any,
    meet: bool,
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(number), WORLD_SIZE=str(count), LOCAL_RANK=str(number), GLOO_SOCKET_IFNAME="lo",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(listening.getsockname()[1]),
        KDMVS_LISTENING=str(listening.fileno()),
    )  # fmt: skip
    try:
        if meet:
            with ranks.joined(CPU):
                result = work(*arguments)
        else:
            result = work(*arguments)
        answer.send_bytes(pickle.dumps(result))
    except BaseException as error:
        answer.send_bytes(pickle.dumps(error))
    os._exit(0)
