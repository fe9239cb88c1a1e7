"""Studies open in optuna-dashboard, by the path or URL that was given to the search."""

import json
from wsgiref.util import setup_testing_defaults

import pytest
from studying import make_search, measure

dashboard = pytest.importorskip(
    "optuna_dashboard", reason="optuna-dashboard is not installed: pip install vispco[dashboard]"
)


def get(app, path):
    environ, status = {"PATH_INFO": path}, []
    setup_testing_defaults(environ)
    body = b"".join(app(environ, lambda line, *rest: status.append(line)))
    assert status == ["200 OK"]
    return json.loads(body)


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
@pytest.mark.parametrize("budgets", [(0.5,), (0.4, 0.9)])
def test_the_dashboard_shows_a_study(kind, budgets, tmp_path):
    where = str(tmp_path / "study.log") if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    told = make_search(where=where, trials=5, budgets=budgets, identity={"model": "abc"}).run(measure)
    app = dashboard.wsgi(where)
    (summary,) = get(app, "/api/studies")["study_summaries"]
    assert summary["study_name"] == "shared"
    detail = get(app, f"/api/studies/{summary['study_id']}")
    assert detail["name"] == "shared"
    assert detail["directions"] == ["minimize"] * len(budgets)
    assert [trial["state"] for trial in detail["trials"]] == ["Complete"] * 5
    for trial, shown in zip(told, detail["trials"], strict=True):
        params = {param["name"]: param["param_external_value"] for param in shown["params"]}
        assert params["selector"] == "balanced_fastv"
        assert float(params["balanced_fastv.alpha"]) == trial.proposal.knobs["alpha"]
