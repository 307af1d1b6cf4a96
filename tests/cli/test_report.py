"""`bdia report`: tables in the terminal, files beside the records."""

import pytest

from bdia.cli.main import main
from bdia.results.store import write_record
from helpers.synthetic_records import make_record


@pytest.fixture
def results(tmp_path):
    """A folder with a record of each of two experiments."""
    for name in ("one", "other"):
        write_record(make_record(experiment=name), tmp_path / "results")
    return tmp_path / "results"


def test_the_tables_of_one_experiment_are_printed_and_the_files_are_of_all(results, tmp_path, capsys):
    main(["report", f"results={results}", f"out={tmp_path / 'out'}", "experiment=one"])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "one" and "\nother" not in out
    assert out.splitlines()[-1] == f"Report: {tmp_path / 'out' / 'report.html'}"
    assert sorted(path.name for path in (tmp_path / "out" / "tables").iterdir()) == ["claims.md", "one.md", "other.md"]
    main(["report", f"results={results}"])
    assert "\nother\n" in capsys.readouterr().out and (results / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["results={}", "experiment=none"], "/none/*.json: train first, for example `bdia train experiment=demo`"),
        (["results={}/nowhere"], "nowhere does not exist"),
        (["result={}"], "wanted results="),
    ],
)
def test_records_that_are_not_there_are_one_line(arguments, words, results, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["report", *(word.format(results) for word in arguments)])
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (results / "report.html").exists()
