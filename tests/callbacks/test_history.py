"""Rows of the curve: one per epoch and split, kept over a resume."""

from bdia.callbacks import History, Measurement
from bdia.train.job import train


def test_every_epoch_leaves_loss_accuracy_and_learning_rate_and_the_test_one_row(tiny):
    record = train(tiny("trainer.max_epochs=2"))
    for name in ("loss", "accuracy"):
        assert [row.step for row in record.curve(name, "train")] == [5, 10]
        assert [row.step for row in record.curve(name, "val")] == [5, 10]
        assert [row.step for row in record.curve(name, "test")] == [10]
    assert [row.step for row in record.curve("lr", "train")] == [5, 10]


def test_epochs_without_validation_leave_no_validation_row(tiny):
    record = train(tiny("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"))
    assert [row.step for row in record.curve("loss", "val")] == [10]
    assert [row.step for row in record.curve("loss", "train")] == [5, 10, 15]


def test_rows_survive_a_checkpoint():
    history, restored = History(), History()
    history.rows = [Measurement("loss", 0.5, "val", 5), Measurement("step_time", 1.5)]
    restored.load_state_dict(history.state_dict())
    assert restored.rows == history.rows
