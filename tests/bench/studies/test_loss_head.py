"""The study of the loss head: all heads compute the same gradients, and what waits for backward is told."""

import pytest
import torch.nn.functional as F

from bdia.bench.studies import loss_head


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch before 2.14 has no linear_cross_entropy")
def test_torchs_head_has_the_same_gradients_and_holds_them_from_forward_on():
    (rows,) = loss_head.measure(loss_head.Arguments(tokens=64, width=16, vocabulary=300, chunk=16, rounds=1))
    found = {row["head"]: row for row in rows}
    assert max(row["gradient_difference"] for row in rows) < 1e-5
    gradients = 4 * 16 * (300 + 64)  # bytes: of the weight and of the hidden states
    assert found["bdia"]["held"] < gradients / 4 < found["torch's linear_cross_entropy"]["held"]


def test_a_torch_without_it_is_told_which_one_has_it(monkeypatch):
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    with pytest.raises(RuntimeError, match=r"take torch 2\.14 or newer"):
        next(loss_head.measure(loss_head.Arguments()))
