"""Every setting of the project: name, type, bound, default, and in its description the unit and the source.

The only place where a default is written. Imports no torch, because the Snakefile imports it on every run. What
changes numbers is a setting here; what does not (device, cores, memory) is a resource, a profile entry or an
environment variable.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from kdmvs.errors import SettingsError
from kdmvs.scan_lists import expanded

RECIPES = Path(__file__).parent / "recipes"
"""The recipes, one file of choices each."""

MOST_YAML, MOST_NODES, DEEPEST = 1_000_000, 200_000, 32
"""Bytes of a file of settings; values in one, aliases written out; levels of nesting."""
MOST_MISTAKES, LONGEST_MESSAGE = 20, 3000
"""Mistakes that a message names; its characters."""
OPENING = (
    yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken,
)  # fmt: skip
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
NO_YAML = (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, KeyError)
"""What PyYAML raises where a text is none: its constructors of numbers and dates raise many kinds."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
ScanName = Annotated[str, Field(pattern=NAME_PATTERN)]
ScanEntry = Annotated[str, Field(pattern=rf"^@.+$|{NAME_PATTERN}")]
"""A scan, or a list of scans (`kdmvs.scan_lists`)."""
VariantName = Annotated[str, Field(pattern=NAME_PATTERN)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Channels = Annotated[int, Field(ge=1, le=1024)]
Side = Annotated[int, Field(ge=32, multiple_of=32)]
"""Of an image, in pixels: three halvings at a quarter of the resolution."""
Hypotheses = Annotated[int, Field(ge=8, multiple_of=8)]


def canonical(values: Mapping[str, Any]) -> str:
    """One JSON string for equal values."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical(self) -> str:
        """One JSON string for equal settings, whatever way they were written: what a rule carries and a stage gets."""
        return canonical(self.model_dump(mode="json"))


class SyntheticSettings(Settings):
    """Procedural scans: textured surfaces, calibrated cameras, exact depth, a reference cloud."""

    kind: Literal["synthetic"] = "synthetic"
    seed: int = Field(0, ge=0, description="Seed of the scenes; a scan's own seed follows from this and its name.")
    views: int = Field(9, ge=3, description="Views per scan.")
    lights: int = Field(3, ge=1, le=7, description="Light conditions per scan (DTU has 7); light 0 is the default.")
    image_size: tuple[Side, Side] = Field((128, 160), description="Height and width in pixels; multiples of 32.")
    reference_points: int = Field(60000, ge=1000, description="Points of the reference cloud of a scan.")


class FolderSettings(Settings):
    """What all datasets that lie in folders have in common."""

    root: str = Field(..., description="Folder that holds the scans, relative to the working directory.")
    image_size: tuple[Side, Side] | None = Field(
        None,
        description="Resize to cover this height and width (pixels), then crop the centre; a photograph of which that "
        "would cut off more than a third is fitted in and the rest masked. None keeps the photographs' size (that of "
        "most of them, where they differ) but crops to multiples of 32.",
    )
    depth_range: tuple[Positive, Positive] | None = Field(
        None,
        description="First and last depth to look at in every view, in scan units, instead of what the dataset says; "
        "none: the dataset's, else from sparse points, else from the cameras.",
    )
    depth_margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="A depth range that is found from points is widened by this share of its ends."
    )
    neighbours: int = Field(
        10, ge=1, description="Best neighbours kept of every view where the dataset does not say them."
    )
    masks: bool = Field(
        True,
        description="Honour the dataset's masks, or where it has none the photographs' alpha channels; what a "
        "photograph does not show is masked in any case.",
    )

    triangulate: bool = Field(
        True,
        description="Where the dataset says neither ranges nor points nor depth: match the photographs and triangulate "
        "under the given cameras, instead of guessing ranges from the cameras alone.",
    )

    @model_validator(mode="after")
    def _range_is_one(self) -> FolderSettings:
        if self.depth_range is not None and self.depth_range[0] >= self.depth_range[1]:
            raise ValueError(f"depth_range: expected two growing depths, found {list(self.depth_range)}")
        return self


class AutoSettings(FolderSettings):
    """Scans of any kind that can be told from their folders, one folder per scan under `root`."""

    kind: Literal["auto"] = "auto"


class MvsnetSettings(FolderSettings):
    """Scans in the MVSNet layout (images/, cams/, pair.txt), one folder per scan under `root`."""

    kind: Literal["mvsnet"] = "mvsnet"
    depth_line: Literal["auto", "interval", "maximum"] = Field(
        "auto",
        description="Meaning of the second number of a two-number depth line; `auto` refuses to guess when it is "
        "larger than the first.",
    )
    planes: int = Field(192, ge=2, description="Depth planes where a depth line states an interval but no number.")
    pairs: Literal["listed", "found"] = Field(
        "listed", description="Neighbours as pair.txt lists them, or found from sparse points or cameras."
    )
    half_pixel: bool = Field(
        False,
        description="The cameras have the first pixel's centre at (0.5, 0.5), as colmap2mvsnet leaves COLMAP's; "
        "MVSNet's own convention is (0, 0), and no file says which.",
    )


class ColmapSettings(FolderSettings):
    """Scans as COLMAP's projects (images/, sparse/0), one folder per scan under `root`."""

    kind: Literal["colmap"] = "colmap"
    model: str | None = Field(
        None, description="Folder of the sparse model below a scan's; none: the one with the most images."
    )
    images: str | None = Field(
        None, description="Folder of the photographs below a scan's; none: images/ beside the model."
    )


class PhotographsSettings(FolderSettings):
    """Photographs and nothing else, one folder per scan under `root`; cameras by structure from motion (COLMAP's)."""

    kind: Literal["photographs"] = "photographs"
    max_side: int = Field(
        1600, ge=256, description="Features are looked for in photographs whose longer side is at most this, in pixels."
    )
    features: int = Field(4096, ge=256, description="Most features per photograph.")
    masked_features: bool = Field(
        False,
        description="Look for features on the masks only: for an object that was turned before a camera that stood.",
    )
    camera: Literal["SIMPLE_RADIAL", "RADIAL", "OPENCV"] = Field(
        "SIMPLE_RADIAL", description="Lens model that is estimated: one, two or four coefficients."
    )
    single_camera: bool = Field(
        False,
        description="All photographs are of one camera that did not zoom; otherwise one per size, make and focal "
        "length in the EXIF data.",
    )
    exhaustive_up_to: int = Field(
        80,
        ge=2,
        description="Every photograph is matched with every other up to this many; more are matched in the order of "
        "their names, as a walk or a film was taken.",
    )
    least_registered: Share = Field(
        0.5, description="Fewer of the photographs with a pose, as a share, are an error and not a note."
    )
    least_angle_deg: float = Field(
        1.0, ge=0, description="Least median angle under which a point is seen: less was turned on the spot."
    )
    seed: int = Field(0, ge=0, description="Seed of the robust estimators.")


class DtuSettings(FolderSettings):
    """DTU as MVSNet has preprocessed it: `root` is dtu_training (Cameras/, Rectified/, ...); scans are scan2, ..."""

    kind: Literal["dtu"] = "dtu"
    test_root: str | None = Field(
        None,
        description="Folder of dtu_test (scanS/images, cams, pair.txt), where the scans of the list dtu-test are read; "
        "none: they are read from `root`.",
    )
    reference_root: str | None = Field(
        None,
        description="Folder of the measured clouds, stlSSS_total.ply (DTU's Points/stl), of the scans that are scored; "
        "none: there are none.",
    )
    observability_root: str | None = Field(
        None,
        description="Folder of ObsMaskS_10.mat and PlaneS.mat (DTU's ObsMask), which `evaluation.protocol: dtu` asks "
        "for; none: there are none.",
    )
    depth_line: Literal["auto", "interval", "maximum"] = Field(
        "auto", description="Meaning of the second number of a two-number depth line (`maximum` for PatchmatchNet's)."
    )
    planes: int = Field(192, ge=2, description="Depth planes where a depth line states an interval but no number.")
    interval_scale: Positive = Field(
        1.06, description="Factor of the files' interval of 2.5 mm: depths of 425 to 931.15 mm, as CasMVSNet's."
    )
    default_light: int = Field(
        3, ge=0, le=6, description="Light 0 of a scan, which is labelled and fused; 3: all lights on (DTU's own code)."
    )
    test_image_size: tuple[Side, Side] | None = Field(
        (864, 1152), description="Height and width of the test set's scans (paper 4.3); none: as `image_size` says."
    )


class BlendedMvsSettings(FolderSettings):
    """BlendedMVS or BlendedMVG, low or high resolution: `root` holds a folder per scene, called by its PID."""

    kind: Literal["blendedmvs"] = "blendedmvs"
    masked: bool = Field(False, description="Take the images in which what the model does not cover is black.")


class TanksAndTemplesSettings(FolderSettings):
    """Tanks and Temples: `root` holds the scenes, or intermediate/, advanced/ and training/ with them."""

    kind: Literal["tanks_and_temples"] = "tanks_and_temples"
    cameras: str = Field(
        "cams",
        pattern=r"^[A-Za-z0-9_{}-]+$",
        description="Folder of the cameras below a scene's. `cams_{scene}` are the short-range cameras of the "
        "intermediate scenes where their archive was unpacked into them (cams_family, ...); a scene without takes "
        "cams/ and says so. MVSNet and Vis-MVSNet used short range, R-MVSNet long range.",
    )
    depth_line: Literal["auto", "interval", "maximum"] = Field(
        "auto", description="Meaning of the second number of a two-number depth line (`maximum` for TransMVSNet's)."
    )
    planes: int = Field(192, ge=2, description="Depth planes where a depth line states an interval but no number.")
    tuned_range: bool = Field(
        False,
        description="End each range 192 tuned intervals after its start, as most published numbers do. Warning: they "
        "were tuned by eye on the very scenes of the test.",
    )


class Eth3dSettings(FolderSettings):
    """ETH3D's high-resolution multi-view scenes, undistorted, with the laser scans of the training scenes."""

    kind: Literal["eth3d"] = "eth3d"


class TransformsSettings(FolderSettings):
    """Scans with a transforms.json (NeRF, instant-ngp, nerfstudio), one folder per scan under `root`."""

    kind: Literal["transforms"] = "transforms"
    file: str | None = Field(
        None, description="The list of frames in a scan's folder; none: transforms.json, else transforms_train.json."
    )
    depth_unit: float = Field(
        0.001,
        gt=0,
        description="One step of 16-bit depth maps (depth_file_path) in the scan's unit; nerfstudio's 0.001.",
    )


class StrechaSettings(FolderSettings):
    """Scans of Strecha's benchmark (.camera files), one folder per scan under `root`."""

    kind: Literal["strecha"] = "strecha"


class MiddleburySettings(FolderSettings):
    """Scans of the Middlebury multi-view benchmark (*_par.txt), one folder per scan under `root`."""

    kind: Literal["middlebury"] = "middlebury"


class IdrSettings(FolderSettings):
    """Scans as IDR and NeuS have them (cameras_sphere.npz, image/, mask/), one folder per scan under `root`."""

    kind: Literal["idr"] = "idr"


class RgbdSettings(FolderSettings):
    """RGB-D sequences with poses (7-Scenes, TUM, exported ScanNet), one folder per sequence under `root`."""

    kind: Literal["rgbd"] = "rgbd"
    every: int = Field(1, ge=1, description="Take every n-th frame; frames at 30 Hz show nearly the same.")
    color_camera: tuple[Positive, Positive, float, float] | None = Field(
        None,
        description="fx, fy, cx, cy of the photographs (pixels, centre of the first at 0); none: what the layout says "
        "or is known for.",
    )
    depth_camera: tuple[Positive, Positive, float, float] | None = Field(
        None, description="The same of the depth maps; none: what the layout says or is known for."
    )
    distortion: tuple[float, float, float, float, float] | None = Field(
        None, description="k1, k2, p1, p2, k3 of the photographs as in OpenCV; none: what the layout is known for."
    )
    color_from_depth: tuple[float, float, float, float, float, float] = Field(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        description="From the depth to the colour camera: rotation vector (radians), then translation (metres).",
    )
    depth_unit: Positive | None = Field(
        None, description="Metres per step of a depth map; none: 0.001, and 1/5000 for TUM."
    )


DatasetSettings = Annotated[
    SyntheticSettings
    | AutoSettings
    | MvsnetSettings
    | ColmapSettings
    | PhotographsSettings
    | DtuSettings
    | BlendedMvsSettings
    | TanksAndTemplesSettings
    | Eth3dSettings
    | TransformsSettings
    | StrechaSettings
    | MiddleburySettings
    | IdrSettings
    | RgbdSettings,
    Field(discriminator="kind"),
]


class CascadeSettings(Settings):
    """What the cascades of three cost volumes have in common."""

    levels: ClassVar[int] = 3
    name: str
    hypotheses: tuple[Hypotheses, Hypotheses, Hypotheses]
    base_planes: int = Field(
        192, ge=2, description="The base interval is the depth range divided by this number (networks.md 6.4)."
    )
    feature_channels: Channels = Field(8, description="Channels of the finest features; 16 and 32 follow for 8.")
    regulariser_channels: tuple[Channels, Channels, Channels] = Field(
        (8, 8, 8), description="Base channels of the cost regularisation per level."
    )
    cost: Literal["variance", "group_correlation"] = Field(
        "variance",
        description="Cost of a hypothesis: variance over the views (MVSNet), or correlation with the reference in "
        "groups of channels, mean over the sources that see the point (Guo et al. 2019). Not of the paper.",
    )
    groups: int = Field(
        8,
        ge=1,
        description="Groups of `cost: group_correlation` (CasMVSNet_pl: 8), at most one per channel; they divide the "
        "channels.",
    )
    visibility: bool = Field(
        False,
        description="Weight the sources per pixel by how sure each of them is of a depth (after Vis-MVSNet, 2020); "
        "the cost is then the mean over pairs. Not of the paper.",
    )
    read_out: Literal["expectation", "winner"] = Field(
        "expectation", description="Depth of a level: expectation (as published) or the likeliest (released student)."
    )

    @model_validator(mode="after")
    def _groups_divide_the_channels(self) -> CascadeSettings:
        for channels in (self.feature_channels, 2 * self.feature_channels, 4 * self.feature_channels):
            if self.cost == "group_correlation" and channels % min(self.groups, channels):
                raise ValueError(f"groups: {self.groups} do not divide {channels} feature channels")
        return self


class CasMVSNetSettings(CascadeSettings):
    """CasMVSNet (Gu et al., CVPR 2020): a cascade of three cost volumes."""

    name: Literal["casmvsnet"] = "casmvsnet"
    hypotheses: tuple[Hypotheses, Hypotheses, Hypotheses] = Field(
        (48, 32, 8), description="Depth hypotheses per level, multiples of 8."
    )
    interval_ratios: tuple[Positive, Positive, Positive] = Field(
        (4.0, 1.0, 0.5),
        description="Spacing of a level's hypotheses in base intervals; the first level spans the whole range. The "
        "interval decays by 0.25 and 0.5 (paper 4.2).",
    )
    extra_convolution: bool = Field(
        False, description="One more 3D convolution before each regulariser, as the released KD-MVS student has."
    )
    uncertainty: bool = Field(
        False,
        exclude_if=lambda value: not value,  # so that strings of settings are those from before there was this key
        description="A log variance per pixel and level, by the UncertaintyNets of the released KD-MVS teacher; only "
        "`teacher.loss.form: released` trains them.",
    )


class UCSNetSettings(CascadeSettings):
    """UCS-Net (Cheng et al., CVPR 2020): ranges by the variance of the level before; other keys as CasMVSNet's."""

    name: Literal["ucsnet"] = "ucsnet"
    hypotheses: tuple[Hypotheses, Hypotheses, Hypotheses] = Field(
        (64, 32, 8), description="Depth hypotheses per level, multiples of 8."
    )
    deviations: Positive = Field(
        1.5, description="lambda: a level looks this many standard deviations before and behind the depth it gets."
    )
    least_spacing: Positive = Field(
        0.05,
        description="Least spacing of a level's hypotheses in base intervals, where the level before is sure of its "
        "depth; the paper has none.",
    )


class MVSNetSettings(Settings):
    """MVSNet (Yao et al., ECCV 2018): one cost volume at a quarter of the resolution."""

    levels: ClassVar[int] = 1
    name: Literal["mvsnet"] = "mvsnet"
    hypotheses: Hypotheses = Field(192, description="Depth hypotheses over the whole range, a multiple of 8.")
    feature_channels: Channels = Field(8, description="Channels of the first convolutions; 32 features follow for 8.")
    regulariser_channels: Channels = Field(8, description="Base channels of the cost regularisation.")
    read_out: Literal["expectation", "winner"] = Field(
        "expectation", description="Depth: expectation (as published) or the likeliest hypothesis."
    )


def _named(values: Any) -> Any:
    """A network whose name is left out is CasMVSNet."""
    return {"name": "casmvsnet", **values} if isinstance(values, Mapping) else values


def _has_uncertainty(network: Settings) -> bool:
    return bool(getattr(network, "uncertainty", False))


NetworkSettings = Annotated[
    CasMVSNetSettings | MVSNetSettings | UCSNetSettings, Field(discriminator="name"), BeforeValidator(_named)
]


class PublishedSettings(Settings):
    """What the entries of a published checkpoint do not say of its network; none: as it was published."""

    hypotheses: tuple[Hypotheses, ...] | None = Field(
        None,
        description="Depth hypotheses per level; none: 48, 32, 8 (CasMVSNet and KD-MVS), 192 (MVSNet), "
        "64, 32, 8 (UCS-Net).",
    )
    interval_ratios: tuple[Positive, ...] | None = Field(
        None,
        description="Spacing of a level's hypotheses in base intervals; none: 4, 2, 1 (CasMVSNet), 4, 1, 0.5 (KD-MVS).",
    )
    base_planes: int | None = Field(
        None, ge=2, description="The base interval is the depth range divided by this number; none: 192."
    )
    deviations: Positive | None = Field(
        None, description="Standard deviations that a level of UCS-Net looks around a depth; none: 1.5."
    )
    read_out: Literal["expectation", "winner"] | None = Field(
        None, description="Depth of a level; none: the likeliest for KD-MVS students, else the expectation."
    )
    uncertainty: bool | None = Field(
        None,
        description="Whether the UncertaintyNets of a KD-MVS teacher are kept; none: they are left out, as depth does "
        "not need them.",
    )


class DepthMapsSettings(Settings):
    """Depth maps made by another tool, a folder per scan."""

    format: Literal["auto", "pfm", "colmap", "dmb"] = Field(
        "auto", description="PFM (MVSNet family), COLMAP's dense maps, gipuma's and ACMM's .dmb; auto: what is there."
    )
    match: Literal["auto", "name", "number"] = Field(
        "auto",
        description="A map is named after the view's photograph, or by the view's number; auto: names, where all fit.",
    )
    preferred: Literal["geometric", "photometric"] = Field(
        "geometric", description="Of COLMAP's maps, where a view has both."
    )
    scale: Positive = Field(1.0, description="Scan units per unit of the maps.")


class ExportSettings(Settings):
    """A scan and what was found of it, for another tool."""

    layout: Literal["mvsnet", "colmap"] = Field("mvsnet", description="MVSNet's folders, or a workspace of COLMAP.")
    points: int = Field(20000, ge=0, description="Most points of the cloud in COLMAP's sparse model.")


class BundleSettings(Settings):
    """Clouds and trajectories of the hidden scenes of Tanks and Temples, for the site."""

    images: dict[ScanName, Annotated[int, Field(ge=1)]] = Field(
        {},
        description="Photographs of a scene, as many poses as its .log must have; a scene that is not here: as the "
        "data set's own .log has, else up to the scan's last photograph.",
    )


class SourceSelection(Settings):
    """Which views train and infer together."""

    views: int = Field(5, ge=2, description="N: the reference and its N - 1 best sources (paper 4.2).")


class TeacherLossSettings(Settings):
    """Photometric and featuremetric consistency (paper 3.1, eq. 1 to 3), or the loss of the released code."""

    form: Literal["consistency", "released"] = Field(
        "consistency",
        description="Eq. 3, or what the authors' code does, whose weights are 12, 3, 6 and 0.18 and whose "
        "`best_sources` is 3 (docs/released.md).",
    )
    photometric_weight: float = Field(1.0, ge=0, description="lambda_photo of eq. 3 (paper: 1; released: 12).")
    featuremetric_weight: float = Field(4.0, ge=0, description="lambda_fea of eq. 3 (paper: 4; released: 3).")
    feature_gradient: bool = Field(
        False,
        description="Whether the featuremetric loss trains the features, or only the depth. The paper leaves it open; "
        "measured, the features shrink towards a constant if it does (README, choices).",
    )
    best_sources: int | None = Field(
        None,
        ge=1,
        description="Per pixel, only the k sources with the least error count; none: all (eq. 3; released: 3).",
    )
    ssim_weight: float = Field(
        0.0, ge=0, description="Weight of (1 - SSIM) / 2 (3x3), per level; the paper has none (released: 6)."
    )
    smoothness_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the edge-aware smoothness of depth, relative to its mean (released form: in "
        "millimetres, `range_mm`); the paper has none (released: 0.18).",
    )
    external_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance between external features, those of a ResNet-18 trained on ImageNet "
        "(L*_fea of table 5), with consistency; the paper's own loss has none.",
    )
    external_weights: str | None = Field(
        None,
        description="File of torchvision's weights of ResNet-18 (resnet18-f37072fd.pth or resnet18-5c106cde.pth), "
        "relative to the working directory; nothing is fetched.",
    )
    external_random: bool = Field(
        False,
        description="External features of a ResNet-18 with random weights (by `optimiser.seed`): a control, not the "
        "paper's; the terms are then called `external_random`.",
    )
    log_variance_weight: float = Field(
        1.2, ge=0, description="Released form: w of exp(-s) L + w s, s the log variance of `network.uncertainty`."
    )
    range_mm: Positive = Field(
        506.15,
        description="Released form: its smoothness is in DTU's millimetres. Depth is counted as if the range of each "
        "sample were so long: that is DTU's (425 to 931.15 mm), and elsewhere no unit enters.",
    )

    @model_validator(mode="after")
    def _external_features_come_from_somewhere(self) -> TeacherLossSettings:
        if self.external_weights is not None and self.external_random:
            raise ValueError("loss: expected external_weights or external_random, found both; give one")
        if self.external_weight and self.external_weights is None and not self.external_random:
            raise ValueError(
                f"loss.external_weight is {self.external_weight:g}, but external_weights names no file; give "
                "torchvision's resnet18-f37072fd.pth, or external_random: true for random features, a control"
            )
        return self

    @model_validator(mode="after")
    def _the_released_form_has_no_terms_of_the_other(self) -> TeacherLossSettings:
        if self.form == "released" and (self.external_weight or self.feature_gradient):
            key = "external_weight" if self.external_weight else "feature_gradient"
            raise ValueError(f"loss.{key}: the released form has none; leave it out, or take form: consistency")
        return self


class SupervisionSettings(Settings):
    """Which depth a student learns, and where (paper, table 7)."""

    depth: Literal["validated", "measured"] = Field(
        "validated",
        description="`validated`: the pseudo labels of the model before it; `measured`: the scan's measured (or "
        "rendered) depth, inside the masks, without variance. Never one for want of the other.",
    )
    mask: Literal["validated", "all"] = Field(
        "validated",
        description="Pixels that count: those whose label is valid, or all whose depth is known (all and measured: no "
        "label is read).",
    )


class ConfidenceSettings(Settings):
    """What labelled pixels weigh beside each other; with two zeros all the same, as in the paper."""

    variance: NotNegative = Field(
        0.0,
        description="k of the weight 1 / (1 + k v), v being the label's variance in squared hypothesis spacings of the "
        "level.",
    )
    votes: NotNegative = Field(
        0.0, description="Power of N, the depths behind a label (its votes and the reference's own), in the weight."
    )


class PenaltySettings(Settings):
    """What a pixel's loss is multiplied by where sources contradict the student's depth (GC-MVSNet, WACV 2024)."""

    weight: NotNegative = Field(
        0.0, description="w of the factor 1 + w x, x being the share of sources that contradict (GC-MVSNet: 1 or 2)."
    )
    reprojection_px: tuple[Positive, ...] = Field(
        (1.0, 0.5, 0.25),
        max_length=3,
        description="Largest reprojection error per level, coarse to fine, in pixels of that level (GC-MVSNet).",
    )
    relative_depth_error: tuple[Positive, ...] = Field(
        (0.01, 0.005, 0.0025), max_length=3, description="Largest relative depth error per level (GC-MVSNet)."
    )


class ReleasedLossSettings(Settings):
    """What only `form: released` reads: the authors' loss term by term, its defects by name."""

    divergence_weight: NotNegative = Field(
        0.5, description="Weight of the Gaussian KL between the student's moments and the label (released code: 0.5)."
    )
    cross_entropy_weight: NotNegative = Field(
        2.0, description="Weight of the cross-entropy on the hypothesis nearest to the mean (released code: 2)."
    )
    width_defect: bool = Field(
        True, description="The Gaussian term is W times weaker, W being the level's width: moments of unlike shapes."
    )
    deviation_defect: bool = Field(
        True, description="Standard deviations stand in the Gaussian KL where its formula has variances."
    )
    range_defect: bool = Field(
        True, description="A mean outside a level's hypotheses counts as the first or the last; otherwise not at all."
    )
    label_range: tuple[float, float] = Field(
        (0.0, 0.94833),
        description="Part of the depth range whose labels count, as shares of it (released: 425 to 905 of DTU's "
        "425 to 931.15 mm).",
    )
    least_deviation: Positive = Field(
        1e-6, description="Added to every standard deviation, in `loss.unit` (released: 1e-6 mm)."
    )


class StudentLossSettings(Settings):
    """Distillation (paper 3.2, eq. 6), or one of the losses that it is compared with."""

    form: Literal["distillation", "l1", "cross_entropy", "released"] = Field(
        "distillation",
        description="Eq. 6; smooth l1 of the expected depth (CasMVSNet); cross-entropy on the nearest hypothesis; or "
        "what the released KD-MVS code minimises.",
    )
    level_weights: tuple[NotNegative, ...] | None = Field(
        None,
        max_length=3,
        description="Weights of the levels, coarse to fine; a network of fewer takes the last of them; none: 0.5, 1, 2 "
        "for l1 (CasMVSNet), otherwise all 1 (released KD-MVS).",
    )
    unit: Positive = Field(
        0.0019757,
        description="Depth that is 1 to `l1` and `released`, as a share of the depth range: a millimetre on DTU, "
        "1 / 506.15.",
    )
    beta: NotNegative = Field(
        1.0, description="Error below which l1 is quadratic, in `loss.unit` (CasMVSNet: 1 mm); 0: nowhere."
    )
    confidence: ConfidenceSettings = ConfidenceSettings()
    penalty: PenaltySettings = PenaltySettings()
    released: ReleasedLossSettings = ReleasedLossSettings()
    target: Literal["bin_mass", "density", "softmax_of_density"] = Field(
        "bin_mass",
        description="Pseudo probability of a hypothesis: the Gaussian's mass in its bin, the normalised density, or "
        "the paper's literal SoftMax of P(d_k), which is almost uniform.",
    )
    variance_floor: tuple[NotNegative, ...] = Field(
        (0.36, 0.36, 0.36),
        max_length=3,
        description="Least variance of a label per level, coarse to fine, in squared hypothesis spacings of that "
        "level; a network of fewer levels takes the last of them.",
    )
    least_probability: Positive = Field(
        1e-4,
        lt=0.01,
        description="Share of a uniform distribution mixed into both sides of eq. 6, so that it is finite.",
    )


class OptimiserSettings(Settings):
    """One training loop for all (paper 4.2: Adam, learning rate 0.001)."""

    epochs: int = Field(..., ge=1, description="Passes over the samples.")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="Optimiser steps counted as one epoch; none: every sample once."
    )
    batch: int = Field(1, ge=1, description="Samples per optimiser step, over all devices.")
    learning_rate: Positive = Field(1e-3, description="Adam's learning rate (paper 4.2).")
    weight_decay: float = Field(0.0, ge=0, description="Adam's L2 penalty.")
    warmup_steps: int = Field(500, ge=0, description="Steps over which the rate rises linearly from a third.")
    milestones: tuple[Share, ...] = Field(
        (0.625, 0.75, 0.875),
        description="Shares of the training after which the rate halves (CasMVSNet: epochs 10, 12, 14 of 16).",
    )
    gradient_clip: float | None = Field(10.0, gt=0, description="Largest norm of the gradient; none: no clipping.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Networks' arithmetic; geometry and losses are always float32. bfloat16 trains on "
        "GPUs only (torch 2.13's CPU backward crashes).",
    )
    validation_share: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the samples kept out of training for the self-supervised validation loss."
    )
    crop: tuple[Side, Side] | None = Field(
        None, description="Height and width of a random crop of every training sample (multiples of 32); none: whole."
    )
    seed: int = Field(0, ge=0, description="Seed of weights, sample order and crops.")


class TeacherOptimiserSettings(OptimiserSettings):
    """The training loop with the teacher's length."""

    epochs: int = Field(5, ge=1, description="Passes over the samples (paper 4.2: 5).")


class StudentOptimiserSettings(OptimiserSettings):
    """The training loop with a student's length."""

    epochs: int = Field(10, ge=1, description="Passes over the samples (paper 4.2: 10).")


class TeacherSettings(Settings):
    """Training of the teacher."""

    network: NetworkSettings = CasMVSNetSettings()
    sources: SourceSelection = SourceSelection()
    loss: TeacherLossSettings = TeacherLossSettings()
    optimiser: TeacherOptimiserSettings = TeacherOptimiserSettings()
    all_lights: bool = Field(True, description="Train on every light condition; otherwise on the default light.")
    initial: str | None = Field(
        None,
        description="A checkpoint, ours or published, whose weights the training begins with, as for fine-tuning on "
        "other scans without ground truth; relative to the working directory. None: random weights.",
    )

    @model_validator(mode="after")
    def _uncertainty_is_trained(self) -> TeacherSettings:
        if _has_uncertainty(self.network) and self.loss.form != "released":
            raise ValueError("network.uncertainty: only loss.form: released trains it; take that, or leave it out")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the training reads beside its scans."""
        external = self.loss.external_weights if self.loss.external_weight else None
        return tuple(path for path in (self.initial, external) if path is not None)


class StudentSettings(Settings):
    """Training of a student, from scratch unless `initial` says otherwise."""

    network: NetworkSettings = CasMVSNetSettings()
    sources: SourceSelection = SourceSelection()
    supervision: SupervisionSettings = SupervisionSettings()
    loss: StudentLossSettings = StudentLossSettings()
    optimiser: StudentOptimiserSettings = StudentOptimiserSettings()
    all_lights: bool = Field(True, description="Train on every light condition; otherwise on the default light.")
    initial: str | None = Field(
        None,
        description="A checkpoint, ours or published, whose weights every student begins with; relative to the "
        "working directory. None: random weights, from scratch (paper 3.2).",
    )

    @model_validator(mode="after")
    def _uncertainty_is_trained(self) -> StudentSettings:
        if _has_uncertainty(self.network):
            raise ValueError("network.uncertainty: nothing trains it in a student; leave it out")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the training reads beside its scans and labels."""
        return () if self.initial is None else (self.initial,)

    @property
    def needs_labels(self) -> bool:
        """Whether a training reads pseudo labels: not where it learns measured depth wherever that is known."""
        return self.supervision.depth == "validated" or self.supervision.mask == "validated"

    @model_validator(mode="after")
    def _every_level_has_a_variance_floor(self) -> StudentSettings:
        levels = self.network.levels
        of_levels = {
            "variance_floor": self.loss.variance_floor,
            "level_weights": self.loss.level_weights,
            "penalty.reprojection_px": self.loss.penalty.reprojection_px,
            "penalty.relative_depth_error": self.loss.penalty.relative_depth_error,
        }
        for key, values in of_levels.items():
            if values is not None and len(values) < levels:
                raise ValueError(f"loss.{key} has {len(values)} numbers, but {self.network.name} has {levels} levels")
        return self

    @model_validator(mode="after")
    def _the_loss_can_be_had(self) -> StudentSettings:
        loss = self.loss
        weighs = loss.confidence.variance > 0 or loss.confidence.votes > 0
        if weighs and self.supervision.depth == "measured":
            raise ValueError("loss.confidence weighs validated depth; set supervision.depth: validated or leave it out")
        if loss.form == "released":
            if self.supervision.depth == "measured":
                raise ValueError("loss.form: released compares spreads, and measured depth has none; take another form")
            if weighs or loss.penalty.weight > 0:
                raise ValueError("loss.form: released knows neither loss.confidence nor loss.penalty; leave them out")
            if loss.released.label_range[0] >= loss.released.label_range[1]:
                raise ValueError("loss.released.label_range: expected the smaller share first")
        if loss.form == "l1" and getattr(self.network, "read_out", "expectation") == "winner":
            raise ValueError("loss.form: l1 has no gradient through network.read_out: winner; take expectation")
        return self


class InferenceSettings(Settings):
    """Depth and confidence of every view of a scan."""

    views: int = Field(5, ge=2, description="N: the reference and its N - 1 best sources (paper 4.2).")
    network: NetworkSettings = Field(
        CasMVSNetSettings(),
        description="Network of a checkpoint that does not say its own, as the published ones; the released KD-MVS "
        "student needs `extra_convolution: true, read_out: winner`.",
    )
    confidence: Literal["four_bins", "maximum"] = Field(
        "four_bins", description="Confidence of a level: mass of four hypotheses (CasMVSNet) or the largest."
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="The network's arithmetic.")


class ConsistencySettings(Settings):
    """Cross-view check (paper 3.2, eq. 4)."""

    sources: int = Field(4, ge=1, description="Best sources asked about each pixel (paper: N - 1 = 4).")
    confidence: Share = Field(0.15, description="tau_conf: least product confidence (paper: 0.15).")
    reprojection_px: Positive = Field(1.0, description="tau_reproj: largest reprojection error (paper: 1 px).")
    relative_depth_error: Positive = Field(0.01, description="tau_geo: largest relative depth error (paper: 0.01).")
    least_votes: int | None = Field(
        None, ge=1, description="Sources that must agree; none: all of them, the paper's intersection."
    )

    @model_validator(mode="after")
    def _votes_can_be_had(self) -> ConsistencySettings:
        if self.least_votes is not None and self.least_votes > self.sources:
            raise ValueError(f"least_votes {self.least_votes} is more than the sources asked, {self.sources}")
        return self


class EnsembleSettings(Settings):
    """Several models' depth as one more model, `ensemble`; beyond the paper."""

    models: tuple[str, ...] = Field(
        (), description="Models whose depth maps are combined, e.g. [round1, round2]; none: there is no ensemble."
    )
    relative_depth_error: Positive = Field(
        0.01, description="A model agrees with the most confident one up to this share of its depth."
    )


class EncodingSettings(Settings):
    """Probabilistic encoding (paper 3.2, eq. 5)."""

    relative_variance_floor: float = Field(
        0.0, ge=0, description="Least variance of a label, as a share of its squared mean depth; the paper has none."
    )


class FusionSettings(Settings):
    """Depth maps to one point cloud per scan; one setting for all scans."""

    method: Literal["geometric", "gipuma", "dynamic"] = Field(
        "geometric",
        description="Fixed thresholds on reprojection and depth (MVSNet), disparity as fusibile does, or thresholds "
        "that loosen with the number of agreeing views (D2HC-RMVSNet), up to 2.5 px and 0.8 % of depth, where "
        "`least_votes` are enough: ask for more there than with geometric.",
    )
    sources: int = Field(10, ge=1, description="Best sources asked about each pixel (gipuma asks every view).")
    confidence: Share = Field(0.3, description="Least product confidence of a point.")
    least_votes: int = Field(3, ge=1, description="Sources that must agree (gipuma: views; dynamic: at the loosest).")
    reprojection_px: Positive = Field(1.0, description="Largest reprojection error in px (geometric).")
    relative_depth_error: Positive = Field(0.01, description="Largest relative depth error (geometric).")
    disparity_px: Positive = Field(0.25, description="Largest disparity difference in px (gipuma).")


class DtuProtocolSettings(Settings):
    """DTU's own procedure for clouds; the defaults are its constants (Jensen et al., its MATLAB code), in mm."""

    thinning: Positive = Field(
        0.2, description="Thin the cloud to one point per ball of this radius; the reference is thin."
    )
    cutoff: Positive = Field(20.0, description="Distances from here on are dropped and counted.")
    block: Positive = Field(
        60.0,
        description="Side of the blocks from the lower corner of the bounding box; a point outside all blocks, or "
        "farther than this from the other cloud, is as far as this.",
    )

    @model_validator(mode="after")
    def _drops_what_is_too_far_to_be_told(self) -> DtuProtocolSettings:
        if self.cutoff > self.block:
            raise ValueError(
                f"evaluation.dtu.cutoff: expected at most the block, {self.block:g}, beyond which the procedure knows "
                f"no distances, found {self.cutoff:g}"
            )
        return self


class DarmonProtocolSettings(Settings):
    """Errors of depth maps in steps of the depth range (Darmon et al. 2021); the defaults are their constants."""

    planes: int = Field(128, ge=2, description="A step is the reference's depth range divided by this number.")
    sources: int = Field(4, ge=1, description="A reference with fewer neighbours is left out (N - 1; N = 5).")
    thresholds: tuple[Positive, ...] = Field((1.0, 3.0), description="e1 and e3: percentage with a larger error.")


class TanksProtocolSettings(Settings):
    """The F-score of Tanks and Temples' toolbox; its other numbers are constants of the procedure."""

    tau: Positive | None = Field(
        None,
        description="Distance in metres within which a point counts; none: the scene's own (0.003 to 0.025), which "
        "only the seven training scenes have.",
    )


class Eth3dProtocolSettings(Settings):
    """Accuracy, completeness and F1 of ETH3D's evaluation program."""

    tolerances: Annotated[tuple[Positive, ...], Field(min_length=1)] = Field(
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        description="Distances in metres within which a point counts (its README); the ranking is at 0.02.",
    )


class EvaluationSettings(Settings):
    """Clouds against a reference cloud, depth maps against measured depth (docs/evaluation.md)."""

    protocol: Literal["plain", "dtu", "tanks_and_temples", "eth3d"] = Field(
        "plain",
        description="How clouds are scored: plain distances of thinned clouds, DTU's procedure with its masks, the "
        "F-score of Tanks and Temples, ETH3D's accuracy and completeness. A scan without what a protocol asks for is "
        "an error.",
    )
    dtu: DtuProtocolSettings = DtuProtocolSettings()
    tanks_and_temples: TanksProtocolSettings = TanksProtocolSettings()
    eth3d: Eth3dProtocolSettings = Eth3dProtocolSettings()
    depth_protocol: Literal["relative", "darmon"] = Field(
        "relative",
        description="How depth maps are scored: errors in scan units and relative ones, over all pixels; `darmon` adds "
        "BlendedMVS's EPE, e1 and e3 per image.",
    )
    darmon: DarmonProtocolSettings = DarmonProtocolSettings()
    depth_error_thresholds: tuple[Positive, ...] = Field(
        (), description="Share of pixels with a larger absolute depth error, in scan units (DTU: 2, 4, 8)."
    )
    thinning: float | None = Field(
        None,
        gt=0,
        description="Thin the cloud to one point per ball of this radius, in scan units (DTU: 0.2); none: "
        "the reference cloud's own median spacing.",
    )
    cutoff: float | None = Field(
        None,
        gt=0,
        description="Distances from here on are dropped and counted, in scan units (DTU: 20); none: 100 "
        "times the thinning radius.",
    )
    thresholds: tuple[Positive, ...] = Field(
        (1.0, 2.0, 5.0), description="Precision, recall and F at these distances, in thinning radii."
    )
    depth_thresholds: tuple[Positive, ...] = Field(
        (0.01, 0.02, 0.05), description="Share of pixels within these relative depth errors."
    )
    seed: int = Field(0, ge=0, description="Seed of the order in which points are thinned.")

    @model_validator(mode="after")
    def _has_one_thinning(self) -> EvaluationSettings:
        for key in ("thinning", "cutoff"):
            if self.protocol != "plain" and getattr(self, key) is not None:
                raise ValueError(
                    f"evaluation.{key}: it is the plain protocol's, found with protocol {self.protocol}, which has its "
                    f"own numbers, see evaluation.{self.protocol}; leave it out"
                )
        return self


class FigureSettings(Settings):
    """Pictures of the report, and the paper's figures 3 to 8, which are made when asked for: `snakemake figure3`."""

    views: int = Field(2, ge=1, description="Reference views shown per scan, and of figure 8.")
    scan: ScanName | None = Field(
        None,
        description="Scan of figures 3 to 7; none: the first evaluation scan, without one the first training scan.",
    )
    labelled_scan: ScanName | None = Field(
        None, description="Scan of figure 8, whose pseudo labels are shown; none: the first training scan."
    )
    view: int | None = Field(
        None, ge=0, description="Reference view of figures 3 to 5; none: the middle one that has neighbours."
    )
    source: int = Field(
        0, ge=0, description="Source view of figures 4 and 5: the reference's best neighbour (0), the next (1), ..."
    )
    external_weights: str | None = Field(
        None,
        description="torchvision's weights file of ResNet-18, relative to the working directory: figure 3 shows its "
        "features beside the network's own, and a row of table 5 trains with them. Without it the picture goes "
        "without, and says so; the table is refused.",
    )
    external_random: bool = Field(
        False,
        description="There features of a ResNet-18 with random weights, which picture and table say: a control.",
    )
    threshold: Positive | None = Field(
        None,
        description="tau of figure 7: what is nearer is right, in scan units (the paper's Tanks and Temples scene: 3 "
        "mm); none: twice the reference's median spacing.",
    )

    @model_validator(mode="after")
    def _external_features_come_from_one_place(self) -> FigureSettings:
        if self.external_weights is not None and self.external_random:
            raise ValueError("figures: expected external_weights or external_random, found both; give one")
        return self


FIGURES_READ = {
    "figures": ("views",),
    "figure3": ("view", "external_weights", "external_random"),
    "figure4": ("view", "source"),
    "figure5": ("view", "source"),
    "figure6": (),
    "figure7": ("threshold",),
    "figure8": ("views",),
}
"""Rules that make pictures, and the keys of `FigureSettings` that their stages read; the others say which scan."""


class ScansSettings(Settings):
    """Which scans train, and which are fused and scored."""

    training: tuple[ScanEntry, ...] = Field(
        ...,
        min_length=1,
        description="Scans that teacher and students see. `@dtu-train` stands for a published list, `@lists/mine.txt` "
        "for the lines of a text file (lists of scans, above).",
    )
    evaluation: tuple[ScanEntry, ...] = Field(
        (), description="Scans that are fused and scored, named alike; their ground truth is never used in training."
    )
    pictured: int = Field(
        20,
        ge=0,
        description="In the report, the first so many scans have an overview, and the first so many evaluation scans "
        "pictures of their depth and clouds.",
    )

    @field_validator("training", "evaluation", mode="after")
    @classmethod
    def _lists_are_expanded(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return expanded(entries)
        except SettingsError as error:
            raise ValueError(str(error)) from None


class StartSettings(Settings):
    """Where the run begins, if not with the training of a teacher."""

    checkpoint: str | None = Field(
        None, description="A checkpoint, ours or published, that is the teacher; relative to the working directory."
    )
    network: PublishedSettings = PublishedSettings()
    depth_maps: str | None = Field(
        None,
        description="A folder with a folder of depth maps per scan, made by another tool, that are the teacher's; "
        "relative to the working directory.",
    )
    maps: DepthMapsSettings = DepthMapsSettings()

    @model_validator(mode="after")
    def _begins_once(self) -> StartSettings:
        if self.checkpoint is not None and self.depth_maps is not None:
            raise ValueError("start: expected checkpoint or depth_maps, found both; give one")
        return self


T = TypeVar("T", TeacherSettings, StudentSettings)


RuleName = Literal[
    "prepare", "overview", "teacher", "control", "student", "infer", "check", "encode", "fuse", "evaluate", "figures",
    "curves", "summarise", "compare", "tabulate", "import_checkpoint", "import_depth", "ensemble", "figure3", "figure4",
    "figure5", "figure6", "figure7", "figure8",
]  # fmt: skip


class RuleResources(Settings):
    """What a rule asks for, where it differs from the rule's own; never part of the numbers."""

    gpus: int | None = Field(
        None, ge=0, description="GPUs of a job; a training with several runs data-parallel on them."
    )
    threads: int | None = Field(None, ge=1, description="Cores of a job.")
    mem_mb: int | None = Field(None, ge=1, description="Memory of a job in MB; doubled with every retry.")
    runtime: int | None = Field(
        None, ge=1, description="Minutes a job may take on a cluster; doubled with every retry."
    )


RecipeName = Literal["paper", "released", "supervised", "photometric-only", "short"]


@cache
def recipe(name: str) -> Mapping[str, Any]:
    """The choices of a recipe, as a configuration file would hold them."""
    found = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert isinstance(found, dict)
    return found


def laid_under(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Given keys over those of a base; what the base says of one network is not said of another."""
    found = {**base, **given}
    for key in base.keys() & given.keys():
        under, over = base[key], given[key]
        if isinstance(under, Mapping) and isinstance(over, Mapping):
            another = key == "network" and over.get("name", "casmvsnet") != under.get("name", "casmvsnet")
            found[key] = dict(over) if another else laid_under(under, over)
    return found


class TablesSettings(Settings):
    """The paper's tables as targets: `snakemake table5` (docs/experiments.md)."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2),
        min_length=1,
        description="Every row is trained once with each of these seeds; the table has mean and spread.",
    )
    changes: dict[str, dict[str, Any]] = Field(
        {}, description="Per table, what all its runs change, e.g. `table7: {rounds: 1}`; the keys of `variants`."
    )
    planned: tuple[str, ...] = Field(
        (),
        description="Tables to plan beside those that the command line names; for workflows that use this as a module.",
    )

    @model_validator(mode="after")
    def _a_seed_is_another_run(self) -> TablesSettings:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"tables.seeds: expected each seed once, found {list(self.seeds)}")
        return self


VARYING = frozenset(
    [
        "rounds", "control", "seed", "start", "teacher", "student", "inference", "consistency", "consistency_of",
        "ensemble", "encoding", "fusion", "evaluation",
    ]
)  # fmt: skip
"""Keys in which the variants of a run may differ; data, folders and resources are common to all of them."""


class RunSettings(Settings):
    """The choices of a run: what `config.yaml` may hold."""

    experiment: ScanName = Field(..., description="Name of the results folder.")
    recipe: RecipeName = Field(
        "paper",
        description="Choices of the method under those that stand here: `paper`, `released` (what the authors' code "
        "does), `supervised` (measured depth), `photometric-only`, `short` (the paper's in a few hundred steps). "
        "Tables name it, with what was changed of it.",
    )
    rounds: int = Field(2, ge=0, description="Distillation rounds; each student is the next teacher (paper 4.4: 2).")
    control: bool = Field(False, description="Also train a teacher for as many steps as teacher and students together.")
    seed: int | None = Field(
        None, ge=0, description="Seed of every training of the run; none: each section's own `optimiser.seed`."
    )
    scans_per_job: int = Field(
        1,
        ge=1,
        description="Scans handled by one job, so that its start is paid once (above 1: also started anew together). "
        "Choose it before the first run: another number makes everything stale. What a job has finished when it fails "
        "is kept.",
    )
    dataset: DatasetSettings
    scans: ScansSettings
    start: StartSettings = StartSettings()
    teacher: TeacherSettings = TeacherSettings()
    student: StudentSettings = StudentSettings()
    inference: InferenceSettings = InferenceSettings()
    consistency: ConsistencySettings = ConsistencySettings()
    consistency_of: dict[str, dict[str, Any]] = Field(
        {},
        description="Where the check of a model's depth differs: a model (`teacher`, `round1`, ...), and the keys of "
        "`consistency` with other values. Its labels teach the round after it.",
    )
    ensemble: EnsembleSettings = EnsembleSettings()
    encoding: EncodingSettings = EncodingSettings()
    fusion: FusionSettings = FusionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    figures: FigureSettings = FigureSettings()
    tables: TablesSettings = TablesSettings()
    resources: dict[RuleName, RuleResources] = Field(
        {}, description="Per rule: gpus, threads, mem_mb, runtime; never part of the numbers."
    )
    pathvars: dict[str, str] = Field({}, description="Snakemake's own folder variables.")
    variants: dict[VariantName, dict[str, Any]] = Field(
        {},
        description="More experiments beside this one: a name, and the keys in which it differs. They share every "
        "artifact that does not depend on the difference; `comparison.csv` has all of them.",
    )
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="Dotted keys, each with a list of values: a variant for every combination of them."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_recipe_lies_under_what_is_given(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("recipe", "paper") not in get_args(RecipeName):
            return values
        return laid_under(recipe(values.get("recipe", "paper")), values)

    @model_validator(mode="after")
    def _every_check_is_a_check(self) -> RunSettings:
        for model in self.consistency_of:
            if not re.fullmatch(r"teacher|ensemble|control|round[1-9]\d*", model):
                raise ValueError(f"consistency_of.{model}: expected teacher, round1, round2, ..., ensemble or control")
            try:
                self._check_of(model)
            except SettingsError as error:
                raise ValueError(str(error).removesuffix(" (see config/README.md)")) from None
        return self

    @model_validator(mode="after")
    def _an_ensemble_is_of_models_of_the_run(self) -> RunSettings:
        chosen, known = self.ensemble.models, self._taught()
        if chosen and (len(chosen) < 2 or len(set(chosen)) < len(chosen) or not set(chosen) <= set(known)):
            raise ValueError(
                f"ensemble.models: expected two or more of {', '.join(known)}, each once, found {', '.join(chosen)}"
            )
        return self

    @model_validator(mode="after")
    def _measured_depth_needs_one_round(self) -> RunSettings:
        if not self.student.needs_labels and (self.rounds != 1 or self.control or self.start != StartSettings()):
            raise ValueError(
                "student.supervision: a student of measured depth alone has no teacher; expected rounds: 1, no control "
                f"and no start, found rounds: {self.rounds}, control: {str(self.control).lower()}"
            )
        return self

    @model_validator(mode="after")
    def _scan_names_are_unique(self) -> RunSettings:
        for key in ("training", "evaluation"):
            names = getattr(self.scans, key)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"scans.{key} names {', '.join(twice)} twice; name each scan once")
        return self

    @model_validator(mode="after")
    def _control_has_a_length(self) -> RunSettings:
        steps = {f"{name}.optimiser.steps_per_epoch": value for name, value in self._steps_per_epoch().items()}
        missing = [key for key, value in steps.items() if value is None]
        if self.control and len(missing) == 1:
            given = next(key for key in steps if key not in missing)
            raise ValueError(
                f"control: {missing[0]} is missing while {given} is {steps[given]}; give both, or neither, "
                "so that the control can train for as many steps"
            )
        return self

    @model_validator(mode="after")
    def _control_has_a_teacher_to_be_compared_with(self) -> RunSettings:
        if self.control and "teacher" not in self.trained():
            raise ValueError("control: it trains as long as the teacher, which `start` replaces; leave one of them out")
        return self

    @model_validator(mode="after")
    def _every_gpu_of_a_training_has_a_sample(self) -> RunSettings:
        batches: dict[RuleName, int] = {
            "teacher": self.teacher.optimiser.batch,
            "control": self.teacher.optimiser.batch,
            "student": self.student.optimiser.batch,
        }
        for rule, batch in batches.items():
            gpus = self.resources.get(rule, RuleResources()).gpus or 0
            if gpus > max(1, batch):
                section = "student" if rule == "student" else "teacher"
                raise ValueError(
                    f"resources.{rule}.gpus is {gpus}, but a step has {batch} samples; "
                    f"raise {section}.optimiser.batch or take fewer GPUs"
                )
        return self

    @model_validator(mode="after")
    def _the_protocol_has_its_truth(self) -> RunSettings:
        if self.evaluation.protocol == "dtu" and isinstance(self.dataset, DtuSettings):
            for key in ("reference_root", "observability_root"):
                if getattr(self.dataset, key) is None:
                    raise ValueError(
                        f"evaluation.protocol: dtu asks for dataset.{key}, found none; name DTU's folder or take the "
                        "plain protocol"
                    )
        return self

    @model_validator(mode="after")
    def _figures_show_scans_of_the_run(self) -> RunSettings:
        fused = "evaluation" if self.scans.evaluation else "training"
        for key, among in (("scan", fused), ("labelled_scan", "training")):
            given = getattr(self.figures, key)
            if given is not None and given not in getattr(self.scans, among):
                raise ValueError(f"figures.{key} is {given}, which scans.{among} does not name; choose one of those")
        return self

    def _steps_per_epoch(self) -> dict[str, int | None]:
        return {
            "teacher": self.teacher.optimiser.steps_per_epoch,
            "student": self.student.optimiser.steps_per_epoch,
        }

    @model_validator(mode="after")
    def _variants_are_experiments(self) -> RunSettings:
        taken = re.compile(
            r"scans|figures|clouds|tables|paper_figures|logs|benchmarks|teacher|control|ensemble|round\d+|.*\.(csv|png|html|pt)"
        )
        changes = self.changes()
        identifiers = [re.sub(r"\W", "_", name) for name in changes]
        for name, identifier in zip(changes, identifiers, strict=True):
            if taken.fullmatch(name) or name == self.experiment:
                raise ValueError(f"variants.{name}: the name is taken among the results; choose another")
            if identifiers.count(identifier) > 1:
                raise ValueError(f"variants.{name}: another variant differs only in punctuation; choose another name")
        self.experiments()
        return self

    def changes(self) -> dict[str, dict[str, Any]]:
        """What every variant changes, as dotted keys and values: those of `variants`, then those of `sweep`."""
        found = {name: dict(flat(overrides)) for name, overrides in self.variants.items()}
        points = itertools.product(*self.sweep.values()) if self.sweep else ()
        last = [key.rpartition(".")[2] for key in self.sweep]
        for values in points:
            words = [
                f"{key.replace('.', '_') if last.count(name) > 1 else name}-{_in_a_name(value)}"
                for key, name, value in zip(self.sweep, last, values, strict=True)
            ]
            name = "_".join(words)
            if name in found:
                raise ValueError(f"sweep: two variants are called {name}; name them under variants")
            found[name] = dict(zip(self.sweep, values, strict=True))
        return found

    def experiments(self) -> dict[str, RunSettings]:
        """This run under the name "", then each of its variants.

        Raises:
            ValueError: a variant changes what all have in common, or does not validate.
        """
        common = self.model_dump(exclude={"variants", "sweep"})
        found = {"": self}
        for name, changes in self.changes().items():
            values = copy.deepcopy(common)
            for key, value in sorted(changes.items(), key=lambda item: not item[0].endswith(NETWORK_NAME)):
                if key.split(".")[0] not in VARYING:
                    raise ValueError(f"variants.{name}: {key} is common to all variants; make it a run of its own")
                try:
                    section = key.removesuffix(NETWORK_NAME)
                    if section != key and values.get(section, {}).get("network", {}).get("name") != value:
                        values[section]["network"] = {}  # what is said of the run's own network is not said of another
                    put(values, key, value)
                except ValueError as error:
                    raise ValueError(f"variants.{name}: {error}") from None
            try:
                found[name] = parse(RunSettings, values, f"variants.{name}")
            except SettingsError as error:
                raise ValueError(str(error).removesuffix(" (see config/README.md)")) from None
        return found

    def models(self) -> tuple[str, ...]:
        """The models of the run in the order in which they are trained: teacher, round1, ..., ensemble, control.

        There is no teacher where the student learns from measured depth alone.
        """
        ensemble = ("ensemble",) if self.ensemble.models else ()
        return (*self._taught(), *ensemble, *(("control",) if self.control else ()))

    def _taught(self) -> tuple[str, ...]:
        rounds = (f"round{number}" for number in range(1, self.rounds + 1))
        return (*(("teacher",) if self.student.needs_labels else ()), *rounds)

    def last(self) -> str:
        """The last round, or the teacher where there is none: what a run is about."""
        return self._taught()[-1]

    def trained(self) -> tuple[str, ...]:
        """The models that are trained here: all but an ensemble, and a teacher that another tool has made."""
        begins = self.start.checkpoint is None and self.start.depth_maps is None
        return tuple(model for model in self.models() if model != "ensemble" and (begins or model != "teacher"))

    def shown_in(self, figure: str) -> str:
        """The scan of a figure of the paper."""
        if figure == "figure8":
            return self.figures.labelled_scan or self.scans.training[0]
        return self.figures.scan or (self.scans.evaluation or self.scans.training)[0]

    def control_settings(self) -> TeacherSettings:
        """The teacher's settings with at least as many optimiser steps as teacher and students together."""
        teacher, student = self.teacher.optimiser, self.student.optimiser
        epochs = teacher.epochs + -(-self.rounds * student.epochs * teacher.batch // student.batch)
        if teacher.steps_per_epoch and student.steps_per_epoch:
            steps = teacher.epochs * teacher.steps_per_epoch + self.rounds * student.epochs * student.steps_per_epoch
            epochs = -(-steps // teacher.steps_per_epoch)
        return self.teacher.model_copy(update={"optimiser": teacher.model_copy(update={"epochs": epochs})})

    def _seeded(self, training: T) -> T:
        if self.seed is None:
            return training
        return training.model_copy(update={"optimiser": training.optimiser.model_copy(update={"seed": self.seed})})

    def _check_of(self, model: str) -> ConsistencySettings:
        changes = self.consistency_of.get(model, {})
        if not changes:
            return self.consistency
        return parse(ConsistencySettings, {**self.consistency.model_dump(), **changes}, f"consistency_of.{model}")

    def settings_of(self, rule: str, model: str = "") -> str:
        """The settings that a rule of the workflow hands to its stage for a model, as one canonical string.

        The whole of what the stage reads: the rule carries this string as a parameter and the program receives it, so
        nothing can be read behind the workflow's back.
        """
        sections: dict[str, Settings] = {
            "prepare": self.dataset,
            "teacher": self._seeded(self.teacher),
            "control": self._seeded(self.control_settings()),
            "student": self._seeded(self.student),
            "import_checkpoint": self.start.network,
            "infer": self.inference,
            "import_depth": self.start.maps,
            "check": self._check_of(model),
            "ensemble": self.ensemble,
            "encode": self.encoding,
            "fuse": self.fusion,
            "evaluate": self.evaluation,
        }
        if rule in FIGURES_READ:
            return canonical(self.figures.model_dump(mode="json", include=set(FIGURES_READ[rule])))
        return sections[rule].canonical()


NETWORK_NAME = ".network.name"


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Write a value at a dotted key of nested mappings.

    Raises:
        ValueError: a part of the key before its last is a value already.
    """
    *outer, last = key.split(".")
    for part in outer:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ValueError(f"{key}: {part} is a value, not a section")
    values[last] = value


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _in_a_name(value: Any) -> str:
    """A value as part of a folder's name."""
    text = json.dumps(value, separators=(",", ":")) if not isinstance(value, str) else value
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_") or "_"


S = TypeVar("S")


def change(values: dict[str, Any], changes: Sequence[str]) -> None:
    """Put what `--set` gives into a mapping: `key=value` with dotted keys and YAML values.

    Raises:
        SettingsError: a change is not understood.
    """
    for given in changes:
        key, equals, value = given.partition("=")
        if not equals:
            raise SettingsError(f"--set {given}: expected key=value, found no `=`")
        try:
            read = yaml.safe_load(value)
        except NO_YAML as error:
            raise SettingsError(f"--set {given}: expected YAML, found {' '.join(str(error).split())}") from None
        try:
            put(values, key, read)
        except ValueError as error:
            raise SettingsError(f"--set {given}: {error}") from None


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file says: plain values, of a file that a person may have written.

    Of aliases, a few lines can stand for gigabytes: n of them for 3^(n/3) copies of a text at most.

    Raises:
        SettingsError: no such file, too large, no YAML, aliases of too much, nested too deep, a number of thousands of
            digits.
    """
    try:
        if path.stat().st_size > MOST_YAML:
            raise SettingsError(f"{path}: expected {what}, found more than {MOST_YAML} bytes")
        text = path.read_text(encoding="utf-8-sig")
        tokens = aliases = depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            tokens, aliases = tokens + 1, aliases + isinstance(token, yaml.AliasToken)
            depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
            if depth > DEEPEST or tokens > MOST_NODES:
                raise SettingsError(
                    f"{path}: expected {what} of at most {MOST_NODES} words nested {DEEPEST} deep, found more"
                )
        if aliases and tokens * 3 ** min(aliases / 3, 40) > MOST_NODES:
            raise SettingsError(f"{path}: expected {what}, found {aliases} aliases (*); write out what they stand for")
        return yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"{path}: expected {what}, found {error.strerror}") from None
    except NO_YAML as error:
        raise SettingsError(f"{path}: expected {what} (YAML), found {' '.join(str(error).split())[:300]}") from None


def check_nodes(values: Any, where: str) -> None:
    """Refuse more values, or deeper ones, than a run has: through aliases, a few lines of YAML stand for any number.

    Raises:
        SettingsError: more than `MOST_NODES`, or nested deeper than `DEEPEST`.
    """
    found, waiting = 0, [(values, 0)]
    while waiting:
        value, depth = waiting.pop()
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        found += 1 + len(inner)
        if found > MOST_NODES or depth > DEEPEST:
            raise SettingsError(
                f"{where}: expected at most {MOST_NODES} values nested {DEEPEST} deep, found more; write fewer"
            )
        waiting.extend((entry, depth + 1) for entry in inner)


def parse(kind: type[S] | Any, values: Any, where: str) -> S:
    """Validate values into settings (a class or a union of classes); every mistake in one message that names its key.

    Raises:
        SettingsError: the values do not validate.
    """
    check_nodes(values, where)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        mistakes = "; ".join(_mistake(dict(mistake), values) for mistake in error.errors()[:MOST_MISTAKES])
        mistakes = "".join(letter if letter.isprintable() else "?" for letter in mistakes[:LONGEST_MESSAGE])
        raise SettingsError(f"{where}: {mistakes} (see config/README.md)") from None


def _mistake(mistake: dict[str, Any], values: Any) -> str:
    """One mistake in words, beginning with its key."""
    key = _key(mistake["loc"], values)
    match mistake["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key"
        case "missing":
            return f"{key}: missing"
        case "value_error":
            return str(mistake["ctx"]["error"])
        case "union_tag_invalid" | "union_tag_not_found":
            return f"{key}: {mistake['msg']}"
        case _:
            return f"{key}: {mistake['msg']}, found {reprlib.repr(mistake['input'])}"


def _key(location: tuple[str | int, ...], values: Any) -> str:
    """The dotted key as the user wrote it; pydantic also names the member of a union, which is no key."""
    parts = []
    for place, part in enumerate(location, start=1):
        is_mapping = isinstance(values, dict)
        has_more = place < len(location)
        if is_mapping and part not in values and (has_more or part in (values.get("kind"), values.get("name"))):
            continue
        parts.append(str(part))
        values = values.get(part) if is_mapping else None
    return ".".join(parts) or "the settings"


def load(path: Path) -> RunSettings:
    """Read and validate one configuration file.

    Raises:
        SettingsError: the file is missing, is no YAML mapping, or does not validate.
    """
    values = read_yaml(path, "a configuration file")
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return parse(RunSettings, values, str(path))
