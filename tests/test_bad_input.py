"""Bad input, at the library: one line that names the file, and nothing finished is lost."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdmvs import checkpoints, cli, config
from kdmvs.config import MvsnetSettings
from kdmvs.errors import KdmvsError, SettingsError
from kdmvs.formats.image import read_image, write_image
from kdmvs.networks.table import build
from kdmvs.scans import Scan
from kdmvs.stages import prepare
from tests.conftest import write_plane_scan

Damage = Callable[[Path], None]


def edit(name: str, old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def truncate(name: str) -> Damage:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).unlink()  # a prepared photograph is a link to this file
        (folder / name).write_bytes(data[:-50])

    return damage


def halve(name: str) -> Damage:
    return lambda folder: write_image(folder / name, read_image(folder / name)[::2, ::2].copy())


def without_depth_line(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_text("\n".join((folder / name).read_text().split("\n")[:-2]))

    return damage


BROKEN: dict[str, tuple[Damage, str]] = {
    "a missing image": (remove("images/00000001.png"), "images"),
    "a truncated image": (truncate("images/00000001.png"), "00000001.png"),
    "a truncated PFM": (truncate("depths/00000002.pfm"), "00000002.pfm"),
    "a truncated PLY": (truncate("reference.ply"), "reference.ply"),
    "three neighbours promised, two listed": (edit("pair.txt", "\n3 ", "\n4 "), "pair.txt line 3"),
    "an unknown neighbour": (edit("pair.txt", " 2 ", " 22 "), "pair.txt"),
    "a singular camera": (edit("cams/00000001_cam.txt", "117.0 0.0", "0.0 0.0"), "00000001_cam.txt"),
    "no rotation": (edit("cams/00000000_cam.txt", "1.0 0.0 0.0", "1.0 0.5 0.0"), "00000000_cam.txt"),
    "no depth range": (without_depth_line("cams/00000001_cam.txt"), "00000001_cam.txt"),
    "an empty depth range": (edit("cams/00000001_cam.txt", " 192 850.0", " 192 400.0"), "00000001_cam.txt"),
    "no list of neighbours": (remove("pair.txt"), "pair.txt"),
    "no camera": (remove("cams/00000001_cam.txt"), "cams"),
    "an image of another size than its camera says": (halve("images/00000001.png"), "00000001.png"),
}


def use(scan: Scan) -> None:
    """Read everything a scan has."""
    for i in range(len(scan)):
        scan.image(i), scan.measured_depth(i), scan.mask(i)
    scan.reference_cloud()


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_scan_names_the_file_in_one_line(plane_folder: Path, name: str) -> None:
    damage, expected = BROKEN[name]
    use(Scan.open(plane_folder))
    damage(plane_folder)
    with pytest.raises(KdmvsError) as caught:
        use(Scan.open(plane_folder))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(plane_folder))
    assert expected in message


@pytest.mark.parametrize("name", BROKEN)
def test_preparing_a_damaged_scan_names_scan_and_file_and_keeps_what_was_finished(
    tmp_path: Path, plane_folder: Path, name: str
) -> None:
    damage, expected = BROKEN[name]
    for scan in ("good", "bad"):
        shutil.copytree(plane_folder, tmp_path / "photos" / scan)
    settings = MvsnetSettings(root=str(tmp_path / "photos"))
    out = [tmp_path / "out" / scan / "scan.json" for scan in ("good", "bad")]
    prepare.run(settings, ["bad"], out[1:])
    before = out[1].read_bytes()
    damage(tmp_path / "photos" / "bad")
    with pytest.raises(KdmvsError) as caught:
        prepare.run(settings, ["good", "bad"], out)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("scan bad: ")
    assert expected in message
    use(Scan.open(out[0]))
    use(Scan.open(out[1]))
    assert out[1].read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 1}', "size", "views", "lights"],
    ids=lambda text: text or "empty",
)
def test_a_manifest_that_is_none_is_refused_in_one_line(plane_folder: Path, text: str) -> None:
    path = plane_folder / "scan.json"
    if text.isalpha():
        content = json.loads(path.read_text())
        content[text] = {"size": [64, "96"], "views": [{"image": "images/00000000.png"}], "lights": 3}[text]
        text = json.dumps(content)
    path.write_text(text)
    with pytest.raises(KdmvsError) as caught:
        Scan.open(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_scan_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        KdmvsError, match=r"scan.json: expected a scan's manifest, found No such file.*prepare the scan"
    ):
        Scan.open(tmp_path / "scan.json")
    with pytest.raises(KdmvsError, match=r"scan nowhere: .*nowhere: expected a scan's folder"):
        prepare.run(MvsnetSettings(root=str(tmp_path)), ["nowhere"], [tmp_path / "out" / "scan.json"])


def test_sizes_that_are_no_multiples_of_32_are_refused_before_anything_is_read() -> None:
    with pytest.raises(SettingsError, match=r"image_size.1: .*multiple of 32, found 90"):
        config.parse(MvsnetSettings, {"root": "photos", "image_size": (64, 90)}, "dataset")


def test_names_and_outputs_must_pair_up(tmp_path: Path) -> None:
    settings = MvsnetSettings(root=str(tmp_path))
    with pytest.raises(KdmvsError, match="found 1 for 2"):
        prepare.run(settings, ["a", "b"], [tmp_path / "scan.json"])
    with pytest.raises(KdmvsError, match=r"called scan.json"):
        prepare.run(settings, ["a"], [tmp_path / "a.json"])


def test_every_mistake_in_a_configuration_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "experiment: x\ndataset: {kind: mvsnet, root: photos, colour: blue}\n"
        "scans: {training: [a]}\nfusion: {least_votes: 0}\nrouds: 3\n"
    )
    with pytest.raises(SettingsError) as caught:
        config.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    for key in ("colour", "fusion.least_votes", "rouds"):
        assert key in message


def test_a_mvsnet_folder_may_be_a_scan_that_was_prepared_before(tmp_path: Path) -> None:
    write_plane_scan(tmp_path / "photos" / "plane", lights=1)
    prepare.run(MvsnetSettings(root=str(tmp_path / "photos")), ["plane"], [tmp_path / "out" / "scan.json"])
    first, second = Scan.open(tmp_path / "photos" / "plane"), Scan.open(tmp_path / "out")
    assert second.digest == first.digest
    shutil.rmtree(tmp_path / "photos")
    use(second)


@pytest.mark.parametrize("name", BROKEN)
def test_the_command_line_says_it_in_one_line_with_what_to_do_and_ends_with_code_2(
    tmp_path: Path, plane_folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = BROKEN[name]
    shutil.copytree(plane_folder, tmp_path / "photos" / "bad")
    damage(tmp_path / "photos" / "bad")
    settings = MvsnetSettings(root=str(tmp_path / "photos")).canonical()
    code = cli.main(["prepare", "--settings", settings, "--name", "bad", "--out", str(tmp_path / "bad" / "scan.json")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdmvs")]
    assert code == 2
    assert len(lines) == 1
    assert expected in lines[0]
    assert any(word in lines[0] for word in ("expected", "promises", "names"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["teacher", "--scan", "nowhere/scan.json", "--out", "out.pt", "--metrics", "metrics.csv"],
        ["infer", "--checkpoint", "nowhere.pt", "--scan", "nowhere", "--out", "out.h5"],
        ["check", "--scan", "nowhere", "--depth", "nowhere.h5", "--out", "out.h5"],
        ["check", "--set", "reprojection_px=[1", "--scan", "a", "--depth", "b", "--out", "c"],
        ["infer", "--checkpoint", "a.pt", "--scan", "a", "b", "--out", "c"],
    ],
    ids=lambda arguments: " ".join(arguments[:3]),
)
def test_inputs_that_are_not_there_end_in_one_line_and_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


NETWORK = config.CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: [1, 2], "expected tensors under model, state_dict or at the top"),
        (lambda model: {1: 2}, "expected tensors under model, state_dict or at the top"),
        (lambda model: {**model, "feature.conv0.0.bn.weight": torch.tensor([1.0, math.nan])}, "found nan or inf in"),
        (lambda model: {**model, "feature.conv0.0.bn.running_var": torch.tensor([1.0, math.inf])}, "found nan or inf"),
    ],
    ids=["a list", "numbers", "nan", "inf"],
)
def test_weights_that_are_none_or_not_finite_are_refused_by_name_before_anything_is_inferred(
    tmp_path: Path, plane_folder: Path, capsys: pytest.CaptureFixture[str], change: Callable[..., object], said: str
) -> None:
    model = change(build(**NETWORK.model_dump()).state_dict())
    checkpoints.save(tmp_path / "a.pt", {"network": NETWORK.model_dump(), "model": model})
    paths = ["--checkpoint", tmp_path / "a.pt", "--scan", plane_folder, "--out", tmp_path / "depth.h5"]
    assert cli.main(["infer", *map(str, paths)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kdmvs infer: {tmp_path / 'a.pt'}: expected") and said in line
    assert not (tmp_path / "depth.h5").exists()


def test_a_scan_is_named_once_in_a_message(tmp_path: Path) -> None:
    folder = write_plane_scan(tmp_path / "plane").parent
    for part in ("images", "cams", "lights/1", "depths", "masks"):
        for path in (folder / part).iterdir():
            if not path.name.startswith("00000000"):
                path.unlink()
    (folder / "pair.txt").write_text("1\n0\n0\n")
    settings = MvsnetSettings(root=str(tmp_path))
    with pytest.raises(KdmvsError, match=r"^scan plane: expected at least two views, found 1$"):
        prepare.run(settings, ["plane"], [tmp_path / "out" / "scan.json"])
