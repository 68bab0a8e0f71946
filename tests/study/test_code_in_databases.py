"""A database may come from anyone: what it brings is not run, neither as it is read nor as it is written."""

from __future__ import annotations

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from optuna.storages._rdb.models import BaseModel
from tests.study.golden import NAME, restore

from swarmtune.clock import RealClock
from swarmtune.errors import StoreError
from swarmtune.space import Space
from swarmtune.study.reader import StudyHead, latest_study
from swarmtune.study.tables import metadata
from swarmtune.study.writer import StudyWriter
from swarmtune.testing.search import MIXED, RULES

ENDLESS = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT"
CODE = {
    "a query without end": f"CREATE TRIGGER t AFTER UPDATE ON swarmtune_studies BEGIN {ENDLESS} count(*) FROM r; END",
    "a flood": f"CREATE TRIGGER t AFTER INSERT ON swarmtune_attempts BEGIN INSERT INTO swarmtune_events(study, at, kind, "
    f"facts) {ENDLESS} 'a', x, 'k', hex(zeroblob(100000)) FROM r; END",
    "another table": "CREATE TABLE own (x); CREATE TRIGGER t AFTER DELETE ON own BEGIN SELECT 1; END",
    "computed as it is read": "ALTER TABLE swarmtune_attempts RENAME COLUMN outcome TO o; ALTER TABLE swarmtune_attempts "
    "ADD COLUMN outcome TEXT AS (hex(zeroblob(450000000)))",
    "of Optuna's": "ALTER TABLE trial_user_attributes RENAME COLUMN value_json TO o; ALTER TABLE trial_user_attributes "
    "ADD COLUMN value_json TEXT AS (hex(zeroblob(450000000)))",
    "no table yet": f"CREATE VIEW swarmtune_predictions AS {ENDLESS} x AS id, 's' AS study FROM r",
    "no table at all": "DROP TABLE trial_values; CREATE VIRTUAL TABLE trial_values USING fts5(trial_id)",
    **{
        f"a view of {table}": f"ALTER TABLE {table} RENAME TO o; CREATE VIEW {table.upper()} AS {ENDLESS} o.* FROM o, r"
        for table in (*metadata.tables, *BaseModel.metadata.tables, "alembic_version")
        if table != "swarmtune_predictions"  # studies of the first format have none
    },
}
RIGHT = {
    "a view of one's own": "CREATE VIEW best AS SELECT max(value) FROM trial_values",
    "a view that nothing is behind": "CREATE VIEW lost AS SELECT * FROM nowhere",
    "a computed column of one's own": "CREATE TABLE mine (x, y AS (x * 2)); INSERT INTO mine VALUES (1)",
    "an index": "CREATE INDEX by_state ON swarmtune_attempts (state)",
    "an index in another order": "CREATE INDEX by_time ON swarmtune_attempts (started_at DESC, state)",
    "a rule between values": "ALTER TABLE swarmtune_events ADD COLUMN n INTEGER DEFAULT 1 CHECK (n > 0 AND n IN (1, 2))",
    "a word in a text": "ALTER TABLE swarmtune_events ADD COLUMN w TEXT DEFAULT 'check (select like)' /* COLLATE */",
    "a rule of one's own table": "CREATE TABLE own (x CHECK (abs(x) > 1)); CREATE INDEX i ON own (abs(x)) WHERE x > 1",
    "another column": "ALTER TABLE swarmtune_attempts ADD COLUMN remark TEXT DEFAULT 'none'",
}


def changed(folder: Path, script: str) -> Path:
    path = restore(folder)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
    return path


def written(path: Path) -> StudyWriter:
    return StudyWriter(str(path), StudyHead(NAME, {}, {}), Space(MIXED, RULES), "maximize", RealClock())


@pytest.mark.parametrize("what", CODE)
def test_code_is_refused_before_anything_is_written(tmp_path: Path, what: str) -> None:
    path = changed(tmp_path, CODE[what])
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=r"cannot be read: it holds code, the (trigger|view|table|computed table) '\w+',"
    ):
        latest_study(str(path))
    with pytest.raises(StoreError, match="could not be opened: it holds code"):
        written(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", RIGHT)
def test_what_does_no_harm_stays(tmp_path: Path, what: str) -> None:
    path = changed(tmp_path, RIGHT[what])
    head = latest_study(str(path))
    assert head is not None
    study = StudyWriter(str(path), head, Space(MIXED, RULES), "maximize", RealClock())
    assert len(study.trials()) == 4
    study.dispose()


@pytest.mark.parametrize("spelled", ["TRIGGER", "Trigger", "tRIGGER"])
def test_a_trigger_is_one_however_it_is_written(tmp_path: Path, spelled: str) -> None:
    """SQLite reads the kind in any case."""
    path = changed(tmp_path, CODE["a query without end"])
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_master SET type = ? WHERE name = 't'", (spelled,))
        database.commit()
    with pytest.raises(StoreError, match="it holds code, the trigger 't'"):
        latest_study(str(path))


def rebuilt(table: str, rule: str) -> str:
    """The table once more, with a rule behind its columns."""
    return (
        f"PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = substr(rtrim(sql), 1, length(rtrim(sql)) - 1) || "
        f"', {rule})' WHERE type = 'table' AND name = '{table}'; PRAGMA writable_schema = OFF"
    )


SLOW = "instr(hex(zeroblob(1000)), hex(zeroblob(500))) = 0"


@pytest.mark.parametrize(
    "script",
    [
        rebuilt("swarmtune_attempts", f"CHECK (id < 3 OR {SLOW})"),
        rebuilt("swarmtune_studies", f"CHECK/**/({SLOW})"),
        rebuilt("trials", f"check (trial_id < 3 OR {SLOW})"),
        rebuilt("trials", "UNIQUE (study_id) ON CONFLICT REPLACE"),
        rebuilt("trials", "CHECK (number IN (SELECT number FROM trials))"),
        rebuilt("swarmtune_events", "CHECK (facts NOT LIKE ''%a%a%a%a%a%a%b'')"),
        f"CREATE INDEX zz ON swarmtune_attempts (id) WHERE id > 2 AND {SLOW}",
        "CREATE INDEX zz ON swarmtune_events (hex(zeroblob(length(kind) / 100 * 400000000)))",
        "CREATE INDEX zz ON trials (number) WHERE number > 1",
        "CREATE INDEX zz ON trials (abs(number))",
        "ALTER TABLE swarmtune_events ADD COLUMN more TEXT COLLATE NOCASE",
    ],
)
def test_a_rule_that_computes_is_refused(tmp_path: Path, script: str) -> None:
    path = changed(tmp_path, script)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"it holds code, the (rule of the table|computed index|index) '\w+'"):
        latest_study(str(path))
    assert path.read_bytes() == before


NUL = "|| char(0) || 'x'"
TRIGGER = (
    "CREATE TRIGGER tt AFTER INSERT ON trials BEGIN DELETE FROM swarmtune_attempts; END; PRAGMA writable_schema = ON; "
)


MISREAD = {
    "a trigger up to a NUL": f"{TRIGGER} UPDATE sqlite_master SET type = 'trigger' {NUL}, tbl_name = 'trials' {NUL}, "
    "sql = replace(sql, 'CREATE TRIGGER', 'CREATE/**/TRIGGER') WHERE name = 'tt'",
    "a trigger as bytes": f"{TRIGGER} UPDATE sqlite_master SET type = CAST('trigger' AS BLOB) WHERE name = 'tt'",
    "a table up to a NUL": rebuilt("trials", f"CHECK ({SLOW})") + "; PRAGMA writable_schema = ON; "
    f"UPDATE sqlite_master SET tbl_name = 'trials' {NUL} WHERE name = 'trials' AND type = 'table'",
    "a rule as bytes": rebuilt("trials", f"CHECK ({SLOW})") + "; PRAGMA writable_schema = ON; "
    "UPDATE sqlite_master SET sql = CAST(sql AS BLOB) WHERE name = 'trials' AND type = 'table'",
    "an index up to a NUL": "CREATE INDEX zz ON trials (number) WHERE number > 1; PRAGMA writable_schema = ON; "
    f"UPDATE sqlite_master SET tbl_name = 'trials' {NUL} WHERE name = 'zz'",
    "a root as bytes": "DROP TABLE trial_values; CREATE VIRTUAL TABLE trial_values USING fts5(trial_id); "
    "PRAGMA writable_schema = ON; "
    "UPDATE sqlite_master SET rootpage = x'30' WHERE name = 'trial_values'",
    "a row of nothing": "PRAGMA writable_schema = ON; "
    "INSERT INTO sqlite_master SELECT NULL, name, NULL, rootpage, NULL FROM sqlite_master "
    "WHERE name LIKE 'sqlite_autoindex_trial_p%'",
}


@pytest.mark.parametrize("what", MISREAD)
def test_what_sqlite_reads_otherwise_is_refused(tmp_path: Path, what: str) -> None:
    """SQLite reads a text up to a NUL, and takes bytes for text: a row of its schema may be another than it seems."""
    path = changed(tmp_path, MISREAD[what])
    with pytest.raises(StoreError):
        latest_study(str(path))
    with pytest.raises(StoreError):
        written(path)


def test_a_value_is_bounded(tmp_path: Path) -> None:
    path = restore(tmp_path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE swarmtune_studies SET request = hex(zeroblob(150000000))")
        database.commit()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match="too big"):
        latest_study(str(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.2e6
