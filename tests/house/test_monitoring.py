"""The dashboard, the alerts and their documentation name what there is, and Prometheus's own tools accept them."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from moiety_service.observability.logs import ALLOWED
from moiety_service.security.identity import Identity
from tests.monitoring import FOLDER, expressions, names_in, needed, registries, series

DOCUMENT = FOLDER.parent.parent / "docs" / "monitoring.md"
ALERTS = re.findall(r"alert: (\w+)", (FOLDER / "alerts.yml").read_text())
UNITS = ("_seconds", "_bytes", "_rows", "_total", "_info", "_ratio")


@pytest.fixture(scope="module")
def metrics(identities: dict[str, Identity]) -> dict[str, tuple[str, str]]:
    """Kind and help of each metric, whoever has it."""
    return {name: (kind, text) for one in registries(identities["server"]).values() for name, kind, text in series(one)}


def test_names_are_as_prometheus_wants_them(metrics: dict[str, tuple[str, str]]) -> None:
    own = {name: kind for name, (kind, _) in metrics.items() if not name.startswith("process_")}
    assert len(own) > 30
    for name, kind in own.items():
        assert re.fullmatch(r"moiety_[a-z]+(_[a-z]+)*", name), name
        assert name.endswith("_total") is (kind == "counter"), name
        assert not re.search(r"(millis|micro|_ms|_kb|_mb|_minutes)", name), name
        if kind == "histogram" or "_timestamp" in name:
            assert name.endswith(("_seconds", "_rows")), name


def test_the_dashboard_and_the_alerts_name_metrics_that_exist(metrics: dict[str, tuple[str, str]]) -> None:
    asked = names_in("\n".join([*expressions(), (FOLDER / "alerts.yml").read_text()]))
    assert len(asked) > 25 and asked <= set(metrics), asked - set(metrics)


def test_every_metric_is_on_the_dashboard(metrics: dict[str, tuple[str, str]]) -> None:
    shown = names_in("\n".join(expressions()))
    assert {name for name in metrics if name.startswith("moiety_")} <= shown


def test_every_metric_is_documented_and_no_other(metrics: dict[str, tuple[str, str]]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| [^|]+ \| ([^|]+) \|$", DOCUMENT.read_text(), re.M)
    documented = {name: (kind, text) for name, kind, text in rows}
    assert documented == {name: given for name, given in metrics.items() if name.startswith("moiety_")}


def test_every_alert_is_documented_and_tested() -> None:
    text, tests = DOCUMENT.read_text(), (FOLDER / "alerts_test.yml").read_text()
    assert len(ALERTS) > 10
    for alert in ALERTS:
        assert f"| `{alert}` |" in text, alert
        assert re.search(rf"alertname: {alert}\s+exp_alerts:\s+- exp_labels", tests), alert


def test_every_log_field_is_documented() -> None:
    text = DOCUMENT.read_text()
    assert not [field for field in ALLOWED if f"| `{field}` |" not in text]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([needed("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", FOLDER / "alerts.yml"),
        ("check", "config", FOLDER / "prometheus.yml"),
        ("check", "config", FOLDER / "prometheus.compose.yml"),
        ("test", "rules", FOLDER / "alerts_test.yml"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[2].stem}",
)
def test_promtool_agrees(arguments: tuple[str | Path, ...]) -> None:
    promtool(*arguments)


def test_promtool_reads_the_dashboards_queries(tmp_path: Path) -> None:
    asked = {expression.replace("$__rate_interval", "5m") for expression in expressions()}
    rules = [{"record": f"panel:{i}", "expr": expression} for i, expression in enumerate(sorted(asked))]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", path)
