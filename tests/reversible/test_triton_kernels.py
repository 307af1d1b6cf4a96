"""The kernels written in Triton give the bits of the others: in Triton's interpreter here, natively on a GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from bdia.profiling.traced_step import fake_tensors
from bdia.reversible import BdiaStack
from bdia.reversible.engine import with_triton
from bdia.reversible.engine.kernels import update_kernel
from helpers.places import ROOT
from helpers.reversible_helpers import make_blocks, make_tokens
from helpers.triton_cases import check_updates, update

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def interpreted(which, stream, against="eager"):
    """Run `helpers.triton_cases` in a process of its own: Triton reads the variable once, when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "helpers.triton_cases", which, stream, against]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


STREAMS = pytest.mark.parametrize("stream", ["float32", "int32"])


@needs_triton
@STREAMS
def test_the_interpreted_kernels_give_the_bits_of_the_eager_ones(stream):
    assert interpreted("few", stream) == "2 cases agree\n"


@needs_triton
@pytest.mark.slow
@STREAMS
@pytest.mark.parametrize("against", ["compiled", "eager"])
def test_the_interpreted_kernels_do_so_for_every_gamma_shape_and_dtype(stream, against):
    assert interpreted("all", stream, against) == "13 cases agree\n"


@needs_triton
@pytest.mark.gpu
@on_gpu
@STREAMS
@pytest.mark.parametrize("against", ["compiled", "eager"])
def test_native_kernels_give_the_bits_of_the_others_on_a_gpu(stream, against):
    assert check_updates("triton", "cuda", against, stream=stream) == 13


@needs_triton
@pytest.mark.gpu
@on_gpu
@STREAMS
@pytest.mark.parametrize("against", ["compiled", "eager"])
def test_native_kernels_give_the_same_bits_on_a_large_stream(stream, against):
    (found, x_prev, rebuilt), (wanted, _, _) = (
        update(["1/2", "-1/2"] * 16, (197, 512), kernel, "cuda", stream=stream) for kernel in ("triton", against)
    )
    assert torch.equal(rebuilt, x_prev)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@needs_triton
@pytest.mark.skipif(with_triton.interpreted(), reason="the interpreter takes any device")
def test_on_a_cpu_the_kernels_are_refused_with_the_key_to_change():
    with pytest.raises(RuntimeError, match=r"kernel='triton'.*tensors on cpu; set stack\.kernel=auto"):
        BdiaStack(make_blocks(3), kernel="triton")(make_tokens())


def test_without_triton_they_are_refused_with_the_key_to_change(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with_triton._kernels.cache_clear()
    with pytest.raises(RuntimeError, match=r"package triton is not installed.*stack\.kernel=auto"):
        BdiaStack(make_blocks(3), kernel="triton")(make_tokens())


@needs_triton
@STREAMS
def test_a_planner_needs_no_device_for_them(stream):
    with fake_tensors():
        x = torch.empty(2, 5, 24)
        state = torch.empty(x.shape, dtype=getattr(torch, stream))
        rule = BdiaStack(make_blocks(2), stream=stream)._rule(1, 1, x, 9, True)
        assert update_kernel(rule, state, state, x, True, True, "triton").packed.shape == (2, 1, 15)
