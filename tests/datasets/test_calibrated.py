"""The doors of Strecha's and Middlebury's benchmarks and of IDR's layout: known cameras written as they write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdmvs.datasets import idr, middlebury, strecha
from kdmvs.datasets.source import SourceView
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.image import write_image
from tests.formats.test_idr import npz, world_mat
from tests.formats.test_middlebury import line
from tests.views import camera

HEIGHT, WIDTH = 64, 96
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def write_strecha(folder: Path, cameras: str = "gt_dense_cameras", images: str = "images", views: int = 3) -> None:
    for i in range(views):
        cam = camera(i, HEIGHT, WIDTH)
        rows = [*cam.K.tolist(), [0, 0, 0], *cam.cam_from_world[:3, :3].T.tolist(), cam.centre().tolist(), [96, 64]]
        (folder / cameras).mkdir(parents=True, exist_ok=True)
        text = "\n".join(" ".join(f"{value:.17g}" for value in row) for row in rows)
        (folder / cameras / f"000{i}.png.camera").write_text(text)
        write_image(folder / images / f"000{i}.png", GREY)


def write_middlebury(folder: Path, views: int = 3) -> None:
    folder.mkdir(parents=True)
    lines = [str(views), *(line(f"dino{i}.png", i) for i in reversed(range(views)))]
    (folder / "dino_par.txt").write_text("\n".join(lines))
    for i in range(views):
        write_image(folder / f"dino{i}.png", GREY)


def write_idr(folder: Path, views: int = 3) -> None:
    """world_mat in the unit of `camera`, a sphere of 250 around (3, -4, 700)."""
    for i in range(views):
        write_image(folder / "image" / f"{i:06d}.png", GREY)
        write_image(folder / "mask" / f"{i:03d}.png", GREY)
    scale = np.array([[250.0, 0, 0, 3], [0, 250, 0, -4], [0, 0, 250, 700], [0, 0, 0, 1]])
    changes = {f"{key}_{i}": value for i in range(views) for key, value in
               (("world_mat", world_mat(i)), ("scale_mat", scale))}  # fmt: skip
    (folder / "cameras_sphere.npz").write_bytes(npz(**changes))


def assert_cameras(views: list[SourceView], height: int = HEIGHT, width: int = WIDTH) -> None:
    assert len(views) == 3
    for i, view in enumerate(views):
        np.testing.assert_allclose(view.K, camera(i, height, width).K.numpy(), atol=1e-9)
        np.testing.assert_allclose(view.cam_from_world, camera(i, height, width).cam_from_world.numpy(), atol=1e-9)
        assert view.lens is None


@pytest.mark.parametrize("folders", [("gt_dense_cameras", "images"), (".", "."), ("a_cameras", "a_images")], ids=str)
def test_strecha_in_each_layout(tmp_path: Path, folders: tuple[str, str]) -> None:
    write_strecha(tmp_path / "fountain ü", *folders)
    assert strecha.recognises(tmp_path / "fountain ü")
    scan = strecha.read(tmp_path, "fountain ü")
    assert_cameras(list(scan.views))
    assert (scan.views[0].size, scan.unit) == ((64, 96), "m")


def test_strechas_photographs_are_there_once_and_cameras_without_one_are_left_out(tmp_path: Path) -> None:
    write_strecha(tmp_path / "scan")
    (tmp_path / "scan/images/0001.png").unlink()
    scan = strecha.read(tmp_path, "scan")
    assert [view.name for view in scan.views] == ["0000.png", "0002.png"]
    assert scan.notes == ["1 of 3 cameras have no photograph, e.g. 0001.png."]
    write_image(tmp_path / "scan/urd/0000.png", GREY)
    with pytest.raises(DataError, match=r"urd.0000\.png: expected one photograph"):
        strecha.read(tmp_path, "scan")
    (tmp_path / "scan/urd/0000.png").unlink()
    write_strecha(tmp_path / "scan", cameras="p")
    with pytest.raises(DataError, match="expected one camera of"):
        strecha.read(tmp_path, "scan")


def test_middleburys_views_are_sorted_by_name_and_see_the_box(tmp_path: Path) -> None:
    write_middlebury(tmp_path / "dino")
    assert middlebury.recognises(tmp_path / "dino")
    scan = middlebury.read(tmp_path, "dino")
    assert_cameras(list(scan.views))
    assert scan.views[0].depth_range is None
    (tmp_path / "dino/README.txt").write_text("bounding box\n(-1 -2 600)\n(3 4 620)\n")
    assert middlebury.read(tmp_path, "dino").views[0].depth_range == pytest.approx((599, 621))
    (tmp_path / "dino/README.txt").write_text("bounding box\n(-1 -2 -600)\n(3 4 620)\n")
    assert middlebury.read(tmp_path, "dino").views[0].depth_range is None, "the camera is in the box"


def test_middleburys_missing_photographs_and_paths_that_leave(tmp_path: Path) -> None:
    write_middlebury(tmp_path / "dino")
    (tmp_path / "dino/dino1.png").unlink()
    scan = middlebury.read(tmp_path, "dino")
    assert [view.name for view in scan.views] == ["dino0.png", "dino2.png"]
    assert scan.notes == ["1 photographs of dino_par.txt are not there, e.g. dino1.png."]
    path = tmp_path / "dino/dino_par.txt"
    path.write_text(path.read_text().replace("dino1.png", "../dino1.png"))
    with pytest.raises(FormatError, match=r"dino_par\.txt line 3: expected the path"):
        middlebury.read(tmp_path, "dino")
    (tmp_path / "dino/temple_par.txt").write_text("0")
    with pytest.raises(DataError, match=r"expected one \*_par\.txt, found dino_par\.txt, temple_par\.txt"):
        middlebury.read(tmp_path, "dino")


def test_idrs_cameras_masks_and_sphere(tmp_path: Path) -> None:
    write_idr(tmp_path / "scan")
    # npz() adds cameras 0 and 3 of its own: the third photograph is missing, so numbers count.
    assert idr.recognises(tmp_path / "scan")
    scan = idr.read(tmp_path, "scan")
    assert_cameras(list(scan.views))
    assert scan.notes == ["1 of 4 cameras have no photograph."]
    assert [view.mask.name for view in scan.views if view.mask] == ["000.png", "001.png", "002.png"]
    assert scan.views[0].depth_range == pytest.approx((450, 950))


def test_idrs_photographs_belong_to_cameras_by_order_where_there_is_one_for_each(tmp_path: Path) -> None:
    write_idr(tmp_path / "scan", views=4)
    for i, path in enumerate(sorted((tmp_path / "scan/image").iterdir())):
        path.rename(path.with_name(f"IMG_{40 + i}.png"))
    assert [view.name for view in idr.read(tmp_path, "scan").views][3] == "IMG_43.png"
    (tmp_path / "scan/image/IMG_41.png").unlink()
    with pytest.raises(DataError, match=r"IMG_40\.png: expected one file per camera"):
        idr.read(tmp_path, "scan")


@pytest.mark.parametrize("door", [strecha, middlebury, idr])
def test_a_folder_that_is_missing_or_another_kinds_is_refused(tmp_path: Path, door) -> None:
    (tmp_path / "scan").mkdir()
    assert not door.recognises(tmp_path / "scan")
    assert not door.recognises(tmp_path / "none")
    for name in ("scan", "none"):
        with pytest.raises(DataError, match=r"see dataset\.root"):
            door.read(tmp_path, name)
