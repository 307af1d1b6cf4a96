import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from bdia import MissingFileError
from bdia.cli.report import run
from bdia.results import Metric, gather, table_text, write_record
from bdia.results.figures import curves, figure_of, result_against_memory, sweep
from bdia.results.page import order
from bdia.results.page.benchmarks import benchmarks
from bdia.results.page.memory_figures import memory_against_setting, memory_by_category
from bdia.results.report import build_report
from bdia.results.statistics import NONE
from bdia.results.store import NOT_EXPERIMENTS, read_remarks
from helpers.places import ROOT
from helpers.synthetic_records import BDIA, GAMMA, STANDARD, make_metrics, make_record, make_study

EVIL = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Collects tags, links and sources of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.references, self.ids, self.sources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for key, value in attrs if key in ("src", "href", "xlink:href", "data")]
        self.ids += [value for key, value in attrs if key == "id"]
        self.sources += [value for key, value in attrs if tag == "script" and key == "src"]


def read_page(path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture
def root(tmp_path):
    broken = make_record(STANDARD, seed=3, at=40, status="oom", metrics=[], error="Traceback\nCUDA out of memory")
    for record in [*make_study(), broken]:
        write_record(record, tmp_path / "results")
    return tmp_path / "results"


def test_page_needs_nothing_from_outside(root):
    path = build_report(root, root)
    page, text = read_page(path), path.read_text(encoding="utf-8")
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    assert page.sources == []
    styles = "".join(re.findall(r"<style>.*?</style>", text, re.DOTALL))
    assert styles and "@import" not in styles and "url(" not in styles


def test_page_has_one_id_of_each_name_one_figure_a_study_and_one_copy_of_plotly(root):
    path = build_report(root, root)
    page, text = read_page(path), path.read_text(encoding="utf-8")
    assert len(page.ids) == len(set(page.ids))
    assert text.count('<div class="plot"') == 2  # the first screen's and the study's
    assert len(re.findall(r"plotly\.js v\d", text)) == 1


def test_same_records_give_the_same_bytes(root, tmp_path):
    first, second = build_report(root, tmp_path / "a"), build_report(root, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    tables = sorted((tmp_path / "a" / "tables").iterdir())
    assert [table.name for table in tables] == ["claims.md", "table1_cifar10_cpu.md"]
    for table in tables:
        assert table.read_bytes() == (tmp_path / "b" / "tables" / table.name).read_bytes()


def test_names_from_records_are_escaped(tmp_path):
    record = make_record(experiment=EVIL, device={"name": EVIL}, status="failed", metrics=[], error=EVIL)
    write_record(record, tmp_path)
    path = build_report(tmp_path, tmp_path)
    assert "img" not in read_page(path).tags
    assert "&lt;img src=x" in path.read_text(encoding="utf-8")
    assert "<img" not in (tmp_path / "tables" / f"{EVIL}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("draw", [curves, sweep, result_against_memory, memory_by_category])
def test_labels_in_figures_are_escaped_twice_over(draw):
    """For plotly, which reads tags in its texts, and for the script around the JSON."""
    gammas = [{**GAMMA, "value": "</script><b>$x$"}, GAMMA]
    records = [make_record({**BDIA, "gamma": gamma}, at=at) for at, gamma in enumerate(gammas)]
    (experiment,) = gather(records)
    plot = draw(experiment)
    assert "<" not in plot.json
    assert "<b>" not in json.dumps(json.loads(plot.json)).replace("<br>", "")
    assert "&lt;b&gt;" in json.dumps(json.loads(plot.json)).replace("<br>", "")


def deep(stack, depth, size, memory):
    record = make_record(stack, at=depth + size, metrics=[Metric("peak_allocated", memory, "MiB", None, 100)])
    config = copy.deepcopy(record.config)
    config["model"]["net"]["depth"], config["data"]["batch_size"] = depth, size
    return replace(record, config=config)


def test_memory_is_a_line_over_the_setting_with_the_most_numbers_and_bars_where_there_is_none():
    cells = [(stack, depth, size) for stack in (STANDARD, BDIA) for depth in (24, 6, 12) for size in (16, 64)]
    (experiment,) = gather([deep(*cell, cell[1] * cell[2]) for cell in cells])
    drawn = json.loads(figure_of(experiment).json)
    assert [trace["name"] for trace in drawn["data"]] == [
        f"{stack}, batch size {size}" for stack in ("standard (ViT)", "BDIA") for size in (16, 64)
    ]
    assert all(trace["x"] == [6, 12, 24] for trace in drawn["data"])
    assert drawn["data"][3]["y"] == [384, 768, 1536]
    assert drawn["data"][0]["line"]["dash"] == drawn["data"][2]["line"]["dash"] != drawn["data"][1]["line"]["dash"]
    two = gather([deep(*cell, 1.0) for cell in cells if cell[1] != 24])[0]
    assert memory_against_setting(two) is None


@pytest.mark.parametrize("draw", [sweep, memory_by_category])
def test_rows_of_bars_are_as_high_as_the_longest_label_takes(draw):
    """Rows are equally high in plotly: where one label has three lines, all rows need room for three."""
    laws = ["1/2", "1/4", "a law that has a name of more than one line on this page"]
    records = [make_record({**BDIA, "gamma": {**GAMMA, "value": law}}, at=at) for at, law in enumerate(laws)]
    plot = draw(gather(records)[0])
    names = [str(name) for trace in json.loads(plot.json)["data"] for name in trace["y"]]
    lines = 1 + max(name.count("<br>") for name in names)
    assert lines > 1 + min(name.count("<br>") for name in names)
    assert plot.height > 16 * lines * len(laws) + 90


def test_a_new_study_is_on_the_page_in_its_place_with_its_own_header(root):
    write_record(make_record(experiment="a_new_study"), root)
    write_record(make_record(experiment="demo"), root)
    write_record(make_record(experiment="bits_cifar10_few"), root)
    text = build_report(root, root).read_text(encoding="utf-8")
    kickers = re.findall(r'<p class="kicker">(.*?)</p>', text)
    kickers.remove("overtaking")  # is made of the others' curves
    assert kickers == ["table1_cifar10_cpu", "a_new_study", "bits_cifar10_few", "demo"]
    assert "<h3>Bits of the grid, which the paper&#39;s reviewers asked for: l = 4 to 14" in text
    assert "make study NAME=bits_cifar10 SCALE=few" in text
    assert "bdia train experiment=a_new_study" in text


def test_every_study_of_the_page_s_order_is_one():
    names = {path.stem for path in order.EXPERIMENTS.glob("*.yaml")} | {"reconstruction", "inference"}
    assert set(order.ORDER) <= names
    assert set(order.LAST) <= names


def test_the_first_screen_says_what_bdia_means_for_memory_and_time(root):
    text = build_report(root, root).read_text(encoding="utf-8")
    assert "needs 40 MiB instead of 100 (60% less) and takes 1.3 times as long" in text
    assert "16 claims: " in text


def test_the_demo_says_what_it_found_of_memory_and_what_it_can_and_cannot_say():
    text = table_text([make_record(stack, experiment="demo", at=at) for at, stack in enumerate((STANDARD, BDIA))])
    assert "With BDIA a training step needs 100 MiB instead of 100" in text
    assert "two seeds of thirty images say nothing on which stack is the more accurate" in text


def test_a_benchmark_that_cannot_be_read_is_named_and_left_out(root, caplog):
    for name, content in (("whole_step", {"rows": [{"stack": "bdia", "ms": 2.5}, {"stack": "standard", "ms": 1.5}]}),
                          ("bench", {"rows": 3}), ("depth/tiny", {"no": "rows"})):  # fmt: skip
        (root / name).mkdir(parents=True)
        (root / name / "1.json").write_text(json.dumps(content))
    assert [one.table.rows for one in benchmarks(root)] == [[["bdia", "2.5"], ["standard", "1.5"]]]
    assert caplog.text.count("not shown") == 2


def test_peaks_of_one_layer_have_a_table_of_their_own(root, caplog):
    rows = [{"depth": 24, "way": "BDIA", "peak": 25.69}, {"depth": 96, "way": "BDIA", "peak": 27.94}]
    rows += [{"depth": 24, "way": "RevViT", "peak": 18.01}]
    (root / "depth" / "layer_peak").mkdir(parents=True)
    (root / "depth" / "layer_peak" / "1.json").write_text(json.dumps({"study": "layer_peak", "rows": rows}))
    (found,) = benchmarks(root)
    assert found.table.columns == ["way", "streams at the peak, 24 blocks", "streams at the peak, 96 blocks"]
    assert found.table.rows == [["BDIA", "25.7", "27.9"], ["RevViT", "18.0", NONE]]
    assert not caplog.text


def test_every_record_of_the_results_folder_is_shown(caplog):
    assert benchmarks(ROOT / "results")
    assert not caplog.text


def test_markdown_table_holds_results_verdict_and_provenance(root):
    build_report(root, root)
    text = (root / "tables" / "table1_cifar10_cpu.md").read_text(encoding="utf-8")
    curves = "61.00 → 61.00 | 1.400 → 1.400 | 1.300"
    row = f"| BDIA | 61.00 ± 1.00 (n=3) | 89.10 | -28.10 | {curves} | 40.0 (0.40x) | 65.0 (1.30x) | 3 ok |"
    assert row in text.splitlines()
    assert "- Table 1, CIFAR-10, BDIA is more accurate than the standard ViT (paper: 89.10 against 88.15 %" in text
    assert "- commit abcdef012345 (clean): 10 run(s)" in text
    assert "1 x CPU (test), torch 2.14.0, fp32" in text


def test_what_is_said_of_the_records_beside_them_stands_in_table_page_and_terminal(root, capsys):
    (root / "table1_cifar10_cpu" / "README.md").write_text("# A heading\n\nRows were\ntaken out.\n\nTwice.\n")
    (root / "bench").mkdir()
    (root / "bench" / "README.md").write_text("of another kind\n")
    run([f"results={root}"])
    table = (root / "tables" / "table1_cifar10_cpu.md").read_text(encoding="utf-8")
    assert "\n- Rows were taken out.\n- Twice.\n" in table
    page = (root / "report.html").read_text(encoding="utf-8").partition("<noscript>")[0]  # plotly's code follows
    for text in (table, page, capsys.readouterr().out):
        assert "Rows were taken out." in text
        assert "heading" not in text and "of another kind" not in text


def test_the_edited_records_of_cifar_10_say_so():
    remarks = read_remarks(ROOT / "results")
    assert "nine records of commit 8f2bfb1 were edited" in remarks["table1_cifar10_cpu"][0]
    table = (ROOT / "results" / "tables" / "table1_cifar10_cpu.md").read_text(encoding="utf-8")
    assert remarks["table1_cifar10_cpu"][0] in table


def test_every_folder_of_records_has_its_table_with_what_its_readme_says():
    """Else: bdia report. What git ignores are a user's own runs."""
    results, remarks = ROOT / "results", read_remarks(ROOT / "results")
    names = {path.parent.name for path in results.glob("*/*.json")} - {*NOT_EXPERIMENTS, "demo", "custom"}
    assert {"table1_cifar10_long", "translation_cpu"} <= names
    for name in sorted(name for name in names if not name.endswith("_smoke")):
        table = (results / "tables" / f"{name}.md").read_text(encoding="utf-8")
        assert all(paragraph in table for paragraph in remarks.get(name, ())), name


def test_the_readme_of_the_results_describes_every_folder():
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in (ROOT / "results").iterdir() if path.is_dir()} - {"demo", "custom"}  # a user's own
    folders = sorted(name for name in folders if not name.endswith("_smoke"))
    assert folders
    assert [name for name in folders if f"`{name}" not in text] == []


def test_broken_runs_are_rows_with_their_reason(root):
    build_report(root, root)
    text = (root / "tables" / "table1_cifar10_cpu.md").read_text(encoding="utf-8")
    assert "3 ok, 1 oom" in text
    assert "seed 3: oom: CUDA out of memory" in text


def test_older_runs_left_out_are_counted_beneath_the_table():
    records = [make_record(at=0, metrics=make_metrics(10.0)), make_record(at=1, metrics=make_metrics(20.0))]
    assert "1 older ok run(s) of the same seed left out" in table_text(records)


def test_terminal_table_is_aligned():
    lines = table_text(make_study()).splitlines()
    head, rule, *rows = lines[2:7]
    assert len({len(line) for line in (head, rule, *rows)}) == 1


def test_a_figure_without_numbers_is_left_out():
    (experiment,) = gather([make_record(metrics=[], status="failed")])
    assert figure_of(experiment) is None


def test_command_prints_table_and_path(root, tmp_path, capsys):
    run([f"results={root}", f"out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert "61.00 ± 1.00 (n=3)" in printed
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in printed


def test_command_prints_one_experiment_alone_but_the_page_keeps_all(root, tmp_path, capsys):
    write_record(make_record(experiment="other"), root)
    run([f"results={root}", f"out={tmp_path / 'out'}", "experiment=other"])
    assert "table1_cifar10_cpu" not in capsys.readouterr().out
    assert "table1_cifar10_cpu" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [False, True])
def test_command_without_records_gives_one_clear_error(tmp_path, make):
    if make:
        (tmp_path / "results").mkdir()
    with pytest.raises(MissingFileError, match="results"):
        run([f"results={tmp_path / 'results'}"])


def test_results_layer_imports_neither_torch_nor_lightning():
    code = "import sys, bdia.results.report; print(sorted({'torch', 'lightning'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
