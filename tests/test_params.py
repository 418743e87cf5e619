"""A wrong name, type or value stops a run; every file of parameters that ships is right."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

from dsrkit.params import STAGES, DataMigration, DSRTraining, Evaluation, ParameterError, Stage
from dsrkit.params.settings import parameter_names

FILES = sorted((REPOSITORY / "params").glob("*/*.yaml"))
SIZES = {"vlr14x16": "14x16", "vlr16": "16x16", "vlr24": "24x24", "vlr32": "32x32"}
PUBLISHED = {f"seed-{run}": size for run, size in SIZES.items()}


def read(run, stage):
    return yaml.safe_load((REPOSITORY / "params" / run / f"{stage}.yaml").read_text())


def notebook_cells(stage):
    notebook = json.loads((REPOSITORY / "notebooks" / f"{stage}.ipynb").read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def notebook_defaults(stage):
    source = next("".join(cell["source"]) for cell in notebook_cells(stage) if "parameters" in cell["metadata"].get("tags", []))
    values: dict = {}
    exec(source, values)
    return {name: values[name] for name in values["__annotations__"]}


@pytest.fixture
def values():
    return read("demo", "02_dsr_training")


def test_a_misspelt_name_is_told_the_nearest_valid_one(values):
    with pytest.raises(ParameterError, match=r"no parameter 'lambda_identiy' \(did you mean 'lambda_identity'\?\)"):
        DSRTraining.check(values | {"lambda_identiy": 0.5})


def test_a_name_like_no_other_is_told_all_there_are(values):
    with pytest.raises(ParameterError, match=r"no parameter 'qqqq'; there are .*learning_rate"):
        DSRTraining.check(values | {"qqqq": 1})


def test_every_mistake_is_listed_at_once(values):
    del values["epochs"]
    with pytest.raises(ParameterError) as caught:
        DSRTraining.check(values | {"batch_size": "many", "epoch": 3})
    text = str(caught.value)
    assert text.startswith("DSRTraining: ")
    assert "parameter 'epochs' is missing" in text
    assert "batch_size" in text and "'many' (str)" in text
    assert "'epoch' (did you mean 'epochs'?)" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", True), ("learning_rate", True), ("run", False), ("seed", 1.5), ("seed", -1), ("learning_rate", 0),
        ("learning_rate", "fast"), ("lambda_l1", -1.0), ("lambda_l1", float("nan")), ("lambda_l1", float("inf")),
        ("flip_probability", 1.1), ("vlr_size", "16*16"), ("precision", "fp8"), ("run", 5), ("select_by", "accuracy"),
        ("batch_size", None),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_given(values, name, value):
    with pytest.raises(ParameterError, match=rf"{name}: .*got"):
        DSRTraining.check(values | {name: value})


def test_a_yes_where_yaml_wants_a_number_says_so(values):
    with pytest.raises(ParameterError, match="a bare yes/no/true/false is no number"):
        DSRTraining.check(values | yaml.safe_load("epochs: yes"))


def test_a_truth_value_stays_one_where_it_belongs():
    assert Evaluation.check(read("demo", "05_evaluation") | {"tta": True}).tta is True


def test_a_number_that_yaml_reads_as_text_becomes_a_number(values):
    given = yaml.safe_load("learning_rate: 1e-4")
    assert given == {"learning_rate": "1e-4"}  # YAML 1.1 wants 1.0e-4
    params = DSRTraining.check(values | given)
    assert params.learning_rate == 1e-4 and isinstance(params.learning_rate, float)


def test_settings_cannot_be_changed_afterwards(values):
    with pytest.raises(ValueError, match="frozen"):
        DSRTraining.check(values).epochs = 3


@pytest.mark.parametrize("text", ["", "- 1\n- 2", "1: 2", "just words"])
def test_a_file_without_flat_keys_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ParameterError, match=r"a\.yaml: expected lines such as .* got a .* Write flat keys"):
        Stage.read(tmp_path / "a.yaml")


PARAMETERS = 'run: str = "a"\nseed: int = 0\n'
ASKS = "from dsrkit.params import Stage\nparams = Stage.from_notebook(globals())"


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["", PARAMETERS, ASKS], {"run", "seed"}),
        (["", PARAMETERS, '# Parameters\nrun = "b"\n', ASKS], {"run", "seed"}),
        (["", PARAMETERS, '# Parameters\nrum = "b"\n', ASKS], {"run", "seed", "rum"}),
        (["", PARAMETERS, ASKS, "x = 1\nprint(x)", "old = 1", "import os", PARAMETERS, ASKS], {"run", "seed"}),
        (["", "%matplotlib inline", PARAMETERS, "!ls", ASKS], {"run", "seed"}),
        (["", "left = 1", "%time", PARAMETERS, ASKS], {"run", "seed"}),
        (["", "a.b = 1\nc[0] = 2\nd = 3", ASKS], {"d"}),
        (["", "import os"], set()),
        ([], set()),
    ],
    ids=["plain", "injected", "injected misspelt", "run again", "magics after", "magics before", "attributes", "none", "empty"],
)
def test_parameter_names_are_those_of_the_last_block_of_assignments(cells, names):
    assert set(parameter_names(cells)) == names


def test_from_notebook_reads_the_values_that_stand_now():
    cells = ["", PARAMETERS + 'device: str = "cpu"\n', '# Parameters\nrun = "b"\n', ASKS]
    namespace = {"In": cells, "run": "b", "seed": 0, "device": "cpu", "other": 1}
    assert Stage.from_notebook(namespace).model_dump() == {"run": "b", "seed": 0, "device": "cpu"}


def test_from_notebook_refuses_a_misspelt_injected_name():
    cells = ["", PARAMETERS + 'device: str = "cpu"\n', "# Parameters\nsed = 4\n", ASKS]
    with pytest.raises(ParameterError, match="'sed' \\(did you mean 'seed'\\?\\)"):
        Stage.from_notebook({"In": cells, "run": "b", "seed": 0, "sed": 4, "device": "cpu"})


def test_every_stage_has_a_notebook_and_parameters_in_every_run():
    runs = {path.parent.name for path in FILES}
    assert runs >= {"demo", *SIZES, *PUBLISHED}
    for run in ("demo", *SIZES, *PUBLISHED):
        assert {path.stem for path in FILES if path.parent.name == run} >= set(STAGES)
    assert {path.stem for path in (REPOSITORY / "notebooks").glob("0[1-5]_*.ipynb")} == set(STAGES)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem in STAGES], ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_shipped_parameters_fit_their_stage_and_notebook(path: Path):
    values = yaml.safe_load(path.read_text())
    assert STAGES[path.stem].read(path).run == path.parent.name
    assert set(values) == set(notebook_defaults(path.stem))
    wrong = {name: value for name, value in values.items() if isinstance(value, str) and value[:1].isdigit() and "e" in value}
    assert not wrong  # 1e-4 is text: write 1.0e-4


@pytest.mark.parametrize("stage", STAGES)
def test_the_notebook_s_defaults_are_the_demo(stage):
    assert notebook_defaults(stage) == read("demo", stage)
    assert list(notebook_defaults(stage)) == list(read("demo", stage))


# The published tables, typed once more.
DSR_TABLE = {
    "base_channels": (112, 132, 126, 120),
    "residual_blocks": (16, 20, 18, 16),
    "batch_size": (16, 16, 16, 16),
    "learning_rate": (1.5e-4, 1.5e-4, 1.5e-4, 1.3e-4),
    "warmup_epochs": (5, 5, 5, 5),
    "lambda_l1": (1.0,) * 4,
    "lambda_identity": (0.50, 0.50, 0.50, 0.60),
    "lambda_feature_match": (0.15, 0.15, 0.15, 0.18),
    "lambda_perceptual": (0.02, 0.02, 0.02, 0.025),
    "lambda_tv": (3e-6, 3e-6, 3e-6, 2e-6),
    "epochs": (100,) * 4,
    "early_stop_patience": (15,) * 4,
    "grad_clip": (1.0,) * 4,
    "rotation_probability": (0.60, 0.60, 0.60, 0.65),
    "rotation_degrees": (5, 5, 5, 6),
    "jitter_probability": (0.25, 0.25, 0.25, 0.30),
    "jitter_brightness_contrast": (0.05, 0.05, 0.05, 0.07),
    "jitter_saturation": (0.03, 0.03, 0.03, 0.04),
}
EDGEFACE_TABLE = {
    "stage1_epochs": (5, 5, 5, 5),
    "stage2_epochs": (20, 20, 20, 25),
    "batch_size": (32,) * 4,
    "head_lr": (1e-3, 1e-3, 1e-3, 9e-4),
    "backbone_lr": (5e-6, 5e-6, 5e-6, 6e-6),
    "head_lr_stage2": (5e-5, 5e-5, 5e-5, 6e-5),
    "arcface_scale": (64,) * 4,
    "arcface_margin": (0.50, 0.50, 0.50, 0.45),
    "weight_decay": (5e-5, 5e-5, 5e-5, 3e-5),
    "label_smoothing": (0.10, 0.10, 0.10, 0.08),
    "early_stop_patience": (8, 8, 8, 10),
    "flip_probability": (0.5,) * 4,
    "jitter_brightness_contrast": (0.05, 0.05, 0.05, 0.07),
    "jitter_saturation": (0.03, 0.03, 0.03, 0.05),
    "jitter_hue": (0, 0, 0, 0.02),
    "rotation_degrees": (5, 5, 5, 5),
    "rotation_probability": (0, 0, 0, 1),
}
CYCLE_TABLE = {  # the published tables have no cycle for 14x16
    "epochs": (None, 55, 50, 50),
    "learning_rate": (None, 9e-5, 8.5e-5, 8e-5),
    "lambda_identity": (None, 0.68, 0.65, 0.65),
    "lambda_feature_match": (None, 0.22, 0.20, 0.20),
    "epochs_cycle2": (30,) * 4,
    "learning_rate_cycle2": (5e-5,) * 4,
    "lambda_identity_cycle2": (0.70,) * 4,
    "lambda_feature_match_cycle2": (0.20,) * 4,
    "stage1_epochs": (5,) * 4,
    "stage2_epochs": (15,) * 4,
}
TABLES = {"02_dsr_training": DSR_TABLE, "03_edgeface_finetune": EDGEFACE_TABLE, "04_cyclic_cycle": CYCLE_TABLE}


@pytest.mark.parametrize(("column", "run"), enumerate(PUBLISHED))
@pytest.mark.parametrize("stage", TABLES)
def test_published_settings(stage, column, run):
    expected = {name: row[column] for name, row in TABLES[stage].items() if row[column] is not None}
    values = read(run, stage)
    assert {name: values[name] for name in expected} == expected


@pytest.mark.parametrize(("run", "size"), (SIZES | PUBLISHED).items())
def test_published_sizes_thresholds_and_seeded_reading(run, size):
    assert read(run, "05_evaluation")["threshold"] == 0.35
    assert DataMigration.check(read(run, "01_data_migration")).vlr_sizes == [size]
    assert {read(run, stage)["vlr_size"] for stage in STAGES if stage != "01_data_migration"} == {size}


@pytest.mark.parametrize("stage", STAGES)
def test_one_recipe_for_every_size(stage):
    """Runs of one size each differ in their name and size alone."""

    def recipe(run):
        return read(run, stage) | {"run": "", "vlr_size": "", "vlr_sizes": []}

    assert all(recipe(run) == recipe("vlr16") for run in SIZES)


def test_parameters_that_do_not_go_together(values):
    with pytest.raises(
        ParameterError,
        match=r"DSRTraining: warp, blend_probability: expected 0 with identity_target stored.*got \[0\.02, 0\.5\]\. Set",
    ):
        DSRTraining.check(values | {"blend_probability": 0.5, "warp": 0.02})
    assert DSRTraining.check(values | {"blend_probability": 0.5, "identity_target": "augmented"}).blend_probability == 0.5
    cycle = read("demo", "04_cyclic_cycle") | {"warp": 0.02, "identity_target": "augmented", "lambda_arcface": 0.1}
    with pytest.raises(ParameterError, match=r"warp: expected 0 beside a margin softmax.*got 0\.02\. Set"):
        STAGES["04_cyclic_cycle"].check(cycle)
    assert STAGES["04_cyclic_cycle"].check(cycle | {"warp": 0.0, "blend_probability": 0.5}).blend_probability == 0.5
    assert STAGES["04_cyclic_cycle"].check(cycle | {"mode": "alternate"}).lambda_arcface == 0.1
    of_joint = ({"skip_dsr": True}, {"lora_rank": 4})
    of_alternate = (
        {"control_epochs": 3},
        {"initial_control": "edgeface.pt"},
        {"train_sizes": ["16x16"]},
        {"lambda_original": 0.5},
    )
    for mode, silent in [("joint", one) for one in of_joint] + [("alternate", one) for one in of_alternate]:
        expected = rf"{next(iter(silent))}: expected 0, false or empty with mode {mode}, where it has no"
        with pytest.raises(ParameterError, match=expected):
            STAGES["04_cyclic_cycle"].check(read("demo", "04_cyclic_cycle") | silent | {"mode": mode})
