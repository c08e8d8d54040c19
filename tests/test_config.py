"""The settings: one message for all mistakes, canonical strings, the control's length, the generated page."""

from __future__ import annotations

import json

import pytest

from kdmvs import config_page, rerun_page
from kdmvs.config import (
    FIGURES_READ,
    CasMVSNetSettings,
    FigureSettings,
    MVSNetSettings,
    RunSettings,
    UCSNetSettings,
    change,
    load,
    parse,
    read_yaml,
)
from kdmvs.errors import SettingsError
from kdmvs.stages.student import level_weights
from tests.fuzz.bombs import laughs

LEAST = {"experiment": "x", "dataset": {"kind": "synthetic"}, "scans": {"training": ["a"]}}


def run(**changes) -> RunSettings:
    return parse(RunSettings, {**LEAST, **changes}, "test")


def test_all_mistakes_stand_in_one_line_with_their_keys():
    with pytest.raises(SettingsError) as error:
        run(
            round=3,
            consistency={"confidence": 1.5},
            dataset={"kind": "mvsnet", "colour": 1},
            teacher={"optimiser": {"batch": 0}},
        )
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "round: unknown key",
        "consistency.confidence: ",
        "found 1.5",
        "dataset.root: missing",
        "dataset.colour: unknown key",
        "teacher.optimiser.batch: ",
    ):
        assert part in message, message


def test_a_scan_named_twice_is_named_in_the_message():
    with pytest.raises(SettingsError, match=r"^test: scans\.training names b twice; name each scan once \(see"):
        run(scans={"training": ["a", "b", "b"]})


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "a b"])
def test_a_scan_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(SettingsError, match=r"scans\.training\.0"):
        run(scans={"training": [name]})


def test_yaml_calls_nothing_that_it_names(tmp_path):
    call = f"!!python/object/apply:os.mkdir ['{tmp_path}/ran']"
    (tmp_path / "a.yaml").write_text(f"experiment: {call}\n")
    with pytest.raises(SettingsError, match=r"a\.yaml: expected a configuration file .* could not determine"):
        load(tmp_path / "a.yaml")
    with pytest.raises(SettingsError, match="expected YAML, found could not determine a constructor"):
        change({}, [f"experiment={call}"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs().decode(), r"found 73 aliases \(\*\)"),
        ("a: " + "[" * 40 + "]" * 40, "words nested 32 deep, found more"),
    ],
    ids=["aliases", "nested"],
)
def test_yaml_that_stands_for_more_than_a_person_writes_is_refused(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SettingsError, match=said):
        read_yaml(tmp_path / "a.yaml", "settings")


@pytest.mark.parametrize(("levels", "each"), [(18, 2), (40, 1)], ids=["wide", "deep"])
def test_values_that_stand_for_others_without_end_are_refused(levels, each):
    """As aliases of YAML can: Snakemake has read them before any line of ours."""
    values: object = 1
    for _ in range(levels):
        values = [values] * each
    with pytest.raises(SettingsError, match="expected at most 200000 values nested 32 deep, found more"):
        parse(RunSettings, {"experiment": "x", "sweep": values}, "config")


def test_a_missing_and_a_broken_file_name_themselves(tmp_path):
    with pytest.raises(SettingsError, match=r"none\.yaml: expected a configuration file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(SettingsError, match=r"broken\.yaml: expected a configuration file \(YAML\)"):
        load(tmp_path / "broken.yaml")


def test_equal_settings_are_one_string_however_they_are_written():
    assert run(fusion={"confidence": 1}).fusion.canonical() == run(fusion={"confidence": 1.0}).fusion.canonical()
    assert run(fusion={}).fusion.canonical() == run().fusion.canonical()


def test_part_of_a_section_keeps_the_other_defaults():
    assert run(teacher={"optimiser": {"batch": 2}}).teacher.optimiser.epochs == 5
    assert run(student={"optimiser": {"batch": 2}}).student.optimiser.epochs == 10


def test_models_are_named_in_the_order_of_training():
    assert run(rounds=2).models() == ("teacher", "round1", "round2")
    assert run(rounds=1, control=True).models() == ("teacher", "round1", "control")
    assert run(rounds=0).models() == ("teacher",)


def control_epochs(teacher: dict, student: dict, rounds: int = 2) -> int:
    made = run(rounds=rounds, control=True, teacher={"optimiser": teacher}, student={"optimiser": student})
    return made.control_settings().optimiser.epochs


def test_the_control_trains_for_as_many_steps_as_teacher_and_students_together():
    assert control_epochs({"epochs": 5}, {"epochs": 10}) == 25
    both = {"epochs": 3, "steps_per_epoch": 100}
    assert control_epochs(both, both) == 9
    assert control_epochs({"epochs": 2, "steps_per_epoch": 100}, {"epochs": 3, "steps_per_epoch": 50}) == 5
    assert control_epochs({"epochs": 1, "steps_per_epoch": 100}, {"epochs": 1, "steps_per_epoch": 1}) == 2  # 102 steps


def test_a_control_of_unknown_length_is_refused_with_the_missing_key():
    with pytest.raises(SettingsError, match=r"control: student\.optimiser\.steps_per_epoch is missing"):
        control_epochs({"epochs": 1, "steps_per_epoch": 100}, {"epochs": 1})
    with pytest.raises(SettingsError, match=r"control: teacher\.optimiser\.steps_per_epoch is missing"):
        control_epochs({"epochs": 1}, {"epochs": 1, "steps_per_epoch": 100})
    run(control=False, student={"optimiser": {"steps_per_epoch": 100}})


def test_the_control_differs_from_the_teacher_in_its_length_only():
    made = run(control=True)
    control = made.control_settings()
    assert control.model_copy(update={"optimiser": made.teacher.optimiser}) == made.teacher


@pytest.mark.parametrize("path", config_page.expected_files(), ids=lambda path: path.name)
def test_the_generated_page_and_schema_say_what_the_settings_say(path):
    assert path.read_text() == config_page.expected_files()[path], "run `make fix`"


def test_every_setting_is_described():
    nameless = [leaf.key for leaf in config_page.leaves(RunSettings) if len(leaf.description) < 15]
    assert not nameless


SHAPE_OF_THE_PLAN = {
    "recipe",
    "ensemble.models",
    "consistency_of",
    "tables.seeds",
    "tables.changes",
    "tables.planned",
    "start.checkpoint",
    "start.depth_maps",
    "experiment",
    "rounds",
    "control",
    "scans_per_job",
    "scans.training",
    "scans.evaluation",
    "scans.pictured",
    "figures.scan",
    "figures.labelled_scan",
    "variants",
    "sweep",
}
"""Settings that decide which files are made; how each is made is in the settings string of its rule."""

NO_NUMBERS = {"resources", "pathvars"}

RULES = (
    "prepare", "import_checkpoint", "teacher", "control", "student", "infer", "import_depth", "ensemble", "check",
    "encode", "fuse", "evaluate", "figures", "figure3", "figure4", "figure5", "figure6", "figure7", "figure8",
)  # fmt: skip


UNSET = {
    "crop": (128, 160), "image_size": (128, 160), "depth_range": (1.0, 2.0), "hypotheses": (8, 8, 8),
    "interval_ratios": (4.0, 2.0, 1.0), "read_out": "winner", "test_root": "elsewhere",
    "model": "sparse/1", "images": "photos", "file": "train.json", "color_camera": (500.0, 500.0, 320.0, 240.0),
    "depth_camera": (500.0, 500.0, 320.0, 240.0), "distortion": (0.1, 0.0, 0.0, 0.0, 0.0), "depth_unit": 0.002,
    "level_weights": (1.0, 1.0, 2.0), "external_weights": "resnet18.pth", "initial": "before.pt", "threshold": 0.5,
    "uncertainty": True,
}  # fmt: skip
"""Values for keys that are none by default."""
AUTO = {
    "start.maps.format": "pfm", "start.maps.match": "name", "start.maps.preferred": "photometric",
    "student.loss.form": "l1", "student.supervision.depth": "measured", "student.supervision.mask": "all",
    "teacher.loss.form": "released",
    "evaluation.protocol": "dtu", "evaluation.depth_protocol": "darmon", "evaluation.depth_error_thresholds": [2.0],
}  # fmt: skip
TRUTH = {"reference_root": "clouds", "observability_root": "masks"}
"""What `evaluation.protocol: dtu` asks of DTU."""


def other_value(value: object) -> object:
    """A value of the same kind that differs."""
    match value:
        case bool():
            return not value
        case str():
            others = {"auto": "interval", "expectation": "winner", "bin_mass": "density", "float32": "bfloat16"}
            return {
                **others,
                "four_bins": "maximum",
                "geometric": "gipuma",
                "listed": "found",
                "SIMPLE_RADIAL": "OPENCV",
                "variance": "group_correlation",
            }.get(value, value + "x")
        case None:
            return 2
        case tuple():
            if all(isinstance(part, int) and part % 8 == 0 for part in value):
                return tuple(part + 32 for part in value)  # sides and hypotheses come in eights or thirty-twos
            return tuple(other_value(part) for part in value)
        case int():
            return value + 1
        case float():
            return value / 2 if value else 0.1
    raise AssertionError(value)


KINDS = (
    "mvsnet", "dtu", "blendedmvs", "tanks_and_temples", "eth3d", "colmap", "photographs", "transforms", "strecha",
    "middlebury", "idr", "rgbd",
)  # fmt: skip


@pytest.mark.parametrize(
    "dataset",
    [{"kind": "synthetic"}, *({"kind": kind, "root": "photos"} | (TRUTH if kind == "dtu" else {}) for kind in KINDS)],
    ids=lambda dataset: dataset["kind"],
)
def test_every_setting_is_in_the_string_of_some_rule(dataset):
    """A setting that no rule carries would be read behind the workflow's back, or not at all."""
    before = run(dataset=dataset)
    strings = {rule: before.settings_of(rule) for rule in RULES}
    unread = []
    for leaf in config_page.leaves(RunSettings):
        *outer, last = leaf.key.split(".")
        inner = values = before.model_dump()
        for part in outer:
            inner = inner[part]
        is_read_elsewhere = leaf.key in SHAPE_OF_THE_PLAN | NO_NUMBERS or last in ("kind", "name")
        if is_read_elsewhere or last not in inner:  # not in: a key of the other kind of dataset
            continue
        known = UNSET.get(last) if inner[last] is None else AUTO.get(leaf.key)
        inner[last] = known or other_value(inner[last])
        after = parse(RunSettings, rerun_page.laid_over(values, rerun_page.WITH.get(leaf.key, {})), leaf.key)
        if all(after.settings_of(rule) == strings[rule] for rule in RULES):
            unread.append(leaf.key)
    assert not unread


def test_every_key_of_figures_chooses_a_scan_or_is_read_by_a_rule():
    read = {key for keys in FIGURES_READ.values() for key in keys}
    assert read | {"scan", "labelled_scan"} == set(FigureSettings.model_fields)


def test_a_scan_that_the_run_does_not_fuse_or_train_on_is_no_scan_of_its_figures():
    scans = {"training": ["a"], "evaluation": ["b"]}
    assert run(scans=scans).shown_in("figure5") == "b"
    assert run(scans=scans).shown_in("figure8") == run(scans={"training": ["a"]}).shown_in("figure5") == "a"
    assert run(scans=scans, figures={"scan": "b"}).shown_in("figure7") == "b"
    with pytest.raises(SettingsError, match=r"figures\.scan is a, which scans\.evaluation does not name"):
        run(scans=scans, figures={"scan": "a"})
    with pytest.raises(SettingsError, match=r"figures\.labelled_scan is b, which scans\.training does not name"):
        run(scans=scans, figures={"labelled_scan": "b"})


def test_a_key_of_one_figure_is_in_the_string_of_no_other():
    before, after = run(), run(figures={"threshold": 2.0})
    assert [rule for rule in RULES if before.settings_of(rule) != after.settings_of(rule)] == ["figure7"]


def test_a_setting_of_one_stage_is_in_the_string_of_no_other():
    before, after = run(), run(fusion={"confidence": 0.5})
    assert [rule for rule in RULES if before.settings_of(rule) != after.settings_of(rule)] == ["fuse"]


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"teacher": {"network": {"hypotheses": [10, 8, 8]}}}, "teacher.network.hypotheses"),
        ({"teacher": {"optimiser": {"crop": [100, 100]}}}, "teacher.optimiser.crop"),
        ({"dataset": {"kind": "synthetic", "image_size": [128, -32]}}, "dataset.image_size"),
        ({"dataset": {"kind": "auto", "root": "photos", "depth_range": [1, float("inf")]}}, "dataset.depth_range"),
        ({"student": {"loss": {"variance_floor": [-1, 0, 0]}}}, "student.loss.variance_floor"),
        ({"resources": {"trainer": {"gpus": 3}}}, "resources.trainer"),
        ({"resources": {"teacher": {"gpu": 1}}}, "resources.teacher.gpu"),
        ({"resources": {"teacher": {"gpus": 3}}}, "resources.teacher.gpus"),  # one sample per step
        ({"consistency": {"sources": 2, "least_votes": 3}}, "least_votes"),
        ({"teacher": {"loss": {"external_weight": 4}}}, "external_weight is 4, but external_weights names no file"),
        ({"teacher": {"loss": {"external_weights": "a.pth", "external_random": True}}}, "found both"),
        ({"teacher": {"loss": {"form": "released", "feature_gradient": True}}}, "loss.feature_gradient: the released"),
        (
            {"teacher": {"loss": {"form": "released", "external_weight": 4, "external_random": True}}},
            "loss.external_weight: the released",
        ),
        ({"teacher": {"network": {"uncertainty": True}}}, "network.uncertainty: only loss.form: released"),
        ({"student": {"network": {"uncertainty": True}}}, "network.uncertainty: nothing trains it in a student"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_would_fail_hours_later_is_refused_before_the_run(section, key):
    with pytest.raises(SettingsError) as caught:
        run(**section)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_without_a_name_is_casmvsnet_and_another_is_told_by_its_name():
    assert run(teacher={"network": {"feature_channels": 4}}).teacher.network == CasMVSNetSettings(feature_channels=4)
    assert run(student={"network": {"name": "mvsnet"}}).student.network == MVSNetSettings()
    assert run(student={"network": {"name": "ucsnet"}}).student.network == UCSNetSettings()
    with pytest.raises(SettingsError, match=r"teacher\.network: .*mvsnet"):
        run(teacher={"network": {"name": "mvsnets"}})
    with pytest.raises(SettingsError, match=r"teacher\.network\.interval_ratios: unknown key"):
        run(teacher={"network": {"name": "mvsnet", "interval_ratios": [4, 2, 1]}})


def test_the_choice_of_networks_leaves_the_strings_of_casmvsnet_as_they_were():
    """Strings of settings are what Snakemake compares: a finished run must not become stale by a second network."""
    before = {
        "name": "casmvsnet", "hypotheses": [48, 32, 8], "interval_ratios": [4.0, 1.0, 0.5], "base_planes": 192,
        "feature_channels": 8, "regulariser_channels": [8, 8, 8], "extra_convolution": False, "read_out": "expectation",
        "cost": "variance", "groups": 8, "visibility": False,
    }  # fmt: skip
    for rule in ("teacher", "student", "infer"):
        assert json.loads(run().settings_of(rule))["network"] == before
    assert json.loads(run().settings_of("student"))["loss"]["variance_floor"] == [0.36, 0.36, 0.36]


def test_every_level_has_a_variance_floor():
    run(student={"loss": {"variance_floor": [0.1]}, "network": {"name": "mvsnet"}})
    with pytest.raises(SettingsError, match="variance_floor has 2 numbers, but casmvsnet has 3 levels"):
        run(student={"loss": {"variance_floor": [0.1, 0.2]}})


def test_limits_and_weights_are_given_for_every_level():
    for key, loss in (
        ("level_weights", {"level_weights": [1, 2]}),
        ("penalty.reprojection_px", {"penalty": {"reprojection_px": [1, 1]}}),
        ("penalty.relative_depth_error", {"penalty": {"relative_depth_error": [0.1]}}),
    ):
        with pytest.raises(SettingsError, match=rf"loss\.{key} has . numbers?, but casmvsnet has 3 levels"):
            run(student={"loss": loss})


def test_levels_weigh_as_casmvsnet_trains_with_l1_and_the_same_otherwise():
    def weights(**student):
        return level_weights(run(student=student).student)

    assert weights() == weights(loss={"form": "released"}) == (1, 1, 1)
    assert weights(loss={"form": "l1"}) == (0.5, 1, 2)
    assert weights(loss={"form": "l1", "level_weights": [3, 2, 1]}) == (3, 2, 1)
    assert weights(network={"name": "mvsnet"}, loss={"level_weights": [3, 2, 1]}) == (1,)


@pytest.mark.parametrize(
    ("depth", "mask", "needs"),
    [
        ("validated", "validated", True),
        ("validated", "all", True),
        ("measured", "validated", True),
        ("measured", "all", False),
    ],
)
def test_a_student_needs_labels_unless_it_learns_measured_depth_everywhere(depth, mask, needs):
    assert run(rounds=1, student={"supervision": {"depth": depth, "mask": mask}}).student.needs_labels is needs


@pytest.mark.parametrize(
    ("student", "key"),
    [
        ({"loss": {"form": "released"}, "supervision": {"depth": "measured"}}, "loss.form: released"),
        ({"loss": {"form": "released", "confidence": {"votes": 1}}}, "neither loss.confidence"),
        ({"loss": {"form": "released", "penalty": {"weight": 1}}}, "nor loss.penalty"),
        ({"loss": {"form": "released", "released": {"label_range": [0.9, 0.1]}}}, "loss.released.label_range"),
        ({"loss": {"confidence": {"variance": 1}}, "supervision": {"depth": "measured"}}, "loss.confidence"),
        ({"loss": {"form": "l1"}, "network": {"read_out": "winner"}}, "network.read_out: winner"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_loss_that_cannot_be_had_is_refused_with_the_key_at_fault(student, key):
    with pytest.raises(SettingsError) as caught:
        run(student=student)
    assert key in str(caught.value)


def test_a_run_begins_once_and_a_control_needs_a_teacher():
    assert run(start={"checkpoint": "a.pt"}).trained() == ("round1", "round2")
    assert run(start={"depth_maps": "a"}, rounds=0).trained() == ()
    with pytest.raises(SettingsError, match="expected checkpoint or depth_maps, found both"):
        run(start={"checkpoint": "a.pt", "depth_maps": "b"})
    with pytest.raises(SettingsError, match="control: "):
        run(start={"checkpoint": "a.pt"}, control=True)


def test_a_training_names_the_files_that_it_reads_and_no_others():
    external = {"external_weight": 4, "external_weights": "resnet18.pth"}
    assert run(teacher={"loss": external, "initial": "dtu.pt"}).teacher.files == ("dtu.pt", "resnet18.pth")
    assert run(teacher={"loss": {**external, "external_weight": 0}}).teacher.files == ()
    assert run(student={"initial": "dtu.pt"}).student.files == ("dtu.pt",)
    assert run().teacher.files == run().student.files == ()


def test_the_protocol_of_dtu_names_what_the_run_lacks_for_it():
    dtu = {"kind": "dtu", "root": "d", "reference_root": "stl", "observability_root": "masks"}
    assert run(dataset=dtu, evaluation={"protocol": "dtu"}).evaluation.dtu.thinning == 0.2
    for key in ("reference_root", "observability_root"):
        with pytest.raises(SettingsError, match=rf"evaluation\.protocol: dtu asks for dataset\.{key}, found none"):
            run(dataset={**dtu, key: None}, evaluation={"protocol": "dtu"})
    for key in ("thinning", "cutoff"):
        with pytest.raises(SettingsError, match=rf"evaluation\.{key}: it is the plain protocol's, .*evaluation\.dtu"):
            run(dataset=dtu, evaluation={"protocol": "dtu", key: 0.2})
    with pytest.raises(SettingsError, match=r"evaluation\.dtu\.cutoff: expected at most the block, 60, .*found 61"):
        run(dataset=dtu, evaluation={"protocol": "dtu", "dtu": {"cutoff": 61}})
