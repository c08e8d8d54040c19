"""What does not fit is said before it starts, with the figure and the settings to change; what might fit is begun."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.memory import MEASURED
from kdmvs import checkpoints, cli, device, memory, storage
from kdmvs.config import (
    CasMVSNetSettings,
    ConsistencySettings,
    EvaluationSettings,
    FigureSettings,
    FusionSettings,
    InferenceSettings,
    SourceSelection,
    StudentSettings,
    TeacherSettings,
)
from kdmvs.errors import FormatError, MachineError, SettingsError
from kdmvs.exchange.export import copy_ply
from kdmvs.formats.ply import check_finite, write_ply
from kdmvs.networks.table import build
from kdmvs.stages import check, evaluate, figure_clouds, fuse, infer, student, teacher
from kdmvs.types import PointCloud
from tests.conftest import write_plane_scan
from tests.test_cli import module_of

GIB = 2**30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 GiB whose process is in no control group; files below it may say otherwise."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable: {8 * 2**20} kB\nSwapTotal: 0 kB\n")
    (tmp_path / "own").write_text("")
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE", memory.CHECK):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_limits_all_memory_of_the_machine_counts(machine):
    assert memory.host_limit() == (64 * GIB, "all memory of this machine")
    assert memory.host_available() == 8 * GIB


@pytest.mark.parametrize(
    ("own", "place", "files", "limit", "available"),
    [
        ("0::/job\n", "job", {"memory__max": 4 * GIB, "memory__current": GIB, "memory__swap__max": 0}, 4, 3),
        ("0::/step/job\n", "step", {"memory__max": 4 * GIB, "memory__current": GIB, "memory__swap__max": 0}, 4, 3),
        ("0::/of/the/host\n", "", {"memory__max": 2 * GIB, "memory__current": GIB, "memory__swap__max": GIB}, 3, 1),
        ("0::/job\n", "job", {"memory__max": "max", "memory__current": GIB}, 64, 8),
        (
            "4:memory:/job\n", "memory/job",
            {"memory__limit_in_bytes": 4 * GIB, "memory__usage_in_bytes": 3 * GIB,
             "memory__stat": f"total_inactive_file {GIB}"}, 4, 2,
        ),
        ("4:memory:/\n", "memory", {"memory__limit_in_bytes": 2**63 - 4096, "memory__usage_in_bytes": 5}, 64, 8),
    ],
    ids=["its group", "a group above", "a container", "no limit", "version 1", "version 1, no limit"],
)  # fmt: skip
def test_the_control_group_s_limit_counts_whatever_its_version(machine, own, place, files, limit, available):
    (machine / "own").write_text(own)
    write(machine / "cgroup" / place, **files)
    assert memory.host_limit().bytes == limit * GIB
    assert memory.host_available() == available * GIB


@pytest.mark.parametrize(
    "environment", [{"SLURM_MEM_PER_NODE": "2048"}, {"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4"}]
)
def test_what_slurm_gave_a_job_is_its_limit(machine, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert memory.host_limit() == (2 * GIB, "what Slurm gave this job; ask for more mem_mb")


def test_only_what_can_never_fit_is_refused_with_the_figure_and_what_to_change(machine, monkeypatch, capsys):
    memory.require("check", 7.0 * GIB, "maps", memory.advice("check"))
    assert capsys.readouterr().err == ""
    memory.require("check", 60.0 * GIB, "maps", memory.advice("check"))
    assert capsys.readouterr().err == "check: holds at least 60.0 GiB for maps; only 8.0 GiB of 64.0 GiB are free now\n"
    with pytest.raises(MachineError) as caught:
        memory.require("check", 65.0 * GIB, "maps", memory.advice("check"))
    assert str(caught.value) == (
        "check: expected at least 65.0 GiB of memory for maps, found 64.0 GiB (all memory of this machine); lower "
        "dataset.image_size, or ask for more (resources.check.mem_mb); KDMVS_MEMORY_CHECK=0 starts it all the same"
    )
    monkeypatch.setenv(memory.CHECK, "0")
    memory.require("check", 65.0 * GIB, "maps", memory.advice("check"))
    monkeypatch.setenv(memory.CHECK, "no")
    with pytest.raises(SettingsError, match="KDMVS_MEMORY_CHECK: expected 0 or 1, found 'no'"):
        memory.require("check", 1.0, "maps", "")


@pytest.mark.parametrize("peak", MEASURED, ids=str)
def test_the_least_that_a_network_holds_is_below_what_was_measured_and_not_far_below(peak):
    assert 0.25 * peak.mib < peak.least_mib() < 0.95 * peak.mib


@pytest.mark.parametrize("trains", [True, False])
def test_the_least_grows_with_batch_image_and_hypotheses(trains):
    def least(network: CasMVSNetSettings, batch: int, views: int, image: tuple[int, int]) -> float:
        return memory.network_bytes(network.model_dump(), batch, views, image, training=trains)

    of = (CasMVSNetSettings(), 1, 5, (1024, 1280))
    assert least(of[0], 2, *of[2:]) > 1.5 * least(*of)
    assert least(*of[:3], (2048, 1280)) > 1.5 * least(*of)
    assert least(CasMVSNetSettings(hypotheses=(48, 64, 8)), *of[1:]) > 1.2 * least(*of)
    assert memory.network_bytes({"name": "another"}, 1, 3, (64, 96), training=trains) is None


NETWORK = CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
SHORT = {"epochs": 1, "steps_per_epoch": 1, "batch": 1, "warmup_steps": 1, "validation_share": 0.0}
CHOICES = {"network": NETWORK, "sources": SourceSelection(views=3), "optimiser": SHORT}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scan, depth, labels, a cloud and a checkpoint."""
    folder = tmp_path_factory.mktemp("inputs")
    scan = write_plane_scan(folder / "scans" / "plane", lights=1)
    ones = np.ones((64, 96), np.float32)
    of = {"views": 4, "size": (64, 96), "attributes": {"scan": "plane", "settings": "{}", "code": ""}}
    with storage.create(folder / "depth.h5", kind="depth", **of) as out:
        for i in range(4):
            out.write(i, depth=600 * ones, confidence=ones)
    with storage.create(folder / "labels.h5", kind="pseudo_label", **of) as out:
        for i in range(4):
            out.write(i, mean=600 * ones, variance=ones, valid=ones > 0, votes=ones)
    write_ply(folder / "cloud.ply", PointCloud(torch.rand(10, 3)))
    content = {"network": NETWORK.model_dump(mode="json"), "model": build(**NETWORK.model_dump()).state_dict()}
    checkpoints.save(folder / "checkpoint.pt", content)
    return {"scan": scan, **{path.stem: path for path in folder.iterdir() if path.is_file()}}


def calls(inputs: dict[str, Path], out: Path) -> dict[str, object]:
    """Every stage that looks before it starts, and what it would do."""
    scan, depth = [inputs["scan"]], [inputs["depth"]]
    return {
        "teacher": lambda: teacher.run(TeacherSettings.model_validate(CHOICES), scan, out, out.with_suffix(".csv")),
        "student": lambda: student.run(
            StudentSettings.model_validate(CHOICES), scan, [inputs["labels"]], out, out.with_suffix(".csv")
        ),
        "infer": lambda: infer.run(InferenceSettings(views=3), inputs["checkpoint"], scan, [out]),
        "check": lambda: check.run(ConsistencySettings(), scan, depth, [out]),
        "fuse": lambda: fuse.run(FusionSettings(), scan, depth, [out]),
        "evaluate": lambda: evaluate.run(EvaluationSettings(), scan, depth, [inputs["cloud"]], [out]),
        "figure6": lambda: figure_clouds.run(
            FigureSettings(), "figure6", inputs["scan"], ["a"], [inputs["cloud"]], out
        ),
    }


@pytest.mark.parametrize("stage", ["teacher", "student", "infer", "check", "fuse", "evaluate", "figure6"])
def test_a_stage_that_does_not_fit_says_so_before_it_starts(inputs, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(memory, "host_limit", lambda: memory.Limit(100, "a very small machine"))
    monkeypatch.setattr("kdmvs.training.fit", lambda *_, **__: pytest.fail("it has started"))
    with pytest.raises(
        MachineError, match=rf"^{stage}.*: expected at least .* found 0 MiB \(a very small machine\); \w+"
    ):
        calls(inputs, tmp_path / "out")[stage]()
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_on_a_gpu_its_own_memory_is_what_counts(monkeypatch, capsys):
    monkeypatch.delenv(memory.CHECK, raising=False)
    monkeypatch.setattr(memory, "host_limit", lambda: memory.Limit(100, "a very small machine"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GIB)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    here = torch.device("cuda")
    device.require("infer", 3.0 * GIB, "views", "lower it", here)
    assert capsys.readouterr().err == ""
    device.require("infer", 4.0 * GIB, "views", "lower it", here)
    assert "only 3.0 GiB of 8.0 GiB are free now" in capsys.readouterr().err
    with pytest.raises(
        MachineError, match=r"at least 9\.0 GiB .*found 8\.0 GiB \(all memory of the GPU, a card\); lower"
    ):
        device.require("infer", 9.0 * GIB, "views", "lower it", here)


class OutOfMemory(torch.OutOfMemoryError):
    """What torch raises where a GPU has no room, as it words it."""

    def __init__(self) -> None:
        super().__init__("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.1 GiB")


def no_room_for_numpy() -> None:
    np.empty(2**57, np.uint8)


def no_room_for_torch() -> None:
    torch.empty(2**57, dtype=torch.uint8)


def no_room_on_a_gpu() -> None:
    raise OutOfMemory


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (no_room_on_a_gpu, "the GPU has too little memory (CUDA out of memory. Tried to allocate 2.00 GiB."),
        (no_room_for_numpy, "this job has too little memory (Unable to allocate 128. PiB"),
        (no_room_for_torch, "this job has too little memory (DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_is_refused_on_the_way_is_one_line_with_what_to_change(monkeypatch, capsys, work, said):
    def run(scan: list[Path]) -> None:
        work()

    for stage, setting in (
        ("student", "optimiser.batch"),
        ("infer", "inference.views"),
        ("compare", "resources.compare"),
    ):
        monkeypatch.setitem(__import__("sys").modules, f"kdmvs.stages.{stage}", module_of(run))
        assert cli.main([stage, "--scan", "x"]) == 2
        found = capsys.readouterr().err
        assert found.startswith(f"kdmvs {stage}: {said}") and found.count("\n") == 1
        assert setting in found


def test_memory_that_is_refused_within_a_step_ends_the_training_with_that_line(inputs, tmp_path, monkeypatch, capsys):
    def no_room(*_: object, **__: object) -> None:
        raise OutOfMemory

    monkeypatch.setattr("kdmvs.losses.reconstruction.reconstruction_loss", no_room)
    command = [
        "teacher",
        "--settings",
        TeacherSettings.model_validate(CHOICES).canonical(),
        "--scan",
        str(inputs["scan"]),
    ]
    assert cli.main([*command, "--out", str(tmp_path / "a.pt"), "--metrics", str(tmp_path / "a.csv")]) == 2
    assert "kdmvs teacher: the GPU has too little memory" in capsys.readouterr().err


def test_a_runtime_error_that_is_about_no_memory_stays_a_bug():
    assert memory.shortage(RuntimeError("shapes do not fit")) is None
    assert memory.shortage(ValueError("memory")) is None


def test_a_cloud_is_bundled_in_memory_that_does_not_grow_with_it(tmp_path):
    path = tmp_path / "cloud.ply"
    points = torch.rand(400_000, 3)
    write_ply(path, PointCloud(points, points, (points * 255).to(torch.uint8)))
    tracemalloc.start()
    assert check_finite(path) == 400_000
    copy_ply(path, tmp_path / "copy.ply")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000 < path.stat().st_size
    points[123_456, 1] = math.inf
    write_ply(path, PointCloud(points))
    with pytest.raises(FormatError, match="expected finite coordinates, found 1 points that are not"):
        check_finite(path)
