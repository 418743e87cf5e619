"""What a DSR's training may be told: several sizes, an ensemble, teachers of augmented faces; and what it leaves to look at."""

import numpy as np
import pytest
import torch
from conftest import difference, same_weights, weights_of

from dsrkit.data.degrade import as_tensor, degrade
from dsrkit.losses import identity_loss
from dsrkit.models import load_dsr
from dsrkit.models.dsr import DSREnsemble
from dsrkit.runs import Run
from dsrkit.training import open_setting, train_dsr
from dsrkit.training.diagnostics import face_table, identity_map
from dsrkit.training.dsr import DSRTask, PairedFaces


def test_several_sizes(root, stage_params):
    """Each is drawn, measured alone, and counts alike in what selects."""
    sizes = ["14x16", "16x16", "20x20"]
    setting = open_setting(stage_params("02_dsr_training", train_sizes=sizes, learning_rate=1e-2))
    done = train_dsr(setting)
    for record in done.history:
        for measure in ("eer", "auc"):
            assert record[measure] == pytest.approx(np.mean([record[f"{measure}_{size}"] for size in sizes]))
    faces = PairedFaces(setting, torch.from_numpy(setting.hr_embeddings), None, tuple(sizes))
    drawn = {tuple(faces(draw).vlr.shape[2:]) for epoch in range(8) for draw in setting.sampler(2).draws(epoch)}
    assert drawn == {(16, 14), (16, 16), (20, 20)}  # height first
    dsr = load_dsr(Run("tiny").dsr)
    (alone,) = (setting.validation.measure(dsr, setting.original, (size,)) for size in sizes[2:])
    assert done.best["eer_20x20"] == pytest.approx(alone["eer"]) and done.best["auc_20x20"] == pytest.approx(alone["auc"])


def test_a_size_that_was_migrated_is_the_size_degraded_anew(root, stage_params):
    """VLR faces of the data set and those that validation degrades from HR are the same, up to rounding."""
    setting = open_setting(stage_params("02_dsr_training", vlr_size="14x16"))
    stored = np.array(setting.validation.faces.vlr).astype(int)
    other = open_setting(stage_params("02_dsr_training", vlr_size="16x16"))
    assert np.abs(other.validation._vlr("14x16").astype(int) - stored).max() <= 1


def test_a_teacher_of_the_augmented_faces(root, stage_params):
    jitter = {"rotation_probability": 1.0, "jitter_probability": 1.0, "jitter_brightness_contrast": 0.3}
    setting = open_setting(stage_params("02_dsr_training", identity_target="augmented", **jitter))
    embeddings = torch.from_numpy(setting.hr_embeddings)

    def batch(params):
        task = DSRTask(setting, load_dsr_of(setting), setting.original, params, embeddings, 0.0, Run("tiny").dsr, {})
        draw = next(task.sampler.draws(1))
        return draw, task.batch(draw)

    draw, augmented = batch(setting.params)
    with torch.no_grad():
        assert torch.allclose(augmented.embeddings, setting.original(augmented.hr), atol=1e-6)
    assert augmented.embeddings.norm(dim=1).tolist() == pytest.approx([1] * 8, abs=1e-5)
    _, stored = batch(setting.params.model_copy(update={"identity_target": "stored"}))
    assert torch.equal(stored.embeddings, embeddings[torch.from_numpy(draw.rows)]) and torch.equal(stored.hr, augmented.hr)
    assert float((stored.embeddings * augmented.embeddings).sum(1).min()) < 0.999
    assert train_dsr(setting).history[1]["loss_identity"] > 0


def load_dsr_of(setting):
    from dsrkit.models import DSR, DSRConfig

    torch.manual_seed(0)
    return DSR(DSRConfig(setting.params.base_channels, setting.params.residual_blocks))


def test_an_ensemble(root, stage_params):
    changes = {"learning_rate": 1e-2, "select_by": "identity_similarity"}
    done = train_dsr(open_setting(stage_params("02_dsr_training", members=2, **changes)))
    run = Run("tiny")
    paths = [run.dsr_member(number) for number in (1, 2)]
    assert [path.name for path in paths] == ["dsr.pt", "dsr_member2.pt"]
    assert difference(*(weights_of(path) for path in paths)) > 0.1
    ensemble, vlr = load_dsr(paths), torch.rand(2, 3, 16, 16)
    assert isinstance(ensemble, DSREnsemble)
    with torch.inference_mode():
        mean = (load_dsr(paths[0])(vlr) + load_dsr(paths[1])(vlr)) / 2
        assert torch.allclose(ensemble(vlr), mean, atol=1e-6)
    for number, path in enumerate(paths):  # each is the DSR that its seed alone gives
        alone = train_dsr(open_setting(stage_params("02_dsr_training", run="alone", seed=number, **changes)))
        assert same_weights(weights_of(Run("alone").dsr), weights_of(path))
        if number == 0:
            assert [record["psnr"] for record in alone.history] == [record["psnr"] for record in done.history]


# --- diagnostics


@pytest.fixture
def setting(root, stage_params):
    return open_setting(stage_params("02_dsr_training"))


def test_the_table_of_faces(setting, dsr_path):
    """Cosines worked out here, face by face."""
    validation, edgeface, dsr = setting.validation, setting.original, load_dsr(dsr_path)
    table = face_table(validation, dsr, edgeface)
    assert list(table.columns) == ["row", "name", "subject", "cosine", "cosine_bicubic"]
    assert table.cosine.is_monotonic_increasing and sorted(table.row) == list(range(len(validation.faces)))
    for row in table.sample(4, random_state=0).itertuples():
        assert (row.name, row.subject) == (validation.faces.names[row.row], validation.faces.subjects[row.row])
        vlr, hr = as_tensor(validation.faces.vlr[[row.row]]), as_tensor(validation.faces.hr[[row.row]])
        with torch.inference_mode():
            wanted = edgeface(hr)[0]
            bicubic = torch.nn.functional.interpolate(vlr, (112, 112), mode="bicubic", antialias=True).clamp(0, 1)
            found = [edgeface((restored * 255).round() / 255)[0] for restored in (dsr(vlr), bicubic)]
        assert row.cosine == pytest.approx(float(found[0] @ wanted), abs=1e-4)
        assert row.cosine_bicubic == pytest.approx(float(found[1] @ wanted), abs=1e-4)


def test_the_map_of_identity(setting, dsr_path):
    """Against finite differences of the loss at the pixel that matters most and at some others."""
    validation, edgeface, dsr = setting.validation, setting.original, load_dsr(dsr_path)
    found = identity_map(validation, dsr, edgeface, limit=1)
    assert found.shape == (112, 112) and found.mean() == pytest.approx(1, abs=1e-5) and found.min() >= 0
    edgeface.double()
    wanted = torch.from_numpy(validation.hr_embeddings[:1]).double()
    with torch.inference_mode():
        restored = as_tensor(
            np.round(255 * dsr(as_tensor(validation.faces.vlr[:1])).permute(0, 2, 3, 1).numpy()).astype(np.uint8)
        )

        def slope(y, x):
            sizes = []
            for channel in range(3):
                change = torch.zeros(1, 3, 112, 112, dtype=torch.float64)
                change[0, channel, y, x] = 1e-4
                above, below = (identity_loss(edgeface.embed(restored.double() + sign * change), wanted) for sign in (1, -1))
                sizes.append(abs(float(above - below)) / 2e-4)
            return sum(sizes)

        most = np.unravel_index(found.argmax(), found.shape)
        for y, x in ((56, 40), (80, 60)):
            assert slope(y, x) / slope(*most) == pytest.approx(found[y, x] / found[most], rel=1e-2)


def test_the_map_counts_every_face_alike(setting, dsr_path):
    """Over batches of unequal size: 33 faces are 32 and 1."""
    validation, dsr = setting.validation, load_dsr(dsr_path)
    both, first = (identity_map(validation, dsr, setting.original, limit=limit) for limit in (12, 1))
    assert both.mean() == pytest.approx(1, abs=1e-5) and np.abs(both - first).max() > 0.1
    assert degrade(torch.rand(1, 3, 112, 112), "14x16").shape == (1, 3, 16, 14)
