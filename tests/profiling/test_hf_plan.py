"""Plans of Hugging Face models: against the measured step, and what is read and refused."""

import json
from functools import partial

import pytest
import torch

from bdia.optim import Float32Master, in_backward
from bdia.profiling.hf_model import WAYS, HfSteps, Way, read_config
from bdia.profiling.hf_plan import SHORT, HfPlanner
from bdia.profiling.traced_step import measured_peak

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 300, "num_hidden_layers": 8}
GROUPED = SIZES | {"intermediate_size": 192, "num_key_value_heads": 2}
MODELS = {"llama": GROUPED, "qwen": GROUPED | {"head_dim": 16}, "gpt2": SIZES | {"bos_token_id": 0, "eos_token_id": 0}}
ADAMW = partial(torch.optim.AdamW, fused=True)
TRAININGS = {
    "32-true": ADAMW,
    "bf16-mixed": ADAMW,
    "bf16-true": partial(in_backward, make=ADAMW),
}
BDIA = Way("bdia keep 0", {"keep": 0})


def steps(model="llama", precision="32-true", device="cpu", **sizes):
    return HfSteps(read_config(model, MODELS[model] | sizes), TRAININGS[precision], 2, precision, 128, device)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("precision", TRAININGS)
@pytest.mark.parametrize("model", MODELS)
def test_the_planned_peak_is_the_measured_one(model, precision, way, one_thread):
    made = steps(model, precision)
    planned = HfPlanner(made).cost(way, 200).peak
    assert planned == pytest.approx(measured_peak(made.step(way, 200, 8)).peak, rel=0.001)  # 0.1 was asked for


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("steps_in_backward", [False, True])
def test_weights_in_bf16_with_their_optimizer_in_float32_are_planned(way, steps_in_backward, one_thread):
    optimizer = partial(Float32Master, make=ADAMW)
    optimizer = partial(in_backward, make=optimizer) if steps_in_backward else optimizer
    made = HfSteps(read_config("llama", MODELS["llama"]), optimizer, 2, "bf16-true", 128, "cpu")
    cost, meter = HfPlanner(made).cost(way, 200), measured_peak(made.step(way, 200, 8))
    assert cost.peak == pytest.approx(meter.peak, rel=0.001)
    assert cost.optimizer == pytest.approx(6 * cost.parameters, rel=0.01)  # three float32 tensors for each weight


def test_a_converted_llamas_planned_peak_is_the_measured_one(one_thread):
    made = steps(num_hidden_layers=2)
    planned = HfPlanner(made).cost(BDIA, 48).peak
    assert planned == pytest.approx(measured_peak(made.step(BDIA, 48, 2)).peak, rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_step_extended_from_a_few_layers_is_the_traced_one(way):
    planner = HfPlanner(steps(num_hidden_layers=11))
    keep = (way.settings or {}).get("keep", 0)
    assert planner.cost(way, 200) == planner._trace(way, 200, 11, keep).cost()


@pytest.mark.slow
@pytest.mark.parametrize("way", [WAYS[0], BDIA], ids=lambda way: way.name)
def test_the_longest_text_fits_as_measured_and_a_little_longer_one_does_not(way, one_thread):
    planner = HfPlanner(steps())
    memory = planner.cost(way, SHORT // 2).peak
    (longest,) = planner.row(way, 64, [memory]).longest
    assert longest == pytest.approx(SHORT // 2, rel=0.01)
    fits, too_long = (measured_peak(planner.steps.step(way, tokens, 8)).peak for tokens in (longest - 10, longest + 10))
    assert fits <= memory < too_long


@pytest.mark.slow
def test_attention_that_stores_its_weights_is_traced_at_every_length_and_fused_attention_is_not():
    stored = HfPlanner(steps("gpt2", num_hidden_layers=2))  # on a CPU dropout of attention has no fused kernel
    planned = stored.row(WAYS[0], 3 * SHORT, [2**30])
    assert planned.sizes["peak"] == stored.cost(WAYS[0], 3 * SHORT).peak
    fused = HfPlanner(steps("gpt2", device="cuda", num_hidden_layers=2)).row(WAYS[0], 64, [2**30])
    assert fused.longest[0] > 3 * planned.longest[0]


def test_a_configuration_is_read_from_a_file_or_its_folder_and_keys_change_it(tmp_path):
    made = read_config("qwen", MODELS["qwen"])
    path = tmp_path / "config.json"
    path.write_text(json.dumps(made.to_dict()), encoding="utf-8")
    for source in (path, tmp_path):
        found = read_config(str(source), {"num_hidden_layers": 5})
        assert (found.model_type, found.hidden_size, found.num_hidden_layers) == ("qwen3", 64, 5)


@pytest.mark.parametrize(
    ("source", "sizes", "message"),
    [
        ("nonesuch", {}, r"hf\.config=nonesuch: wanted a config\.json, .* llama, qwen, gpt2; set hf\.config"),
        (
            "llama",
            {"hiden_size": 8},
            r"hf\.hiden_size=8: LlamaConfig has no hiden_size; did you mean hf\.hidden_s",
        ),
        ("llama", {"hidden_size": "x"}, r"hf\.config=llama: these sizes do not fit together: .*; set hf\.KEY"),
    ],
)
def test_what_is_no_configuration_is_one_error(source, sizes, message):
    with pytest.raises(ValueError, match=message):
        read_config(source, sizes)


def test_a_file_that_is_no_configuration_is_one_error(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no configuration of a model: .*; set hf\.config"):
        read_config(str(tmp_path), {})


def test_a_model_that_is_no_language_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    made = HfSteps(read_config(str(tmp_path), {}), ADAMW)
    with pytest.raises(
        ValueError, match=r"ViTConfig: wanted the configuration of a language model: .*; set hf\.config"
    ):
        made.step(WAYS[0], 8, 1)


def test_of_a_model_that_reads_images_too_the_language_model_is_planned(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gemma3"}', encoding="utf-8")
    assert read_config(str(tmp_path), {}).model_type == "gemma3_text"


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match=r"precision=16: wanted one of 32-true, bf16-mixed, bf16-true; set precision"):
        HfSteps(read_config("llama", {}), ADAMW, 1, "16")
