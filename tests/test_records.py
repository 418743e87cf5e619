"""Records of trainings: every epoch once, also after a kill; read back with TensorBoard's and MLflow's own readers."""

import json

import pytest

from dsrkit.runs import Run
from dsrkit.training import TrainingError, open_setting, train_dsr
from dsrkit.training.resume import Progress


@pytest.fixture
def setting(root, stage_params):
    def opened(**changes):
        return open_setting(stage_params("02_dsr_training", epochs=3, batch_size=2, checkpoint_minutes=0.0, **changes))

    return opened


def lines_of(run):
    file = run.folder / "logs" / "02_dsr_training.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def killed_after(saves, train, monkeypatch):
    """Train until the state was saved so often, and then no further."""
    done, save = [], Progress.save

    def counted(progress, state):
        save(progress, state)
        done.append(state)
        if len(done) == saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "save", counted)
        train()


def test_a_line_an_epoch_with_provenance_first(setting):
    done = train_dsr(setting())
    first, *epochs = lines_of(Run("tiny"))
    assert first["provenance"]["parameters"]["epochs"] == 3 and first["provenance"]["inputs"]["manifest"]["sha256"]
    assert [line.pop("title") for line in epochs] == ["DSR"] * 4
    assert epochs == json.loads(json.dumps(done.history))


def test_tensorboard_has_every_epoch_once_after_a_kill(setting, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    killed_after(4, lambda: train_dsr(setting()), monkeypatch)
    done = train_dsr(setting())
    board = events.EventAccumulator(str(Run("tiny").folder / "tensorboard" / "02_dsr_training" / "DSR")).Reload()
    read = [(event.step, event.value) for event in board.Scalars("auc")]
    assert [step for step, _ in read] == [0, 1, 2, 3]
    assert [value for _, value in read] == pytest.approx([epoch["auc"] for epoch in done.history])
    assert len(lines_of(Run("tiny"))) == 5
    train_dsr(setting(seed=5))  # another training takes the place of the first
    board = events.EventAccumulator(str(Run("tiny").folder / "tensorboard" / "02_dsr_training" / "DSR")).Reload()
    assert [event.step for event in board.Scalars("auc")] == [0, 1, 2, 3]


def test_mlflow_takes_what_its_address_names(setting, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    killed_after(4, lambda: train_dsr(setting()), monkeypatch)
    done = train_dsr(setting())
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["epochs"] == "3" and run.info.run_name == "02_dsr_training, DSR"
    read = sorted({(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "auc")})
    assert [value for _, value in read] == pytest.approx([epoch["auc"] for epoch in done.history])


def test_a_server_that_does_not_answer_costs_a_warning(setting, monkeypatch, tmp_path):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/file")
    with pytest.warns(UserWarning, match="MLflow does not take this training, which goes on without it"):
        done = train_dsr(setting())
    assert len(done.history) == 4


def test_what_is_not_installed_is_named(setting, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr("dsrkit.training.records.importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"expected the package mlflow beside it, got none\. pip install 'dsrkit\[mlflow\]'"):
        train_dsr(setting())
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    train_dsr(setting())  # TensorBoard may be missing
    assert not (Run("tiny").folder / "tensorboard").exists() and len(lines_of(Run("tiny"))) == 5
