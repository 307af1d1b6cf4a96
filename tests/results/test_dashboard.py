"""The dashboard of a study: what it shows, that the library reads it back, and where it is saved."""

import json
from types import SimpleNamespace

import pytest
import wandb
from wandb_workspaces.reports.v2 import interface as reports
from wandb_workspaces.workspaces import interface, internal

from bdia import InvalidValueError, UnsupportedError
from bdia.cli import dashboard as verb
from bdia.results.dashboard import DashboardError, Study, checked_json, report, workspace
from bdia.results.record import UNITS
from bdia.train import wandb_mode


@pytest.fixture
def sections():
    """Title -> (kind, config) of its panels, from the JSON of a study's workspace."""
    section = json.loads(checked_json(workspace(Study("table1_cifar10_long"))))["section"]
    found = section["panelBankConfig"]["sections"]
    return {each["name"]: [(panel["viewType"], panel["config"]) for panel in each["panels"]] for each in found}


def test_the_json_shows_what_a_study_is_for(sections):
    kind, scatter = sections["Accuracy against peak memory"][0]
    assert (kind, scatter["xAxis"], scatter["yAxis"]) == (
        "Scatter Plot", "summary:peak_allocated", "summary:test/accuracy",
    )  # fmt: skip
    for kind, curve in sections["Curves by stack"]:
        wanted = ("Run History Line Plot", "jobType", "mean", "stderr", "trainer/global_step")
        assert (kind, *(curve[key] for key in ("groupBy", "groupAgg", "groupArea", "xAxis"))) == wanted
    assert [curve["metrics"] for _, curve in sections["Curves by stack"]][:2] == [["val/accuracy"], ["val/loss"]]
    assert sections["Memory by category"][0][1]["metrics"][3] == "peak_activations"
    for key in ("gamma", "bits"):
        panels = sections[f"Sweep of {key}"]
        assert panels[0][1]["xAxis"] == f"config:{key}.value" and panels[-1][1]["groupBy"] == f"{key}.value"
    kind, columns = sections["All settings"][0]
    assert kind == "Parallel Coordinates Plot" and columns["columns"][0]["accessor"] == "run:jobType"
    assert columns["columns"][1]["accessor"] == "config:optimizer.value.lr"


def test_only_the_runs_of_the_study_are_shown_and_all_of_them():
    section = json.loads(checked_json(workspace(Study("mine"))))["section"]
    assert "group" in json.dumps(section["runSets"][0]["filters"]) and "mine" in json.dumps(section["runSets"][0])
    assert section["settings"]["maxRuns"] == 200
    curves = [
        p["config"] for s in section["panelBankConfig"]["sections"] for p in s["panels"] if "metrics" in p["config"]
    ]
    assert all(curve["limit"] == 200 for curve in curves)


def test_every_metric_of_a_panel_is_one_that_records_have(sections):
    named = [name for panels in sections.values() for _, config in panels for name in config.get("metrics", ())]
    assert len(named) > 10 and {name.rpartition("/")[2] for name in named} <= UNITS.keys()


REFUSED = [(("mine", "speed"), "measure=speed: wanted one of accuracy, bleu")]
REFUSED += [((name,), "wanted the name of a group") for name in ("", "it's", "a\\b", "a\nb")]


@pytest.mark.parametrize(("study", "error"), REFUSED)
def test_a_study_that_can_not_be_shown_is_refused(study, error):
    with pytest.raises(InvalidValueError, match=error):
        workspace(Study(*study))


@pytest.mark.parametrize("name", ['a"b', "a and b", "État"])
def test_any_other_name_is_what_the_runs_are_filtered_by(name):
    runs = json.loads(checked_json(workspace(Study(name))))["section"]["runSets"][0]
    assert [each["value"] for each in runs["filters"]["filters"]] == [name]


def test_a_value_or_a_panel_that_is_lost_on_the_way_is_an_error(monkeypatch):
    asked = workspace(Study("mine"))
    read = interface.Section._from_model.__func__

    def forgetful(cls, model):
        found = read(cls, model)
        found.panels[0].title = "another"
        return found

    monkeypatch.setattr(interface.Section, "_from_model", classmethod(forgetful))
    with pytest.raises(DashboardError, match="read back"):
        checked_json(asked)
    monkeypatch.undo()
    monkeypatch.setattr(interface, "_lookup_panel", lambda panel: reports.UnknownPanel())
    with pytest.raises(DashboardError, match="a panel came back as"):
        checked_json(asked)


# --- The verb ---


@pytest.fixture
def without_key(monkeypatch):
    monkeypatch.setattr(wandb_mode, "api_key", lambda: "")
    monkeypatch.setattr(wandb_mode, "unreachable", lambda key: pytest.fail("asked the network"))


def test_the_dry_run_prints_the_json_without_key_or_network(without_key, capsys):
    verb.run(["study=bits_cifar10_few", "dry_run=true"])
    assert "bits_cifar10_few" in json.dumps(json.loads(capsys.readouterr().out)["section"]["runSets"])


def test_without_a_key_it_says_what_to_do(without_key):
    with pytest.raises(UnsupportedError, match="there is no key; run `wandb login`, set WANDB_API_KEY, or set dry_run"):
        verb.run(["study=mine"])


@pytest.fixture
def service(monkeypatch):
    """A service that takes everything; `.views` is what was saved: (kind, the JSON)."""
    views = []

    def graphql(api, query, variables=None):
        if "spec" not in variables:
            return {"project": {"internalId": "p1"}}
        views.append((variables["type"], json.loads(variables["spec"])))
        view = {"id": "v1", "name": "nw-abc-v", "displayName": "bdia", "description": "", "spec": variables["spec"]}
        view |= {"project": {"id": "p1", "name": "bdia", "entityName": "me"}, "createdAt": None, "updatedAt": None}
        return {"upsertView": {"view": view}}

    api = SimpleNamespace(default_entity="me", projects=lambda entity: [SimpleNamespace(name="bdia")])
    monkeypatch.setattr(wandb_mode, "api_key", lambda: "key")
    monkeypatch.setattr(wandb_mode, "unreachable", lambda key: "")
    monkeypatch.setattr(wandb, "Api", lambda *arguments, **keywords: api)
    monkeypatch.setattr(reports, "_get_api", lambda: api)
    for module in (internal, reports):
        monkeypatch.setattr(module, "execute_graphql", graphql)
    for module in (interface, reports):
        monkeypatch.setattr(module, "get_app_url", lambda api: "https://wandb.example")
    return SimpleNamespace(views=views, graphql=graphql)


def test_with_a_key_workspace_and_report_are_saved_and_their_addresses_printed(service, capsys):
    verb.run(["study=mine"])
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "workspace: https://wandb.example/me/bdia?nw=abc", "report: https://wandb.example/me/bdia/reports/bdia-mine--v1",
    ]  # fmt: skip
    (kind, saved), (other, told) = service.views
    assert (kind, other) == ("project-view", "runs")
    panels = [panel for section in saved["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]
    assert json.dumps(told).count('"viewType"') >= len(panels) > 15 and '"mine"' in json.dumps(told)


def test_what_the_service_refuses_is_one_error(service, monkeypatch):
    def refuse(*arguments):
        raise ValueError("Run set 'mine' project 'me/bdia' not found.")

    monkeypatch.setattr(reports, "execute_graphql", refuse)
    with pytest.raises(UnsupportedError, match=r"dashboard of me/bdia .*not found.*set entity or project"):
        verb.run(["study=mine"])


def test_a_report_has_the_sections_of_the_workspace_under_headings():
    titles = [section.name for section in workspace(Study("mine")).sections]
    assert [block.text for block in report(Study("mine")).blocks if isinstance(block, reports.H2)] == titles
