"""The tables are upgraded in two steps, each made while the release before may run: what adds comes first, what removes waits."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import MigrateOperation, Operations, ops
from alembic.script import Script, ScriptDirectory

from api_gateway.manage import main
from api_gateway.store import OutOfOrder, SchemaOutdated, Store, engine, migrations
from api_gateway.store.phases import Phase
from api_gateway.store.tables import SCHEMA_REVISION, metadata
from devstack.releases import BEFORE
from tests.databases import write_database
from tests.upgrade.describe_tables import describe

RECORD = json.loads((Path(__file__).parents[2] / "upgrade" / f"tables-{BEFORE.name}.json").read_text())
"""Which tables the release before uses. The upgrade tests hold the record to that release itself."""
PLANTED = '''"""{purpose}. More of it."""

import sqlalchemy as sa
from alembic import op

from api_gateway.store.phases import Phase

revision = "{revision}"
down_revision = "{before}"
phase = Phase.{phase}


def upgrade() -> None:
    {step}
'''


def list_scripts(store: Store) -> list[Script]:
    """Of the release that is being worked on, oldest first."""
    with store.read() as c:
        return list(reversed(list(ScriptDirectory.from_config(migrations.create_config(c)).walk_revisions())))


def list_operations(upgrade: Callable[[], None]) -> list[MigrateOperation]:
    """What a migration would do."""
    found: list[MigrateOperation] = []
    with Operations.context(MigrationContext.configure(dialect_name="sqlite", opts={"as_sql": True})) as operations:
        operations.invoke = found.append  # type: ignore[method-assign,assignment]
        upgrade()
    return found


def find_not_additive(operations: Sequence[MigrateOperation]) -> list[str]:
    """What could disturb a release that does not know of it, or be disturbed by its rows."""
    made = {operation.table_name for operation in operations if isinstance(operation, ops.CreateTableOp)}
    found = []
    for operation in operations:
        match operation:
            case ops.CreateTableOp() | ops.BulkInsertOp():
                continue
            case ops.AddColumnOp(column=column) if column.nullable or column.server_default is not None:
                continue
            case ops.CreateIndexOp() if not operation.unique or operation.table_name in made:
                continue
        found.append(type(operation).__name__)
    return found


def find_missing(record: Mapping[str, Any], tables: Mapping[str, Any]) -> list[str]:
    """What the code that ``record`` tells of needs and ``tables`` do not have, or refuse from it."""
    found = []
    for table, used in record.items():
        if table not in tables:
            found.append(table)
            continue
        columns = tables[table]["columns"]
        found += [f"{table}.{name}" for name, column in used["columns"].items() if not _serves(column, columns.get(name))]
        found += [f"unique {unique} of {table}" for unique in tables[table]["unique"] if unique not in used["unique"]]
    return found


def _serves(used: Mapping[str, Any], column: Mapping[str, Any] | None) -> bool:
    return column is not None and column["type"] == used["type"] and column["nullable"] >= used["nullable"]


def test_what_led_to_the_first_release_was_before_all_others_and_every_later_migration_expands_or_contracts(store: Store) -> None:
    phases = {script.revision: script.module.phase for script in list_scripts(store)}
    assert {revision for revision, phase in phases.items() if phase is Phase.BASELINE} == {f"{number:04}" for number in range(1, 6)}


def test_what_expands_only_adds(store: Store) -> None:
    scripts = [script for script in list_scripts(store) if script.module.phase is Phase.EXPAND]
    assert {script.revision: find_not_additive(list_operations(script.module.upgrade)) for script in scripts} == {
        script.revision: [] for script in scripts
    }
    assert scripts


def test_of_one_release_what_expands_comes_before_what_contracts_and_is_what_it_needs(store: Store) -> None:
    phases = [script.module.phase for script in list_scripts(store) if script.revision > RECORD["revision"]]
    assert phases == sorted(phases, key=[Phase.EXPAND, Phase.CONTRACT].index)
    assert max(script.revision for script in list_scripts(store) if script.module.phase is not Phase.CONTRACT) == SCHEMA_REVISION


def test_the_tables_of_this_release_serve_the_one_before_even_when_all_that_contracts_is_done() -> None:
    """So a gateway can be taken back at any time. They are those of the migrations: see ``test_store_schema``."""
    assert find_missing(RECORD["tables"], describe(metadata)) == []


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (lambda: op.drop_table("actions"), "DropTableOp"),
        (lambda: op.drop_column("actions", "reason"), "DropColumnOp"),
        (lambda: op.alter_column("actions", "reason", nullable=False), "AlterColumnOp"),
        (lambda: op.rename_table("actions", "deeds"), "RenameTableOp"),
        (lambda: op.add_column("actions", sa.Column("more", sa.Text(), nullable=False)), "AddColumnOp"),
        (lambda: op.create_index("uq_actions_host", "actions", ["host"], unique=True), "CreateIndexOp"),
        (lambda: op.create_unique_constraint("uq_actions_host", "actions", ["host"]), "CreateUniqueConstraintOp"),
        (lambda: op.drop_index("ix_actions_lease", "actions"), "DropIndexOp"),
        (lambda: op.execute("UPDATE actions SET reason = ''"), "ExecuteSQLOp"),
    ],
)
def test_what_is_no_addition_is_found(step: Callable[[], None], what: str) -> None:
    assert find_not_additive(list_operations(step)) == [what]


def _drop_column(tables: dict[str, Any]) -> None:
    del tables["actions"]["columns"]["reason"]


def _retype_column(tables: dict[str, Any]) -> None:
    tables["actions"]["columns"]["reason"]["type"] = "BIGINT"


def _tighten_column(tables: dict[str, Any]) -> None:
    tables["actions"]["columns"]["reason"]["nullable"] = False


def _tighten_table(tables: dict[str, Any]) -> None:
    tables["actions"]["unique"].append(["host"])


def _drop_table(tables: dict[str, Any]) -> None:
    del tables["actions"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_drop_table, "actions"),
        (_drop_column, "actions.reason"),
        (_retype_column, "actions.reason"),
        (_tighten_column, "actions.reason"),
        (_tighten_table, "unique ['host'] of actions"),
    ],
)
def test_what_the_release_before_would_miss_is_found(change: Callable[[dict[str, Any]], None], what: str) -> None:
    tables = describe(metadata)
    change(tables)
    assert find_missing(RECORD["tables"], tables) == [what]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Plants migrations of a later release behind those that there are."""

    def plant(*phases: Phase) -> None:
        directory = tmp_path / "versions"
        directory.mkdir(exist_ok=True)
        revisions = [SCHEMA_REVISION, *(f"{number:04}" for number in range(9000, 9000 + len(phases)))]
        steps = {Phase.EXPAND: "op.create_table('fresh', sa.Column('id', sa.Integer()))", Phase.CONTRACT: "op.drop_table('secrets')"}
        for before, revision, phase in zip(revisions, revisions[1:], phases, strict=False):
            purpose = f"Something that will {phase}"
            text = PLANTED.format(purpose=purpose, revision=revision, before=before, phase=phase.name, step=steps[phase])
            (directory / f"{revision}.py").write_text(text)
        # As alembic takes several places: one a line.
        monkeypatch.setattr(migrations, "VERSIONS", f"{migrations.VERSIONS}\n{directory}")
        needed = max(revision for revision, phase in zip(revisions[1:], phases, strict=True) if phase is Phase.EXPAND)
        monkeypatch.setattr(engine, "SCHEMA_REVISION", needed)

    return plant


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "gateway.conf"
    path.write_text(f"[database]\nconnection = sqlite:///{write_database(tmp_path / 'gateway.sqlite')}\n")
    return str(path)


def test_what_expands_is_done_first_and_what_contracts_is_left_and_named(
    later: Callable[..., None], config_file: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    later(Phase.EXPAND, Phase.CONTRACT)
    with pytest.raises(SchemaOutdated):
        store.check_schema()
    assert main(["--config-file", config_file, "db", "upgrade", "--contract"]) == 1
    assert "9000 (expand): Something that will expand comes first" in capsys.readouterr().err
    assert main(["--config-file", config_file, "db", "upgrade", "--expand"]) == 0
    shown = capsys.readouterr().out
    assert "done: 9000" in shown
    assert shown.endswith("runs:\n9001 (contract): Something that will contract\n")
    store.check_schema()
    assert [migration.phase for migration in store.list_pending_migrations()] == [Phase.CONTRACT]
    assert main(["--config-file", config_file, "db", "upgrade", "--expand"]) == 0
    assert "done" not in capsys.readouterr().out
    for _ in range(2):
        assert main(["--config-file", config_file, "db", "upgrade", "--contract"]) == 0
    assert capsys.readouterr().out.count("done: 9001 (contract): Something that will contract\n") == 1
    store.check_schema()
    assert store.list_pending_migrations() == []


def test_without_an_option_both_steps_are_made(later: Callable[..., None], store: Store) -> None:
    later(Phase.EXPAND, Phase.CONTRACT)
    assert [migration.revision for migration in store.upgrade_schema()] == ["9000", "9001"]
    store.check_schema()


def test_nothing_expands_over_what_the_upgrade_before_left_to_contract(later: Callable[..., None], store: Store) -> None:
    later(Phase.EXPAND, Phase.CONTRACT, Phase.EXPAND)
    with pytest.raises(OutOfOrder, match=r"9001 .* comes first"):
        store.upgrade_schema(Phase.EXPAND)
    assert len(store.list_pending_migrations()) == 3


def test_an_older_release_leaves_newer_tables_as_they_are(store: Store) -> None:
    with store.write() as c:
        c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    assert store.upgrade_schema() == []
    assert store.list_pending_migrations() == []
