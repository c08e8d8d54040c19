"""A file that is cut while it is read gives all of itself or an error that names it, never half."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs import checkpoints, storage
from kdmvs.errors import FormatError
from kdmvs.formats import image


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_hdf5_that_is_cut_after_it_was_opened(tmp_path):
    path, maps = tmp_path / "a.h5", np.random.default_rng(0).normal(size=(6, 40, 50)).astype(np.float32)
    with storage.create(path, kind="depth", views=6, size=(40, 50), attributes={}) as out:
        for i in range(6):
            out.write(i, depth=maps[i], confidence=maps[i])
    with storage.open_views(path, kind="depth") as file:
        cut(path)
        said = []
        for i in range(6):
            try:
                np.testing.assert_array_equal(file.read("depth", i), maps[i])
            except FormatError as error:
                said.append(str(error))
    assert said
    assert all(line.startswith(f"{path}: depth of view ") for line in said)


def test_an_image_that_is_cut_after_its_header_was_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image.write_image(path, np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    header = image._header

    def late(*arguments):
        found = header(*arguments)
        cut(path)
        return found

    monkeypatch.setattr(image, "_header", late)
    with pytest.raises(FormatError, match=r"a\.png: expected a whole image, found one that ends early"):
        image.read_image(path)


def test_a_checkpoint_that_is_cut_after_its_directory_was_read(tmp_path, monkeypatch):
    path, content = tmp_path / "a.pt", {"model": {"weight": torch.arange(200_000)}}
    checkpoints.save(path, content)
    load = torch.serialization._load

    def late(*arguments, **options):
        cut(path)
        return load(*arguments, **options)

    monkeypatch.setattr(torch.serialization, "_load", late)
    try:
        found, said = checkpoints.read(path), None
    except FormatError as error:
        found, said = None, str(error)
    assert (
        said.startswith(f"{path}: ")
        if found is None
        else torch.equal(*(it["model"]["weight"] for it in (found, content)))
    )
