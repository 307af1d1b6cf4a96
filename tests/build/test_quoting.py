"""Folders as people name them, in overrides that Hydra's grammar would read as something else."""

import pytest

from bdia.build import compose, quoted
from bdia.cli.main import main
from bdia.results.store import read_records
from bdia.train.launch import jobs_of, short_folder
from helpers.training_helpers import TINY

NAMES = ["a,b", "lr=3", "#1", "(new)", "it's", 'say "hi"', "été", "日本", "[x]", "{y}", "a b", "back\\slash", "end\\"]
NAMES += [
    "c:\\data",
    "a\\'b",
    "~home",
    "-dash",
    "🙂",
    "x" * 200,
    "&&",
    ";",
    "*",
    "1e5",
    "true_",
    "a'b'c",
    "é" * 100,
    "%",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_reaches_the_config_as_it_was_typed(name):
    for key in ("paths.runs", "paths.results"):
        assert compose([f"{key}=x/{name}"]).paths[key.partition(".")[2]] == f"x/{name}"


@pytest.mark.parametrize("text", ["paths.runs='a,b'", 'paths.runs="a b"', "paths.runs=a/b-c_1.0", "paths.runs=${name}"])
def test_what_hydra_reads_right_stays_as_it_is(text):
    assert quoted([text, "seed=1,2", "stack.keep=[1,2]"]) == [text, "seed=1,2", "stack.keep=[1,2]"]


def test_a_path_with_a_comma_is_no_sweep():
    jobs = jobs_of(quoted(["paths.runs=a,b", "seed=0,1"]), sweep=True)
    assert len(jobs) == 2 and all(compose(job).paths.runs == "a,b" for job in jobs)


@pytest.mark.parametrize("name", ["a, b=(c)#'é'", "日本/été"])
def test_a_run_trains_into_such_folders(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    main(["train", *TINY, "trainer.max_epochs=1", f"paths.runs=runs {name}", f"paths.results=results {name}"])
    assert [record.status for record in read_records(tmp_path / f"results {name}")] == ["ok"]
    assert len(list((tmp_path / f"runs {name}").rglob("final.ckpt"))) == 1


def test_with_chdir_relative_paths_mean_the_folder_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train", *TINY, "trainer.max_epochs=1", "hydra.job.chdir=true"])
    assert [record.status for record in read_records(tmp_path / "results")] == ["ok"]
    assert len(list((tmp_path / "runs" / "custom").rglob("final.ckpt"))) == 1


def test_names_of_folders_stay_below_what_a_file_system_takes():
    assert short_folder("3_seed=0/stack.keep=[1,2]") == "3_seed=0/stack.keep=[1,2]"
    long = "3_seed=0/stack.keep=[" + ",".join(map(str, range(90))) + "]"
    assert max(len(part.encode()) for part in short_folder(long).split("/")) <= 140
    assert short_folder(long) != short_folder(long + "x")
    assert short_folder("é" * 200).encode().decode() == short_folder("é" * 200)


def test_a_sweep_over_a_long_value_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["sweep", *TINY, "trainer.max_epochs=1", "seed=0,1", f"name={'n' * 180}"])
    assert [record.status for record in read_records(tmp_path / "results")] == ["ok", "ok"]
