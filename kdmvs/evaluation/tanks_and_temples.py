"""The F-score of Tanks and Temples by the procedure of its toolbox (evaluation.md 4.2).

Source of steps and numbers: python_toolbox/evaluation/{run,registration,evaluation}.py of isl-org/TanksAndTemples. The
measured cloud lies in a frame of its own, in metres. The cameras bring the cloud there (`match_cameras`, RANSAC), three
times ICP brings it nearer, and only what lies in the crop volume counts.

The toolbox means to stop ICP after 20 iterations, but hands Open3D that number as the limit of the change of the rmse;
what runs, and here too, are at most 30, ended by a change of the fitness below 1e-6 alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from kdmvs.errors import DataError
from kdmvs.evaluation.point_clouds import distances
from kdmvs.evaluation.registration import Registration, icp, ransac_similarity, voxel_means, voxel_numbers
from kdmvs.formats.crop_volume import CropVolume
from kdmvs.formats.trajectory import LoggedPose, image_numbers

TAU = {
    "Barn": 0.01, "Caterpillar": 0.005, "Church": 0.025, "Courthouse": 0.025, "Ignatius": 0.003, "Meetingroom": 0.01,
    "Truck": 0.005,
}  # fmt: skip
"""Metres within which a point counts, of every scene whose measured cloud is public."""
RANSAC = {"radius": 0.2, "samples": 6, "iterations": 100_000}
"""Metres, cameras per fit, fits."""
STAGES = ((1.0, 80.0), (0.5, 20.0), (None, 2.0))
"""Of ICP: the voxel's side and the radius in units of tau; the last stage takes points as they are, or every k-th."""
ICP = {"iterations": 30, "relative_fitness": 1e-6, "relative_rmse": 20.0}
"""What the toolbox's call comes to, see above."""
UNIFORM_POINTS = 4_000_000
"""Of the last stage: every k-th point, k the number of points over this, rounded; so up to 6 million stay."""
SCORED_VOXEL = 0.5
"""Side, in units of tau, of the voxels that both clouds are averaged in before they are compared."""
FILM_POSES = 1600
"""A trajectory of more poses is one of a film's frames."""
POINTS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class TanksScore:
    """Shares of points within `tau` metres, and what they were counted on.

    `precision` is of the cloud's points, `recall` of the measured ones, `f` their harmonic mean. `points` are those of
    the cloud, `points_cropped` of them lie in the crop volume, `points_scored` voxels were left of these, and
    `reference_points` of the measured cloud. `scale` is metres per unit of the scan. `cameras_matched` is the share of
    cameras within 0.2 m of the reference's after RANSAC, `registration_fitness` the share of points within 2 tau of the
    measured cloud at the end of ICP, `registration_rmse` their rmse in metres.
    """

    precision: float
    recall: float
    f: float
    tau: float
    points: int
    points_cropped: int
    points_scored: int
    reference_points: int
    scale: float
    cameras: int
    cameras_matched: float
    registration_fitness: float
    registration_rmse: float

    def flat(self) -> dict[str, float | int]:
        """The score under the names of the tables."""
        return dict(vars(self))


def score(
    cloud: Float[np.ndarray, "n 3"],
    reference: Float[np.ndarray, "m 3"],
    cameras: Float64[np.ndarray, "v 3"],
    reference_cameras: Float64[np.ndarray, "v 3"],
    volume: CropVolume,
    *,
    tau: float,
    seed: int,
) -> TanksScore:
    """Score a cloud of any frame and scale against the measured cloud of its scene.

    Memory: 24 bytes per point of either cloud that lies in the crop volume, as much again while voxels are averaged and
    compared, and in the last stage of ICP a KD-tree over at most 6 million points: measured, 120 bytes per point of
    both clouds together (3 and 4 million). Points are moved in double precision, some at once.

    Args:
        cloud: in the frame of `cameras`.
        reference: the measured cloud, metres.
        cameras: centres of the cameras that the cloud was made with.
        reference_cameras: where the same cameras stand in the frame of the measured cloud.
        volume: in that frame.
        tau: metres.
        seed: of RANSAC.

    Raises:
        DataError: too few cameras, or cameras that no similarity brings to the reference's; no measured point in the
            volume.
    """
    matched = ransac_similarity(cameras, reference_cameras, **RANSAC, seed=seed)  # type: ignore[arg-type]
    measured = cropped(reference, np.eye(4), volume)
    if not len(measured):
        raise DataError(f"expected points of the measured cloud in the crop volume, found none of {len(reference)}")
    matrix, found = matched.matrix, Registration(np.eye(4), 0.0, 0.0)
    for voxel, radius in STAGES:
        here = cropped(cloud, matrix, volume)
        if not len(here):
            break
        if voxel is None:
            source, target = in_order(uniformly(here), tau), uniformly(measured)
        else:
            source, target = voxel_means(here, voxel * tau), voxel_means(measured, voxel * tau)
        found = icp(source, target, radius=radius * tau, **ICP)  # type: ignore[arg-type]
        matrix = found.matrix @ matrix
    here = cropped(cloud, matrix, volume)
    points, truth = voxel_means(here, SCORED_VOXEL * tau), voxel_means(measured, SCORED_VOXEL * tau)
    precision = recall = 0.0
    if len(points):
        precision = float((distances(points, truth, SCORED_VOXEL * tau) < tau).mean())
        recall = float((distances(truth, points, SCORED_VOXEL * tau) < tau).mean())
    return TanksScore(
        precision=precision,
        recall=recall,
        f=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        tau=tau,
        points=len(cloud),
        points_cropped=len(here),
        points_scored=len(points),
        reference_points=len(truth),
        scale=float(np.cbrt(np.linalg.det(matrix[:3, :3]))),
        cameras=len(cameras),
        cameras_matched=matched.fitness,
        registration_fitness=found.fitness,
        registration_rmse=found.rmse,
    )


def cropped(
    points: Float[np.ndarray, "n 3"], matrix: Float64[np.ndarray, "4 4"], volume: CropVolume
) -> Float64[np.ndarray, "m 3"]:
    """The points moved by a similarity, those of them that lie in the volume."""
    kept = []
    for start in range(0, len(points), POINTS_AT_ONCE):
        some = points[start : start + POINTS_AT_ONCE].astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        kept.append(some[volume.holds(some)])
    return np.concatenate(kept) if kept else np.zeros((0, 3))


def uniformly(points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "m 3"]:
    """Every k-th point of more than `UNIFORM_POINTS`."""
    return points[:: max(1, round(len(points) / UNIFORM_POINTS))]


def in_order(points: Float64[np.ndarray, "n 3"], side: float) -> Float64[np.ndarray, "n 3"]:
    """The points voxel by voxel: neighbours go the same way down a tree, which takes less time."""
    return points[np.argsort(voxel_numbers(points, side), kind="stable")]


def match_cameras(
    names: Sequence[str],
    centres: Float64[np.ndarray, "v 3"],
    log: Sequence[LoggedPose],
    alignment: Float64[np.ndarray, "4 4"],
    mapping: Sequence[tuple[int, int]] | None = None,
) -> tuple[Float64[np.ndarray, "k 3"], Float64[np.ndarray, "k 3"]]:
    """The scan's camera centres and, for each, where the measured cloud's trajectory says that it stands.

    Args:
        names: of the photographs.
        centres: of their cameras, in whatever frame.
        log: <Scene>_COLMAP_SfM.log; its k-th pose is that of image k.
        alignment: <Scene>_trans.txt, from the log's frame to that of the measured cloud.
        mapping: (image, frame), for a scan of more than 1600 frames of the film (`formats.trajectory.read_mapping`).

    Raises:
        DataError: a photograph that the log has no pose of, frames of a film without a mapping.
    """
    theirs = np.stack([pose.world_from_cam[:3, 3] for pose in sorted(log, key=lambda pose: pose.index)])
    theirs = theirs @ alignment[:3, :3].T + alignment[:3, 3]
    if len(names) > FILM_POSES:
        if mapping is None:
            raise DataError(
                f"expected the frames of a film, as {len(names)} photographs are, to come with a "
                "_mapping_reference.txt, found none; add it beside the measured cloud"
            )
        place = {number: k for k, number in enumerate(image_numbers(names))}
        pairs = [(place[frame], image) for image, frame in mapping if frame in place and image < len(theirs)]
    else:
        pairs = list(enumerate(image_numbers(names, len(theirs))))
    ours, partners = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return centres[ours], theirs[partners]
