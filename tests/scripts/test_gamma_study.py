"""Texts, models, laws, training and grids of the study, in small."""

import copy
import json

import pytest
import torch
from gamma_study.bits import grid_rows, with_small_stream
from gamma_study.command import main
from gamma_study.laws import per_block, ramp_to, side_bits, variants
from gamma_study.models import CONTEXT, all_windows, loss_of, make_gpt2, make_llama, pretrained
from gamma_study.texts import Text, Texts, shakespeare_then_restaurants, web_then_shakespeare
from gamma_study.training import Budget, best_learning_rate, finetune

from bdia.reversible import TwoPoint

TEXT = Text("made up", "".join(f"The {k}. sentence has its own number. " for k in range(60)))
TEXTS = Texts(TEXT, Text("train", TEXT.text[:800]), Text("val", TEXT.text[-400:]))
BUDGET = Budget(steps=3, batch=2, eval_every=2, eval_windows=3, lora_rank=2)
VARIANTS = {variant.name: variant for variant in variants(bits=13, coarse_bits=9)}


def gpt2():
    torch.manual_seed(0)
    return make_gpt2(width=16, layers=3)


def llama():
    torch.manual_seed(0)
    return make_llama(width=16, layers=3)


def tuned(model, method="full", law="±1/4", seed=0, lr=1e-2, backward="stored", budget=BUDGET):
    windows = all_windows(TEXT.tokens())[:2]
    return finetune(model, TEXTS, method, VARIANTS[law], seed, lr, budget, windows, backward)


def equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_windows_hold_every_target_once():
    windows = all_windows(torch.arange(3 * CONTEXT + 2))
    assert windows.shape == (3, CONTEXT + 1)
    assert windows[:, 1:].flatten().tolist() == list(range(1, 3 * CONTEXT + 1))


@pytest.mark.parametrize("texts", [shakespeare_then_restaurants, web_then_shakespeare])
def test_without_data_the_texts_come_from_python_and_do_not_overlap(tmp_path, texts):
    found = texts(tmp_path, 3000, 1000)
    assert found.pretrain.source.startswith("pydoc") and found.train.source.startswith("source of Python's")
    assert (len(found.train.text), len(found.val.text)) == (3000, 1000)
    assert found.val.text not in found.train.text and len({text.sha256 for text in found}) == 3


def test_a_text_that_is_too_short_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has \d+ characters, wanted 900000000 to train on"):
        shakespeare_then_restaurants(tmp_path, 900_000_000, 1)


def test_sentences_about_one_restaurant_stay_on_one_side(tmp_path):
    (tmp_path / "e2e").mkdir()
    rows = [f'"name[{name}]","About {name} number {k}."' for k in range(3) for name in ("Aa", "Bb", "Cc", "Dd")]
    (tmp_path / "e2e" / "devset.csv").write_text("\n".join(["mr,ref", *rows]) + "\n")
    found = shakespeare_then_restaurants(tmp_path, 113, 113)  # six sentences of 18 characters each, five line ends
    train, val = ({line.split()[1] for line in text.text.split("\n")} for text in (found.train, found.val))
    assert len(train) == len(val) == 2 and not train & val


def test_a_pretrained_model_is_read_again_from_its_file(tmp_path):
    first, path = pretrained(make_gpt2, TEXT, 2, 2, 1e-2, tmp_path)
    again, same_path = pretrained(make_gpt2, TEXT, 2, 2, 1e-2, tmp_path)
    other, other_path = pretrained(make_gpt2, TEXT, 3, 2, 1e-2, tmp_path)
    assert path == same_path != other_path and equal(first, again) and not equal(first, other)
    assert again.lm_head.weight.data_ptr() == again.transformer.wte.weight.data_ptr()


def test_variants_have_the_side_bits_of_their_magnitudes():
    assert [side_bits(VARIANTS[f"±1/{2**bits}"].law(5, 10), 5) for bits in range(1, 6)] == [1, 2, 3, 4, 5]
    assert side_bits(None, 5) is None
    grows, shrinks = per_block(8), per_block(8, shrinks=True)
    assert [grows.at(k).side_bits for k in (1, 7)] == [5, 2] and [shrinks.at(k).side_bits for k in (1, 7)] == [2, 5]
    assert side_bits(grows, 8) == side_bits(shrinks, 8)


def test_a_ramp_reaches_its_last_value_within_half_of_the_steps():
    law = ramp_to("1/2", steps=100)
    for _ in range(50):
        law.begin_pass()
    assert law.side_bits == 1


def test_a_run_tells_the_losses_the_curve_and_where_side_bits_change():
    row, _ = tuned(gpt2(), law="ramp ±1/32 to ±1/2", budget=BUDGET._replace(steps=4))
    assert [step for step, _ in row["val"]] == [0, 2, 4]
    assert row["side_bits"] == [(1, 5.0), (2, 4.0), (3, 3.0), (4, 2.0)]  # every=1; measuring has not moved the ramp


def test_the_standard_model_trains_as_it_evaluates_and_a_large_gamma_does_not():
    standard, _ = tuned(llama(), law="standard")
    half, _ = tuned(llama(), law="±1/2")
    assert standard["loss_after_conversion"] == pytest.approx(standard["val"][0][1], abs=1e-6)
    assert half["val"][0] == standard["val"][0]
    assert abs(half["loss_after_conversion"] - standard["loss_after_conversion"]) > 1e-4


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("make", [gpt2, llama])
def test_reversible_and_stored_training_give_equal_weights(make, method):
    stored, reversible = (tuned(make(), method, backward=backward)[1] for backward in ("stored", "reversible"))
    assert equal(stored, reversible)
    assert not equal(stored, tuned(make(), method, seed=1)[1])


def test_lora_changes_its_adapters_only():
    model = llama()
    before = copy.deepcopy(model.state_dict())
    _, trained = tuned(model, "lora", lr=0.1)
    base = {name.replace(".base_layer", ""): tensor for name, tensor in trained.get_base_model().state_dict().items()}
    assert all(torch.equal(base[name], tensor) for name, tensor in before.items())
    assert any("lora_B" in name and tensor.any() for name, tensor in trained.state_dict().items())


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match='method=\'half\': wanted "full" or "lora"'):
        tuned(gpt2(), "half")


def test_the_lowest_final_loss_chooses_the_learning_rate():
    rows = [{"lr": lr, "val": [[0, 3.0], [9, loss]]} for lr, loss in ((0.1, 2.0), (0.01, 1.0), (0.001, 1.0))]
    assert best_learning_rate(rows) == 0.001


def test_a_scaled_stream_keeps_the_logits():
    model = llama()
    windows = all_windows(TEXT.tokens())[:2]
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)  # a stream well above the epsilon of RMSNorm
        small = with_small_stream(model, 0.01)
        change = small(windows).logits - model(windows).logits
    assert change.abs().max() < 1e-4
    assert small.model.embed_tokens.weight.square().mean().sqrt().item() == pytest.approx(0.01)
    assert small.model.layers[0].input_layernorm.variance_epsilon < model.config.rms_norm_eps


def test_a_finer_grid_costs_less_and_a_small_stream_costs_more():
    model, windows = llama(), all_windows(TEXT.tokens())[:2]
    rows = grid_rows("a", model, windows, (7, 11)) + grid_rows("b", with_small_stream(model, 0.002), windows, (7, 11))
    error = {(row["model"], row["bits"]): row["logit_error"] for row in rows if row["gamma"] == "0"}
    assert error["a", 11] < error["a", 7] / 4 and error["b", 7] > error["a", 7]
    assert {row["gamma"] for row in rows} == {"0", "±1/16"} and TwoPoint("1/16").side_bits == 4
    with torch.no_grad():
        plain = loss_of(model.eval(), windows).item()
    assert rows[0]["loss"] - rows[0]["loss_change"] == pytest.approx(plain, abs=1e-6)


@pytest.mark.slow
def test_the_command_writes_a_document_and_its_table(tmp_path):
    arguments = ["--data", str(tmp_path), "--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]
    main(["--quick", *arguments])
    (path,) = (tmp_path / "results" / "finetune_gamma").glob("*.json")
    found, table = json.loads(path.read_text()), tmp_path / "results" / "tables" / "finetune_gamma.md"
    assert found["status"] == "ok" and all(check["equal"] for check in found["checks"]) and found["checks"]
    assert {run["seed"] for run in found["runs"]} == {0, 1} and found["grids"] and found["rates"]
    page = table.read_text()
    table.unlink()
    main(["--table", str(path), *arguments])
    assert table.read_text() == page and str(tmp_path) not in page + path.read_text()
