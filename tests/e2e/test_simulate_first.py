"""``optimizer --simulate``: predict settings, measure the few worth it, and keep the two apart; kill -9 in either phase."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from typing import Any

import pytest

from tests.e2e.conftest import SEARCHING, Workplace

pytestmark = pytest.mark.e2e

PREDICTED = SEARCHING.replace("evaluations = 5", "evaluations = 8") + "[simulation]\npredictions = 24\n"


def rows(workplace: Workplace, query: str) -> list[Any]:
    database = sqlite3.connect(workplace.study / "study.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_the_few_worth_it_are_measured(workplace: Workplace) -> None:
    workplace.config(PREDICTED)
    result = workplace.tune("--simulate", "--seed", "2")
    simulation = result["simulation"]
    assert simulation["predictions"] == 24
    assert simulation["anchored"]
    assert set(simulation["effects"].values()) <= {
        "moves the prediction",
        "needs a model for each value",
        "not modelled",
    }
    assert len(simulation["measured"]) >= 3
    assert simulation["measured"][0]["trial"] == 1, "the model has learned from the baseline"
    origins = [
        json.loads(row[0])
        for row in rows(workplace, "SELECT value_json FROM trial_user_attributes WHERE key = 'origin'")
    ]
    assert origins[0] == "baseline"
    assert set(origins[1:]) == {"predicted"}
    kept = [json.loads(row[0]) for row in rows(workplace, "SELECT prediction FROM swarmtune_predictions")]
    assert len(kept) == 24 * simulation["times_predicted"], "anew where the model had to learn"
    assert all(one["low"] <= one["score"]["value"] <= one["high"] for one in kept)
    measured = rows(workplace, "SELECT count(*) FROM trials")[0][0]
    assert measured == result["evaluations"] < 24, "no prediction is a trial"
    assert workplace.leftovers() == []


@pytest.mark.parametrize("sign", ["SELECT 1 FROM swarmtune_attempts", "SELECT 1 FROM swarmtune_predictions"])
def test_kill_9_in_either_phase_loses_nothing(workplace: Workplace, sign: str) -> None:
    """The first phase measures the baseline and predicts; in the second one the predictions of the first go on."""
    workplace.config(PREDICTED)
    process = workplace.start("--simulate", "--seed", "2")
    while process.poll() is None and not seen(workplace, sign):
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = rows(workplace, "SELECT id, prediction FROM swarmtune_predictions") if seen(workplace, sign) else []
    result = workplace.tune("-lb")
    assert result["simulation"]["predictions"] == 24, "-lb goes on with predictions, without being told again"
    kept = rows(workplace, "SELECT id, prediction FROM swarmtune_predictions")
    assert len(kept) == 24 * result["simulation"]["times_predicted"]
    assert kept[: len(before)] == before
    assert workplace.leftovers() == []


def seen(workplace: Workplace, query: str) -> bool:
    try:
        return bool(rows(workplace, query))
    except (ValueError, OSError, sqlite3.Error):
        return False


def test_what_cannot_be_predicted_is_told_before_anything_else(workplace: Workplace) -> None:
    field = '[[command.target_field]]\nname = "x"\nmin = 1\nmax = 9\n'
    workplace.config(f'[optimizer]\nengine = "command"\n[command]\nargv = ["/bin/true"]\nmodel = "m"\n{field}')
    for command in ("check", "optimizer"):
        code, out, err = workplace.run("--simulate", command=command)
        assert (code, out) == (2, "")
        assert "The scheduler of the engine command is not modelled" in err
    workplace.config(PREDICTED)
    _, out, err = workplace.run("--simulate", "maybe")
    assert "invalid choice: 'maybe' (choose from " in err
    _, out, _ = workplace.run(command="check")
    assert "[simulation] is not used: nothing is predicted without --simulate" in " ".join(out.split())
    _, out, _ = workplace.run("--simulate", command="check")
    assert "24 settings are predicted by the engine's own step times" in out


def test_only_needs_no_service_and_keeps_nothing(workplace: Workplace) -> None:
    workplace.config(PREDICTED)
    code, out, err = workplace.run("--simulate", "only")
    assert code == 0, err
    assert "Predicted, nothing measured" in out
    assert "1 of 24" in out
    assert not (workplace.folder / "swarmtune-studies").exists()
    code, out, err = workplace.run("--simulate", "only", "--json")
    assert json.loads(out)["measured"] is False
