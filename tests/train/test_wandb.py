"""W&B never holds a run up: without a network, with a refused key or a hanging server it goes on offline."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from bdia.build import compose
from bdia.results.dashboard import Study, checked_json, workspace
from bdia.train import loggers, wandb_mode
from bdia.train.job import recorded_config, train
from bdia.train.loggers import wandb_id
from bdia.train.wandb_mode import api_key, choose_mode
from helpers.training_helpers import At, broken, run_dir


@pytest.fixture
def own_environment(monkeypatch, tmp_path):
    """No key, no mode; files of W&B in the test's folder."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "wandb"))
    return monkeypatch


@pytest.fixture
def silent_server():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def server():
    """A server that gives one answer; set `.answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            code, text = server.answer
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


KEY = "0123456789" * 4


def test_a_key_is_found_in_the_environment_or_in_netrc(own_environment, tmp_path):
    assert api_key() == ""
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert api_key() == "secret"
    own_environment.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert api_key() == ""
    own_environment.setenv("WANDB_API_KEY", "other")
    assert api_key() == "other"
    own_environment.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine : broken")
    assert api_key() == ""


@pytest.mark.parametrize(
    ("asked", "mode", "reason"),
    [
        (None, "offline", ""),
        ("offline", "offline", ""),
        ("dryrun", "offline", ""),
        ("disabled", "disabled", ""),
        ("onlin", "offline", "WANDB_MODE=onlin: wanted one of online, offline, disabled, shared, dryrun"),
        ("online", "offline", "there is no key: run `wandb login`"),
    ],
)
def test_without_a_key_no_server_is_asked(own_environment, asked, mode, reason):
    if asked:
        own_environment.setenv("WANDB_MODE", asked)
    own_environment.setattr(wandb_mode, "unreachable", lambda key: pytest.fail("asked"))
    found, why = choose_mode()
    assert found == mode and (reason in why if reason else why == "")


def test_a_server_that_takes_the_key_means_online(own_environment, server):
    own_environment.setenv("WANDB_BASE_URL", server.url)
    own_environment.setenv("WANDB_API_KEY", KEY)
    server.answer = 200, b'{"data": {"viewer": {"id": "me"}}}'
    assert choose_mode() == ("online", "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, b"no"), "refuses the key"),
        ((200, b'{"data": {"viewer": null}}'), "refuses the key"),
        ((200, b"<html>a captive portal</html>"), "can't be reached"),
        ((200, b"[]"), "can't be reached"),
        ((502, b"bad gateway"), "answers 502"),
    ],
)
def test_a_server_that_does_not_take_it_means_offline_and_says_why(own_environment, server, answer, reason):
    own_environment.setenv("WANDB_BASE_URL", server.url)
    own_environment.setenv("WANDB_API_KEY", KEY)
    server.answer = answer
    mode, why = choose_mode()
    assert mode == "offline" and reason in why


def test_a_server_that_never_answers_is_waited_for_so_long_and_no_longer(own_environment, silent_server):
    own_environment.setattr(wandb_mode, "SECONDS", 0.3)
    own_environment.setenv("WANDB_BASE_URL", silent_server)
    own_environment.setenv("WANDB_API_KEY", KEY)
    mode, why = choose_mode()
    assert mode == "offline" and ("did not answer in 0.3 s" in why or "ReadTimeout" in why)


def test_a_proxy_that_hangs_is_no_obstacle(own_environment, silent_server):
    own_environment.setattr(wandb_mode, "SECONDS", 0.3)
    own_environment.setenv("WANDB_BASE_URL", "http://wandb.invalid")
    own_environment.setenv("http_proxy", silent_server)
    own_environment.setenv("WANDB_API_KEY", KEY)
    assert choose_mode()[0] == "offline"


@pytest.mark.parametrize("where", ["closed port", pytest.param("silent server", marks=pytest.mark.slow)])
def test_a_run_with_a_key_and_no_network_trains_to_its_end_offline(tiny, own_environment, silent_server, where, caplog):
    own_environment.setattr(wandb_mode, "SECONDS", 0.3)
    own_environment.setenv("WANDB_BASE_URL", silent_server if where == "silent server" else closed_port())
    own_environment.setenv("WANDB_API_KEY", KEY)
    cfg = tiny("trainer.max_epochs=1", "logger=default")
    assert train(cfg).status == "ok"
    assert list(run_dir(cfg).glob("wandb/offline-run-*"))
    assert "this run is logged offline; send it later with `wandb sync" in caplog.text


def test_where_w_and_b_can_not_start_online_it_starts_offline(tiny, own_environment, server, caplog):
    """The probe is answered, and nothing after it."""
    own_environment.setattr(loggers, "choose_mode", lambda: ("online", ""))
    own_environment.setattr(loggers, "SECONDS_OF_START", 1)
    own_environment.setenv("WANDB_BASE_URL", closed_port())
    own_environment.setenv("WANDB_API_KEY", KEY)
    cfg = tiny("trainer.max_epochs=1", "logger=default")
    assert train(cfg).status == "ok"
    assert "W&B can't start" in caplog.text


def test_a_resumed_run_is_the_same_w_and_b_run_and_one_that_is_run_again_is_not(tiny, own_environment, add_callbacks):
    cfg = tiny("trainer.max_epochs=2", "logger=default")
    add_callbacks(At("on_train_batch_end", 7, broken))
    with pytest.raises(RuntimeError):
        train(cfg)
    add_callbacks()
    train(cfg)
    train(tiny("trainer.max_epochs=2", "logger=default", "rerun=true"))
    names = [path.name.rpartition("-run-")[2] for path in sorted(run_dir(cfg).glob("wandb/offline-run-*"))]
    ids = [re.search(r"[0-9a-f]{8}_s\d-[0-9a-f]{8}", name)[0] for name in names]  # a number follows in the same second
    assert len(ids) == 3 and len(set(ids)) == 2


def test_an_id_holds_only_what_w_and_b_allows(tmp_path):
    folder = tmp_path / "a b=c,#é_s0"
    folder.mkdir()
    assert wandb_id(folder).startswith("a-b-c---_s0-")
    assert wandb_id(folder) == wandb_id(folder)


ODD = {"WANDB_MODE": "bogus", "WANDB_CONSOLE": "loud", "WANDB_HTTP_TIMEOUT": "abc", "WANDB_RUN_ID": "a/b"}
ODD |= {"WANDB_RESUME": "sure", "WANDB_SILENT": "maybe", "WANDB_INIT_TIMEOUT": "x"}


def test_variables_that_w_and_b_would_refuse_are_named_and_count_as_not_set(own_environment, caplog):
    for name, value in ODD.items():
        own_environment.setenv(name, value)
    own_environment.setenv("WANDB_PROJECT", "mine")
    with loggers._only_understood():
        assert not ODD.keys() & os.environ.keys() and os.environ["WANDB_PROJECT"] == "mine"
    assert all(os.environ[name] == value for name, value in ODD.items())
    assert all(f"{name}={ODD[name]}: W&B does not take it" in caplog.text for name in ODD if name != "WANDB_MODE")


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_a_run_trains_to_its_end_whatever_the_variables_of_w_and_b_say(tiny, own_environment, name):
    own_environment.setenv(name, ODD[name])
    assert train(tiny("trainer.max_epochs=1", "logger=default")).status == "ok"


NAMES = {"stack=bdia": "BDIA g=1/2 l=9 s3", "stack=standard": "standard (ViT) s3", "stack=revvit": "RevViT s3"}
NAMES |= {"stack=bdia gamma@stack.gamma=ramp stack.bits=auto": "BDIA g=Ramp l=auto s3"}


@pytest.mark.parametrize("choices", NAMES)
def test_a_runs_name_is_for_people(choices):
    assert loggers.run_name(recorded_config(compose([*choices.split(), "seed=3"]))) == NAMES[choices]


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        ("stack=bdia stack.gamma=1/4 stack.bits=7", {"gamma": 0.25, "bits": 7}),
        ("stack=bdia gamma@stack.gamma=ramp stack.bits=auto", {}),
        ("stack=revvit stack.grid_bits=9", {"bits": 9}),
        ("stack=standard", {}),
    ],
)
def test_gamma_and_bits_are_numbers_for_plots(choices, wanted):
    assert loggers.numbers(recorded_config(compose(choices.split()))) == wanted


def test_the_summary_of_an_offline_run_holds_accuracy_peak_memory_and_all_else_of_the_record(tiny, own_environment):
    cfg = tiny("trainer.max_epochs=2", "logger=default", "stack=bdia", "name=mine")
    record = train(cfg)
    (log,) = run_dir(cfg).glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout)
    found = told["summary"]
    wanted = {f"{row.split}/{row.name}" if row.split else row.name: row for row in record.metrics}
    assert {"test/accuracy", "peak_allocated", "side_information", "train/lr"} <= wanted.keys()
    assert {name: found[name] for name in wanted} == {name: pytest.approx(row.value) for name, row in wanted.items()}
    assert told["name"] == "BDIA g=1/2 l=9 s0" and told["tags"] == ["ImageClassification"]
    assert found["units"]["peak_allocated"] == "MiB" and found["units"]["test/accuracy"] == "%"
    sections = json.loads(checked_json(workspace(Study("mine"))))["section"]["panelBankConfig"]["sections"]
    shown = {name for each in sections for panel in each["panels"] for name in panel["config"].get("metrics", ())}
    assert len(shown) > 10 and shown <= found.keys()  # the dashboard asks for nothing that no run has
    (table,) = run_dir(cfg).glob("csv/version_0/summary.csv")
    rows = {name: (float(value), unit) for name, value, unit in list(csv.reader(table.read_text().splitlines()))[1:]}
    assert rows == {name: (row.value, row.unit) for name, row in wanted.items()}
