"""Studies that are not as the last run left them: of the first format, and touched by Optuna."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3

import pytest

from swarmtune.database.address import database_url
from tests.e2e.conftest import TINY, Workplace
from tests.study.golden import GOLDEN, NAME, restore

pytestmark = pytest.mark.e2e


def test_a_study_of_the_first_format_goes_on_to_its_end(workplace: Workplace) -> None:
    folder = workplace.folder / "swarmtune-studies" / NAME
    restore(folder)
    shutil.copyfile(GOLDEN / "config.toml", workplace.folder / "config.toml")
    result = workplace.tune("-lb", "-c", "config.toml")
    assert (result["study"], result["evaluations"]) == (f"swarmtune-studies/{NAME}", 6)
    assert result["baseline"]["score"]["value"] == pytest.approx(214.396, abs=1e-3), "it is not measured again"
    assert result["verdict"]["rounds"] == 1
    assert (folder / "report.json").is_file()
    assert workplace.leftovers() == []
    workplace.config((GOLDEN / "config.toml").read_text().replace("p95_ttft_ms = 2000", "p95_ttft_ms = 2001"))
    code, _, err = workplace.run("-lb", "-c", "config.toml")
    assert code == 2
    assert "objective, workload changed since it was started" in err


def test_a_study_that_optuna_touched_goes_on(workplace: Workplace) -> None:
    import optuna

    workplace.config(TINY)
    first = workplace.tune("--evaluations", "2")
    url = database_url(str(workplace.study / "study.db"))
    storage = optuna.storages.RDBStorage(url)
    study = optuna.load_study(study_name=workplace.study.name, storage=storage)
    study.ask()
    study.enqueue_trial({"max_num_seqs": 8})
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    storage.remove_session()
    storage.engine.dispose()
    code, out, err = workplace.run("-lb", "--evaluations", "4")
    assert code == 0, err
    assert "note: study" in err
    assert "trials 2, 3, 4 of the study" in err
    assert "4 evaluations," in out
    assert first["evaluations"] == 2
    again = workplace.tune("-lb", "--evaluations", "4")  # nothing is left to do
    assert again["wall_seconds"] > first["wall_seconds"], "the time is that of all runs"


def test_a_database_from_elsewhere_runs_nothing(workplace: Workplace) -> None:
    """Its command line and its file would start a program of its author."""
    workplace.config(TINY)
    database = workplace.folder / "x.db"
    workplace.tune("--evaluations", "2", "--study", str(database))
    evil = workplace.folder / "evil.toml"
    script = workplace.folder / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {workplace.folder}/started\n")
    script.chmod(0o755)
    evil.write_text(f'[optimizer]\nengine = "command"\n[command]\nargv = ["{script}"]\nmodel = "m"\n')
    overrides = {"optimizer": {"engine": "command"}, "command": {"argv": [str(script)], "model": "m"}}
    request = json.dumps({"overrides": overrides, "config": str(evil)})
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        db.execute("UPDATE swarmtune_studies SET request = ?", (request,))
    (workplace.folder / "config.toml").unlink()
    code, _, err = workplace.run("-lb", "--study", str(database), "-e", "simulated")
    assert code == 2, err
    assert "was not started from here, so only what you give now is used; it was started with:" in err
    assert str(script) in err
    assert "cannot go on" in err
    assert not (workplace.folder / "started").exists()
    workplace.config(TINY)  # whoever gives what it needs goes on with it
    assert workplace.tune("-lb", "--study", str(database), "--evaluations", "3")["evaluations"] == 3
