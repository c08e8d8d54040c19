"""PLY: what was written is read, binary little endian, and a damaged file names itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs.errors import FormatError
from kdmvs.formats.ply import read_ply, write_ply, writing_ply
from kdmvs.types import PointCloud


def cloud(count: int = 50) -> PointCloud:
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    colors = torch.randint(0, 256, (count, 3), generator=generator, dtype=torch.uint8)
    return PointCloud(torch.randn(count, 3, generator=generator) * 100, normals, colors)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_ply(tmp_path / "cloud.ply", cloud())
    found = read_ply(tmp_path / "cloud.ply")
    assert found.normals is not None
    assert found.colors is not None
    assert torch.equal(found.points, cloud().points)
    assert torch.equal(found.normals, cloud().normals)
    assert torch.equal(found.colors, cloud().colors)


def test_points_alone_come_back_without_normals_and_colours(tmp_path: Path) -> None:
    write_ply(tmp_path / "cloud.ply", PointCloud(cloud().points))
    found = read_ply(tmp_path / "cloud.ply")
    assert torch.equal(found.points, cloud().points)
    assert found.normals is None
    assert found.colors is None


def test_the_header_is_what_viewers_expect(tmp_path: Path) -> None:
    write_ply(tmp_path / "cloud.ply", cloud(3))
    header, _, body = (tmp_path / "cloud.ply").read_bytes().partition(b"end_header\n")
    names = [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    names += [f"property uchar {name}" for name in ("red", "green", "blue")]
    first, kind, seal, *fields = header.decode().splitlines()
    assert [first, kind, *fields] == ["ply", "format binary_little_endian 1.0", "element vertex 3", *names]
    assert seal.startswith("comment kdmvs-seal:")
    assert len(body) == 3 * (6 * 4 + 3)


def test_an_empty_cloud_is_a_cloud(tmp_path: Path) -> None:
    write_ply(tmp_path / "cloud.ply", PointCloud(torch.zeros(0, 3)))
    assert read_ply(tmp_path / "cloud.ply").points.shape == (0, 3)


@pytest.mark.parametrize("kept", [0, 40, 250, -1])
def test_a_truncated_ply_names_itself(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cloud.ply"
    write_ply(path, cloud())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FormatError, match=r"cloud\.ply: expected (a PLY file|the \d+ bytes)") as caught:
        read_ply(path)
    assert "\n" not in str(caught.value)


def test_points_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    points = cloud().points.clone()
    points[[3, 9], 1] = torch.nan
    write_ply(tmp_path / "cloud.ply", PointCloud(points))
    with pytest.raises(FormatError, match="found 2 points that are not"):
        read_ply(tmp_path / "cloud.ply")


def test_an_ascii_file_without_positions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cloud.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nend_header\n1 2\n"
    )
    with pytest.raises(FormatError, match="with x, y, z, found properties x, y"):
        read_ply(tmp_path / "cloud.ply")


def test_a_cloud_written_part_by_part_is_the_cloud_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("kdmvs.formats.ply.POINTS_AT_ONCE", 4)
    whole = cloud(13)
    write_ply(tmp_path / "whole.ply", whole, ["kdmvs scan a"])
    with writing_ply(tmp_path / "parts.ply", ["kdmvs scan a"]) as append:
        for part in (slice(0, 5), slice(5, 5), slice(5, 13)):
            append(PointCloud(whole.points[part], whole.normals[part], whole.colors[part]))
    one, other = read_ply(tmp_path / "whole.ply"), read_ply(tmp_path / "parts.ply")
    for name in ("points", "normals", "colors"):
        assert torch.equal(getattr(one, name), getattr(other, name))
        assert torch.equal(getattr(one, name), getattr(whole, name))


def test_points_far_from_the_origin_keep_their_digits_and_come_back_without_them(tmp_path):
    """Geographic coordinates: float32 would round them to half a unit."""
    origin, near = np.array([512345.678, 5412345.875, 310.5]), cloud(7)
    with writing_ply(tmp_path / "far.ply", origin=origin) as append:
        append(near)
    header = (tmp_path / "far.ply").read_bytes().partition(b"end_header\n")[0].decode()
    assert [line for line in header.splitlines() if line.endswith(" x")] == ["property double x"]
    assert [line for line in header.splitlines() if line.endswith(" nx")] == ["property float nx"]
    found = read_ply(tmp_path / "far.ply", origin)
    torch.testing.assert_close(found.points, near.points, rtol=0, atol=1e-5)
    assert torch.equal(found.normals, near.normals)
    rounded = read_ply(tmp_path / "far.ply").points - torch.from_numpy(origin)
    assert (rounded - near.points).abs().max() > 0.1


def test_parts_of_different_fields_and_no_part_at_all_leave_no_file(tmp_path):
    def write(*parts: PointCloud) -> None:
        with writing_ply(tmp_path / "a.ply") as append:
            for part in parts:
                append(part)

    with pytest.raises(ValueError, match="expected a cloud of"):
        write(cloud(3), PointCloud(cloud(3).points))
    with pytest.raises(ValueError, match="no cloud was given"):
        write()
    assert not list(tmp_path.iterdir())
