"""Dashboards, rules and alerts: the files in contrib/ are those of the package, and say what people need in order to use them."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from taskctl.monitoring import dashboards, rule_files
from taskctl.monitoring.alerts import FILES
from taskctl.monitoring.grafana import SOURCE_UID
from taskctl.monitoring.rules import Alert
from tests.support import Shell

ROOT = Path(__file__).parent.parent
CONTRIB = ROOT / "contrib"
BOARDS = {name: json.loads(text) for name, text in dashboards().items()}
ALERTS = [rule for groups in FILES.values() for group in groups for rule in group.rules if isinstance(rule, Alert)]
UNITS = {"short", "none", "reqps", "ops", "percentunit", "s", "bytes", "Bps"}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all panels that show something, with the names of their dashboards."""
    for name, board in BOARDS.items():
        yield from ((name, panel) for panel in board["panels"] if panel["type"] != "row")


def read(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text("utf-8") for file in folder.iterdir()}


def key(alert: str, labels: Any) -> tuple[str, str]:
    """Return what tells alerts apart: their names, and the windows of those on budgets."""
    return alert, labels.get("window", "")


# ------------------------------------------------------------------------------------------------------------- the files


def test_the_files_in_contrib_are_those_of_the_package() -> None:
    assert read(CONTRIB / "grafana/dashboards") == dashboards(), "make monitoring writes them"
    assert read(CONTRIB / "prometheus/rules") == rule_files(), "make monitoring writes them"


def test_the_data_source_of_the_dashboards_is_the_provisioned_one() -> None:
    provisioned = CONTRIB / "grafana/provisioning"
    [source] = yaml.safe_load((provisioned / "datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    assert (source["uid"], source["url"]) == (SOURCE_UID, "http://prometheus:9090")
    [provider] = yaml.safe_load((provisioned / "dashboards/taskctl.yml").read_text("utf-8"))["providers"]
    mounted = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]["grafana"]["volumes"]
    assert f"./contrib/grafana/dashboards:{provider['options']['path']}:ro" in mounted
    config = yaml.safe_load((CONTRIB / "prometheus/prometheus.yml").read_text("utf-8"))
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert {job["job_name"] for job in config["scrape_configs"]} >= {"taskctl", "proxy", "postgres", "redis"}


@pytest.mark.parametrize("what", ["dashboards", "rules"])
def test_the_command_writes_them_and_overwrites_nothing_unasked(tmp_path: Path, what: str) -> None:
    shell = Shell(tmp_path)
    files = dashboards() if what == "dashboards" else rule_files()
    folder = tmp_path / "new" / "folder"
    ran = shell("metrics", what, "--out", str(folder))
    assert ran.out.split() == [str(folder / name) for name in files]
    assert read(folder) == files
    assert shell("metrics", what, "--out", str(folder), "-q") == (0, "", "")  # nothing would be lost
    first, *_, last = files
    (folder / last).write_text("mine", "utf-8")
    (folder / first).unlink()
    assert last in shell.fails(4, "metrics", what, "--out", str(folder))
    assert not (folder / first).exists()  # all of them, or none
    assert (folder / last).read_text("utf-8") == "mine"
    assert shell("metrics", what, "--out", str(folder), "--force", "-o", "json").json["files"] == list(files)
    assert read(folder) == files
    assert "cannot be written" in shell.fails(2, "metrics", what, "--out", str(folder / first))


def test_alerts_can_point_to_another_runbook(tmp_path: Path) -> None:
    ran = Shell(tmp_path)("metrics", "rules", "--out", str(tmp_path / "rules"), "--runbook", "https://wiki.example.com/runbook")
    assert ran.code == 0
    assert 'runbook_url: "https://wiki.example.com/runbook#redisdown"' in (tmp_path / "rules/redis.yml").read_text("utf-8")


# -------------------------------------------------------------------------------------------------------- the dashboards


def test_every_panel_says_what_it_shows_in_which_unit_and_what_it_means_if_there_is_nothing() -> None:
    for name, panel in panels():
        shown = f"{name}: {panel['title']}"
        defaults = panel["fieldConfig"]["defaults"]
        assert len(panel["description"]) > 8, shown
        assert panel["description"][-1] in ".…", shown
        assert defaults["unit"] in UNITS, shown
        assert defaults["noValue"], shown
        colours = [step["color"] for step in defaults["thresholds"]["steps"]]
        values = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert values[0] is None, shown
        assert values[1:] == sorted(values[1:]), shown
        assert colours in (["green"], ["green", "orange", "red"], ["red", "orange", "green"]), shown
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == list("ABCDEFGH"[: len(letters)]), shown
        assert letters, shown
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}, shown


def test_panels_have_ids_and_places_of_their_own() -> None:
    for name, board in BOARDS.items():
        assert board["schemaVersion"] == 41
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), name
        taken: Counter[tuple[int, int]] = Counter()
        for panel in board["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24, panel["title"]
            taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
        assert set(taken.values()) == {1}, name
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)


def test_a_number_of_days_is_asked_for_once_and_not_for_every_moment_that_is_shown() -> None:
    numbers = [panel for _, panel in panels() if panel["type"] == "stat"]
    of_days = [panel for panel in numbers if re.search(r"\[\d+d\]", json.dumps(panel["targets"]))]
    assert [panel["title"] for panel in of_days] == ["Budget for failures", "Budget for slowness"]
    for panel in numbers:
        once = panel in of_days
        assert {(target["instant"], target["range"]) for target in panel["targets"]} == {(once, not once)}, panel["title"]
        assert panel["options"]["graphMode"] == ("none" if once else "area"), panel["title"]  # of one value there is no line


def test_a_source_and_instances_can_be_chosen_and_the_others_are_linked() -> None:
    for board in BOARDS.values():
        assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "instance"]
        [link] = board["links"]
        assert set(link["tags"]) <= set(board["tags"])


def test_dashboards_ask_for_metrics_that_are_documented() -> None:
    """Names of exporters are proved by test-ops; those of taskctl by docs/metrics.md, which a test holds to a server."""
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text("utf-8"), re.MULTILINE))
    asked = {name for _, panel in panels() for target in panel["targets"] for name in re.findall(r"[a-z_:]+", target["expr"])}
    asked |= {name for alert in ALERTS for name in re.findall(r"[a-z_:]+", alert.expr)}
    ours = {
        re.sub("_(bucket|count|sum)$", "", name)
        for name in asked
        if re.match("(taskctl|http_server|process|python)_[a-z_]+$", name)
    }
    assert ours - documented == set()
    unseen = documented - ours - {"process_virtual_memory_bytes", "python_gc_objects_collected_total"}
    assert unseen == set(), "something that is measured is shown nowhere"


# ------------------------------------------------------------------------------------------------------------ the alerts


def test_every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() -> None:
    text = (ROOT / "docs/runbook.md").read_text("utf-8")
    sections = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert sorted(sections) == sorted({alert.name for alert in ALERTS})
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        assert re.findall(r"^- \*\*(\w+):\*\* \S", section, re.MULTILINE) == ["Means", "Look", "Do"], section


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on() -> None:
    found = 0
    for text in rule_files().values():
        for rule in (rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule):
            found += 1
            assert re.fullmatch(r"\d+[mh]", rule["for"])
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
            assert all(rule["annotations"].values())
            assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert found == len(ALERTS)
    assert max(Counter(key(alert.name, alert.labels) for alert in ALERTS).values()) == 1


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires, quiet = set(), set()
    for file in (CONTRIB / "prometheus/tests").glob("*.yml"):
        cases = yaml.safe_load(file.read_text("utf-8"))
        assert cases["rule_files"] == [f"../rules/{file.stem.partition('-')[0]}.yml"]
        for asked in (asked for case in cases["tests"] for asked in case.get("alert_rule_test", ())):
            of_it = {key(alert.name, alert.labels) for alert in ALERTS if alert.name == asked["alertname"]}
            seen = {key(asked["alertname"], alert["exp_labels"]) for alert in asked["exp_alerts"]}
            assert seen <= of_it
            fires |= seen
            quiet |= of_it - seen
    assert fires == quiet == {key(alert.name, alert.labels) for alert in ALERTS}
