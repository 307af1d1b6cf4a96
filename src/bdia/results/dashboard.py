"""A study on W&B: one workspace and one report, built with wandb-workspaces from what every run logs.

The library's serialisation is private: its version is pinned (`constraints.txt`), and `checked_json` reads a workspace
back before it is shown or saved. Runs are told apart by what `bdia.train.loggers` gives them: group = study, job type =
stack, numbers `gamma` and `bits` in the config, the record's names in curves and summary.
"""

from typing import NamedTuple

from wandb_workspaces import expr
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports import v2 as wr
from wandb_workspaces.reports.v2.interface import UnknownPanel
from wandb_workspaces.workspaces import internal

from bdia import BdiaError, InvalidValueError
from bdia.results.record import UNITS

MEMORY = ("parameters", "gradients", "optimizer", "activations", "other")  # the parts of peak_allocated
STEP = "trainer/global_step"  # what Lightning logs beside every value; W&B's own step counts calls
MOST_RUNS = 200  # a panel shows; W&B's 10 would hide most of a study
MEASURES = ("accuracy", "bleu", "chrf", "exact_match", "perplexity", "loss")


class Study(NamedTuple):
    """What a dashboard is of.

    Args:
        name: the runs' group: the folder of their records.
        measure: what the study compares, one of `MEASURES`, on test and validation data.
        entity: who owns the project on W&B; "" where that is not known yet.
        project: where the runs were logged.
    """

    name: str
    measure: str = "accuracy"
    entity: str = ""
    project: str = "bdia"


class DashboardError(BdiaError, RuntimeError):
    """What wandb-workspaces made of the dashboard is not what was asked for; the message says where it differs."""


def workspace(study: Study) -> ws.Workspace:
    """Return the workspace of a study; nothing is sent.

    Raises:
        InvalidValueError: a measure that no dashboard shows, or a name that the library's filter can't hold.
    """
    if not study.name or set("'\\\n") & set(study.name):  # it is written into an expression, which is parsed
        raise InvalidValueError(f"study={study.name}: wanted the name of a group without ' and \\; set study")
    return ws.Workspace(
        entity=study.entity,
        project=study.project,
        name=f"bdia {study.name}",
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in _sections(study).items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == study.name),
            pinned_columns=[f"summary:test/{study.measure}", "summary:peak_allocated", "summary:step_time"],
        ),
    )


def report(study: Study) -> wr.Report:
    """Return the report of a study: the workspace's panels, section by section, under headings."""
    blocks: list[object] = [
        wr.P(f"Runs of the group {study.name}. Numbers and verdicts are those of `bdia report`, made from the records.")
    ]
    for title, panels in _sections(study).items():
        runs = wr.Runset(
            entity=study.entity,
            project=study.project,
            name=study.name,
            filters=expr.And(expr.Metric("Group") == study.name),
        )
        blocks += [wr.H2(title), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(project=study.project, entity=study.entity, title=f"bdia {study.name}", blocks=blocks)


def checked_json(asked: ws.Workspace) -> str:
    """Return the JSON that W&B would be sent, after the library has read it back as the same workspace.

    Raises:
        DashboardError: a panel is of no kind that the library knows, or a value is lost on the way.
    """
    text = _json(asked)
    view = internal.View(
        entity=asked.entity, project=asked.project, display_name=asked.name, name="", id="",
        spec=internal.WorkspaceViewspec.model_validate_json(text),
    )  # fmt: skip
    found = ws.Workspace._from_model(view)
    for section in found.sections:
        for panel in section.panels:
            if isinstance(panel, UnknownPanel):
                raise DashboardError(f"section {section.name!r}: a panel came back as {panel!r}")
    again = _json(found)
    if again != text:
        at = next(i for i, (a, b) in enumerate(zip(again + "\0", text + "\0", strict=False)) if a != b)
        raise DashboardError(
            f"sent {text[max(0, at - 60) : at + 60]!r}, read back {again[max(0, at - 60) : at + 60]!r}"
        )
    return text


def _json(asked: ws.Workspace) -> str:
    return asked._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)


def _sections(study: Study) -> dict[str, list[object]]:
    """Return the panels by section; new ones at every call, since each has an id of its own."""
    if study.measure not in MEASURES:
        raise InvalidValueError(f"measure={study.measure}: wanted one of {', '.join(MEASURES)}; set measure")
    measure = study.measure
    name = f"{measure}, {UNITS[measure]}"
    tested, validated = wr.SummaryMetric(f"test/{measure}"), f"val/{measure}"
    peak = wr.SummaryMetric("peak_allocated")
    rate = "throughput" if measure == "accuracy" else "token_throughput"
    return {
        f"{measure.capitalize()} against peak memory": [
            wr.ScatterPlot(title=f"test {name}, against peak memory of a step, MiB", x=peak, y=tested),
            _bars(f"test {name}", [f"test/{measure}"], "JobType"),
        ],
        "Curves by stack": [
            *(_curve(key, "JobType") for key in dict.fromkeys((validated, "val/loss", "train/loss", "train/lr"))),
        ],
        "Memory by category": [
            _bars("parts of the peak of a step, MiB", [f"peak_{part}" for part in MEMORY], "JobType"),
            _bars("side information, MiB", ["side_information"], "JobType"),
        ],
        "Time and exactness": [_curve(key, "JobType") for key in ("step_time", rate, "reconstruction_error")],
        "Sweep of gamma": _sweep("gamma", tested, validated, name),
        "Sweep of bits": _sweep("bits", tested, validated, name),
        "All settings": [
            _parallel(
                [wr.Metric("JobType"), wr.Config("optimizer.lr"), wr.Config("seed"), *_outcome(tested)], "stacks"
            ),
            _parallel([wr.Config("gamma"), wr.Config("bits"), *_outcome(tested)], "gamma and bits of BDIA"),
        ],
    }


def _sweep(key: str, tested: wr.SummaryMetric, validated: str, name: str) -> list[object]:
    return [
        wr.ScatterPlot(title=f"test {name}, against {key}", x=wr.Config(key), y=tested),
        wr.ScatterPlot(title=f"side information, MiB, against {key}", x=wr.Config(key), y="side_information"),
        _curve(validated, wr.Config(key)),
    ]


def _curve(key: str, by: str | wr.Config) -> wr.LinePlot:
    """Return the mean over the runs of each group, with a band of one standard error."""
    unit = UNITS[key.rpartition("/")[2]]
    title = f"{key}, {unit}" if unit != "1" else key
    return wr.LinePlot(
        title=f"{title}, by {'stack' if by == 'JobType' else by.name}", x=STEP, y=[key],
        groupby=by, groupby_aggfunc="mean", groupby_rangefunc="stderr", max_runs_to_show=MOST_RUNS,
    )  # fmt: skip


def _bars(title: str, keys: list[str], by: str) -> wr.BarPlot:
    return wr.BarPlot(
        title=title, metrics=keys, orientation="v", groupby=by, groupby_aggfunc="mean", groupby_rangefunc="stderr",
        max_runs_to_show=MOST_RUNS,
    )  # fmt: skip


def _outcome(tested: wr.SummaryMetric) -> list[object]:
    return [wr.SummaryMetric("peak_allocated"), wr.SummaryMetric("step_time"), tested]


def _parallel(columns: list[object], title: str) -> wr.ParallelCoordinatesPlot:
    """Return one line per run; W&B leaves out a run that lacks a column's value."""
    shown = [wr.ParallelCoordinatesPlotColumn(metric=column) for column in columns]
    return wr.ParallelCoordinatesPlot(title=title, columns=shown)
