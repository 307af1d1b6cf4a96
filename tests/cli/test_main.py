"""`bdia <verb>`: found by name, imported when it runs, errors of one line and exit code 2."""

import errno
import os
import subprocess
import sys

import pytest

import bdia
import bdia.cli.config
from bdia import InvalidValueError
from bdia.cli.main import VERBS, main
from bdia.results.store import read_records
from helpers.places import ROOT
from helpers.training_helpers import TINY

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
HEAVY = {
    *("torch", "torchvision", "lightning", "torchmetrics", "timm", "numpy", "scipy", "sklearn", "pandas", "hydra"),
    *("omegaconf", "yaml", "transformers", "tokenizers", "sacrebleu", "num2words", "wandb", "matplotlib", "plotly"),
    *("jinja2", "datasets", "filelock"),
}


@pytest.fixture
def call(capsys):
    """call(*arguments): (exit code, standard output, standard error)."""

    def run(*arguments):
        code = 0
        try:
            main(list(arguments))
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


# --- Verbs and their help ---


def test_the_help_names_every_verb_and_every_file_of_a_verb_is_one(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "") and call() == (code, out, err)
    assert all(f"\n  {verb} " in out for verb in VERBS)
    files = {path.stem for path in (ROOT / "src" / "bdia" / "cli").glob("*.py")}
    shared = {"__init__", "__main__", "main", "errors", "arguments", "plan_hf", "plan_depths"}
    assert files - shared == {v.replace("-", "_") for v in VERBS}


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_says_how_it_is_called_and_gives_an_example(verb, flag, call):
    code, out, err = call(verb, flag)
    assert (code, err) == (0, "")
    assert f"Usage: bdia {verb}" in out
    examples = out.partition("Example")[2]
    assert f"bdia {verb}" in examples or f"bdia {verb.partition('-')[0]}" in examples


def test_the_version_is_printed(call):
    assert call("--version") == (0, f"bdia {bdia.__version__}\n", "")


def imported(*arguments):
    """The packages that `python -m bdia.cli` imports."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
    code += "from bdia.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {name.partition(".")[0] for name in done.stderr.splitlines()[-1].split()}


@pytest.mark.parametrize(
    "question", [["--help"], ["completion", "words=train "], *([verb, "--help"] for verb in VERBS)]
)
def test_help_and_completion_import_the_standard_library_only(question):
    assert imported(*question) & HEAVY == set()


def test_the_config_is_shown_without_torch(call):
    assert imported("config", "stack=revvit") & HEAVY == {"hydra", "omegaconf", "yaml"}
    assert "RevVitStack" in call("config", "stack=revvit")[1]


@pytest.mark.slow
def test_a_refused_stack_is_found_without_the_compiler_which_takes_longest_to_import():
    code = "import sys; from bdia.build import check_run, compose\ntry: check_run(compose(sys.argv[1:]))\n"
    code += "except ValueError: print(*{'torch._dynamo', 'lightning', 'timm'} & set(sys.modules))"
    for stack in ("bdia", "revvit", "checkpoint"):
        command = [sys.executable, "-c", code, f"stack={stack}", "stack.keep=[99]"]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "\n"), done.stderr + done.stdout


def test_an_unknown_verb_is_refused_with_the_nearest(call):
    assert call("trian") == (2, "", "error: bdia trian: there is no such verb; did you mean train?\n")
    code, _, err = call("dance")
    assert code == 2 and err.startswith("error: bdia dance: there is no such verb; wanted one of train, sweep, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "-m", "seed=0,1"], "-m: bdia train takes no flags but key=value; a sweep is `bdia sweep`"),
        (["bench", "--quick"], "--quick: bdia bench takes no flags but key=value; see bdia bench --help"),
    ],
)
def test_a_flag_is_refused(arguments, message, call):
    assert call(*arguments) == (2, "", f"error: {message}\n")


# --- Errors ---


@pytest.fixture
def raises(monkeypatch, call):
    """raises(error): how `bdia config` ends when it raises that."""

    def run(error):
        def fail(argv):
            raise error

        monkeypatch.setattr(bdia.cli.config, "run", fail)
        return call("config")

    return run


FULL = (
    ": make room, or set paths.runs and paths.results to another disk; the same command then goes on from the last "
    "checkpoint"
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InvalidValueError("a=1: wanted 2;\nset a"), "a=1: wanted 2; set a"),
        (PermissionError(13, "Permission denied", "file"), "[Errno 13] Permission denied: 'file'"),
        (OSError(errno.ENOSPC, "No space left on device"), f"No space left on device{FULL}"),
        (OSError(errno.EDQUOT, "x", "runs/a"), f"{os.strerror(errno.EDQUOT)} (runs/a){FULL}"),
        (ModuleNotFoundError("No module", name="matplotlib.figure"),
         "this verb needs the package matplotlib, which is not installed: pip install '.[report]' in bdia's checkout"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "No module named 'x'"),
    ],
)  # fmt: skip
def test_an_error_for_the_user_is_one_line_and_exit_code_2(error, line, raises, monkeypatch):
    assert raises(error) == (2, "", f"error: {line}\n")
    monkeypatch.setenv("BDIA_DEBUG", "1")
    with pytest.raises(type(error)):
        raises(error)


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), OSError("x"), ModuleNotFoundError("x", name="bdia.x")]
)
def test_an_accident_keeps_its_traceback(error, raises):
    with pytest.raises(type(error)):
        raises(error)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stack.bits=99"], "error: stack.bits=99: wanted a whole number of at least 1 and at most 24 or auto or null"),
        (["stack.bitz=9"], "error: stack.bitz=9: bdia.reversible.BdiaStack reads no bitz; did you mean stack.bits?"),
        (["gamma@stack.gamma=uniform"], "has no inverse: set stack.backward=stored"),
        (["trainer.devices=2"], "error: trainer.strategy=auto with 2 devices: wanted ddp"),
        (["model=gpt2_demo"], "error: data are images (data._target_=bdia.data.DigitsDataModule), the model learns "),
    ],
)
@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_a_run_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    verb, overrides, words, call, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(verb, *overrides)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_with_a_refused_combination_is_refused_whole(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = call("sweep", "stack.bits=9,99", "seed=0,1")
    assert (code, out) == (2, "") and err.startswith("error: stack.bits=99")
    assert list(tmp_path.iterdir()) == []


# --- In a process of its own ---


def run(*arguments, cwd, module="bdia.cli", **environment):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=ENVIRONMENT | environment, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_python_m_bdia_train_is_bdia_train(tmp_path):
    first, second = (run(*words, cwd=tmp_path, module=name) for words, name in (
        (["train", "stack.bitz=9"], "bdia.cli"), (["stack.bitz=9"], "bdia.train")))  # fmt: skip
    assert (first.returncode, first.stdout, first.stderr) == (second.returncode, second.stdout, second.stderr)
    assert second.returncode == 2 and second.stderr.count("\n") == 1


def test_the_traceback_is_shown_on_request(tmp_path):
    done = run("train", "stack.bitz=9", cwd=tmp_path, BDIA_DEBUG="1")
    assert done.returncode == 1 and "Traceback (most recent call last)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("bdia.InvalidValueError: stack.bitz=9: ")


def read_one_line(*arguments, cwd):
    """What `head -1` leaves of a command: the line, how the command ends, and standard error."""
    command = [sys.executable, "-m", "bdia.cli", *arguments]
    child = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )
    line = child.stdout.readline()
    child.stdout.close()
    _, err = child.communicate(timeout=300)
    return line, child.returncode, err


def test_a_config_that_nobody_reads_ends_as_after_sigpipe(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bdia.cli", "config"]
    done = subprocess.run(
        command, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
def test_a_run_whose_lines_nobody_reads_any_more_trains_to_its_end(places, tmp_path):
    words = [word for word in TINY if "progress_bar" not in word]
    line, code, err = read_one_line("sweep", *words, *places, "seed=0,1", "trainer.max_epochs=2", cwd=tmp_path)
    assert line and code == 0, err  # Hydra's own lines may complain of the pipe
    assert [record.status for record in read_records(places[1].partition("=")[2])] == ["ok", "ok"]


@pytest.mark.slow
def test_what_a_library_refuses_is_one_line_and_an_accident_of_a_class_keeps_its_traceback(tmp_path):
    refused = run("train", *TINY, "+trainer.max_time=abacus", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "error: trainer: lightning.pytorch.trainer.trainer.Trainer refuses it: `Timer(duration=" in (refused.stderr)
    assert not (tmp_path / "results").exists() and not (tmp_path / "runs" / "custom").exists()
    (tmp_path / "accident.py").write_text("class Net:\n    def __init__(self, *_, **__):\n        [][1]\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    broken = run("train", *TINY, "model.net._target_=accident.Net", cwd=tmp_path, PYTHONPATH=path)
    assert broken.returncode != 2 and "Traceback (most recent call last)" in broken.stderr


IMPORTS = """
import builtins, sys
seen, real = set(), builtins.__import__
def note(name, globals=None, *rest, **more):
    if globals and str(globals.get("__name__")).startswith("bdia."):
        seen.add(name.partition(".")[0])
    return real(name, globals, *rest, **more)
builtins.__import__ = note
from bdia.cli.main import main
main(["train", *sys.argv[1:]])
print(*seen, file=sys.stderr)
"""


@pytest.mark.slow
def test_our_code_imports_for_a_run_on_images_nothing_that_only_text_wandb_or_reports_need(places):
    command = [sys.executable, "-c", IMPORTS, *TINY, *places, "trainer.max_epochs=1"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    found = set(done.stderr.splitlines()[-1].split())
    assert "torch" in found, done.stderr
    absent = {"transformers", "tokenizers", "sacrebleu", "num2words", "wandb", "matplotlib", "jinja2", "datasets"}
    assert found & absent == set()
    assert [record.status for record in read_records(places[1].partition("=")[2])] == ["ok"]
