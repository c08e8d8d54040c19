"""HDF5 files: whole or not there, one view read alone, a damaged file names itself."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from kdmvs import storage
from kdmvs.config import EncodingSettings
from kdmvs.errors import FormatError

SIZE = (6, 9)
RANDOM = np.random.default_rng(0).normal(size=(3, 2, *SIZE)).astype(np.float32)


def write(path: Path, views: range = range(3)) -> None:
    with storage.create(path, kind="depth", views=3, size=SIZE, attributes={"scan": "plane", "code": "abc"}) as out:
        for i in views:
            out.write(i, depth=RANDOM[i, 0], confidence=RANDOM[i, 1])


def test_what_was_written_is_read_view_by_view_and_in_any_order(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with storage.open_views(tmp_path / "a.h5", kind="depth") as file:
        assert (file.views, file.size, file.attributes["scan"], file.attributes["code"]) == (3, SIZE, "plane", "abc")
        np.testing.assert_array_equal(file.read("confidence", 1), RANDOM[1, 1])
        np.testing.assert_array_equal(file.read_many("depth", [2, 0, 2]), RANDOM[[2, 0, 2], 0])


@pytest.mark.parametrize("kind", storage.KINDS)
def test_every_kind_keeps_its_types_and_is_chunked_by_view_and_compressed(tmp_path: Path, kind: str) -> None:
    maps = {name: np.ones(SIZE, dtype) for name, dtype in storage.KINDS[kind].items()}
    with storage.create(tmp_path / "a.h5", kind=kind, views=1, size=SIZE, attributes={}) as out:
        out.write(0, **maps)
    with storage.open_views(tmp_path / "a.h5", kind=kind) as opened:
        for name, values in maps.items():
            found = opened.read(name, 0)
            assert found.dtype == values.dtype
            assert (found == values).all()
    with h5py.File(tmp_path / "a.h5") as file:
        for name in maps:
            filters = file[name].id.get_create_plist()
            numbers = [filters.get_filter(k)[0] for k in range(filters.get_nfilters())]
            assert file[name].chunks == (1, *SIZE)
            assert numbers == [h5py.h5z.FILTER_SHUFFLE, hdf5plugin.ZSTD_ID, h5py.h5z.FILTER_FLETCHER32]


def test_a_file_of_another_compressor_and_without_a_sum_is_read_as_well_and_said(tmp_path: Path, capsys) -> None:
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as new, h5py.File(tmp_path / "old.h5", "w") as old:
        old.attrs.update({**new.attrs, "format": storage.UNSEALED_FORMAT})
        for name in storage.KINDS["depth"]:
            old.create_dataset(name, data=new[name], chunks=(1, *SIZE), compression="gzip", shuffle=True)
    with storage.open_views(tmp_path / "old.h5", kind="depth") as file:
        np.testing.assert_array_equal(file.read("depth", 2), RANDOM[2, 0])
    said = capsys.readouterr().err
    assert said == f"{tmp_path / 'old.h5'}: written by an earlier version, without a checksum; taken as it is\n"


def test_a_file_with_a_view_missing_never_appears(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="views 2 were not written"):
        write(tmp_path / "a.h5", range(2))
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_fails_leaves_the_finished_file_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(ValueError, match="were not written"):
        write(tmp_path / "a.h5", range(1))
    assert (tmp_path / "a.h5").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("maps", [{"depth": RANDOM[0, 0]}, {"depth": RANDOM[0, 0], "confidence": RANDOM[0, 1, 1:]}])
def test_maps_of_other_names_or_sizes_are_refused(tmp_path: Path, maps: dict[str, np.ndarray]) -> None:
    create = storage.create(tmp_path / "a.h5", kind="depth", views=1, size=SIZE, attributes={})
    with pytest.raises(ValueError, match="file holds"), create as out:
        out.write(0, **maps)


def open_depth(path: Path, kind: str = "depth") -> None:
    with storage.open_views(path, kind=kind) as file:
        file.read("depth", 0)


def test_a_truncated_file_names_itself(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    path = tmp_path / "a.h5"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"a\.h5: expected the \d+ bytes .*truncated") as caught:
        open_depth(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["all of it", "one bit"])
def test_damaged_bytes_of_a_view_of_a_file_too_long_to_be_summed_are_reported_with_the_view(
    tmp_path: Path, damage: str, monkeypatch
) -> None:
    monkeypatch.setattr(storage, "WHOLE_UP_TO", 0)
    path = tmp_path / "a.h5"
    write(path)
    with h5py.File(path) as file:
        chunk = file["depth"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    if damage == "one bit":
        data[chunk.byte_offset + chunk.size // 2] ^= 1
    else:
        data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\0" * chunk.size
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="depth of view 0 cannot be read"):
        open_depth(path)


def test_a_missing_file_another_kind_and_a_view_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="found no such file"):
        open_depth(tmp_path / "a.h5")
    write(tmp_path / "a.h5")
    with pytest.raises(FormatError, match="expected kind agreement, format 2; found kind depth"):
        open_depth(tmp_path / "a.h5", kind="agreement")
    with storage.open_views(tmp_path / "a.h5", kind="depth") as file, pytest.raises(FormatError, match="views 0 to 2"):
        file.read("depth", 3)


def test_no_changed_byte_of_a_file_is_read(tmp_path: Path) -> None:
    """Superblock, attributes, tables of chunks, chunks, the sum itself: every eleventh byte, every bit in turn."""
    write(tmp_path / "a.h5")
    path = tmp_path / "changed.h5"
    data = (tmp_path / "a.h5").read_bytes()
    for at in range(0, len(data), 11):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        with pytest.raises(FormatError, match=r"changed\.h5: "):
            open_depth(path)


def test_a_file_whose_sum_was_taken_away_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    path = tmp_path / "a.h5"
    path.write_bytes(bytes(storage.USER_BLOCK) + path.read_bytes()[storage.USER_BLOCK :])
    with pytest.raises(FormatError, match=r"a\.h5: expected a checksum in it, found none"):
        open_depth(path)


def test_a_file_changed_by_another_hdf5_program_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["depth"][1] += 1
    with pytest.raises(FormatError, match=r"a\.h5: expected the .*changed"):
        open_depth(tmp_path / "a.h5")


@pytest.mark.parametrize("way", ["a link", "a virtual dataset", "external storage"])
def test_numbers_that_lie_in_another_file_are_not_read(tmp_path: Path, way: str) -> None:
    """The other file is there, and holds what would be taken."""
    maps = np.ones((2, 4, 4), np.float32)
    maps.tofile(tmp_path / "raw")
    with h5py.File(tmp_path / "other.h5", "w") as other, h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"kind": "depth", "format": storage.UNSEALED_FORMAT})
        for name in storage.KINDS["depth"]:
            other.create_dataset(name, data=maps, chunks=(1, 4, 4))
            if way == "a link":
                file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
            elif way == "a virtual dataset":
                layout = h5py.VirtualLayout(maps.shape, "f4")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), name, maps.shape)
                file.create_virtual_dataset(name, layout)
            else:
                file.create_dataset(name, maps.shape, "f4", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(FormatError, match=r"found a link to somewhere else|found that it lies in others"):
        open_depth(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("shape", "kind", "options", "said"),
    [
        ((2, 4, 4), "f8", {"chunks": (1, 4, 4)}, "expected depth to be float32, found float64"),
        ((1 << 40, 4, 4), "f4", {"chunks": (1, 4, 4)}, "to be maps .view, height, width. of at most 200000000 pixels"),
        ((1, 1 << 14, 1 << 14), "f4", {"chunks": (1, 1 << 14, 1 << 14)}, "of at most 200000000 pixels, found"),
        ((4, 4, 4), "f4", {"chunks": (2, 4, 4)}, "expected depth in a chunk per view, found chunks"),
        ((2, 4, 4), "f4", {"chunks": (1, 4, 4), "compression": "lzf"}, "to be packed by zstd or gzip, found"),
    ],
    ids=["kind", "views", "pixels", "chunks", "filter"],
)
def test_maps_that_nobody_writes_are_refused_by_what_they_are(tmp_path: Path, shape, kind, options, said) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"kind": "depth", "format": storage.UNSEALED_FORMAT})
        for name in storage.KINDS["depth"]:
            file.create_dataset(name, shape, kind, **options)
    with pytest.raises(FormatError, match=said):
        open_depth(tmp_path / "a.h5")


def test_equal_maps_are_equal_bytes(tmp_path: Path) -> None:
    """No time, no name of a process or temporary file."""
    write(tmp_path / "a.h5")
    time.sleep(1.1)
    write(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_attributes_carry_scan_settings_and_code() -> None:
    settings = EncodingSettings()
    found = storage.attributes_of(settings, "plane", "kdmvs.storage")
    assert found["scan"] == "plane"
    assert found["settings"] == settings.canonical()
    assert len(found["code"]) >= 16


def test_hdf5_is_opened_for_writing_at_one_place_under_a_name_of_its_process_alone() -> None:
    """So that no file is open for writing twice: `create` writes `<name>.<host>.<pid>.part`, and what is left of it."""
    writing = []
    for path in sorted(Path(storage.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("h5py.File", "h5py.h5f.create")):
                mode = ast.unparse(node.args[1]) if len(node.args) > 1 else "missing"
                writing += [] if mode == "'r'" else [(path.name, ast.unparse(node.args[0]).partition(",")[0])]
    assert writing == [("storage.py", "h5py.h5f.create(bytes(part)"), ("storage.py", "bytes(part)")]


def test_a_file_that_is_begun_twice_is_whole_and_the_first_to_begin_is_told(tmp_path: Path) -> None:
    first = storage.create(tmp_path / "a.h5", kind="depth", views=1, size=SIZE, attributes={})
    out = first.__enter__()
    write(tmp_path / "a.h5")
    out.write(0, depth=RANDOM[0, 0], confidence=RANDOM[0, 1])
    with pytest.raises(FileNotFoundError):
        first.__exit__(None, None, None)
    with storage.open_views(tmp_path / "a.h5", kind="depth") as file:
        np.testing.assert_array_equal(file.read_many("depth", range(3)), RANDOM[:, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_so_many_attributes_are_read_as_are_written_and_one_more_is_a_bug(tmp_path: Path) -> None:
    def written(count: int) -> None:
        attributes = {f"a{k}": "some text" for k in range(count - 2)}  # beside kind and format
        with storage.create(tmp_path / "a.h5", kind="depth", views=1, size=SIZE, attributes=attributes) as out:
            out.write(0, depth=RANDOM[0, 0], confidence=RANDOM[0, 1])

    written(storage.MOST_ATTRIBUTES)
    with storage.open_views(tmp_path / "a.h5", kind="depth") as file:
        assert file.attributes["a5"] == "some text"
    with pytest.raises(ValueError, match="65 attributes, of which no more than 64 are read"):
        written(storage.MOST_ATTRIBUTES + 1)
