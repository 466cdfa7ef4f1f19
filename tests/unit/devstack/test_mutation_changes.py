"""Which changes of mutation testing are left out: only those that no program can see."""

from pathlib import Path

import pytest

from devstack.mutation_changes import read_changes

LABEL = 'with self._journal.transaction("action.ended"): pass'
STATEMENT = "self.execute(\"SELECT * FROM actions WHERE state = 'ended' AND id = :Id\", a)"
SENTENCE = 'raise JournalUnusable(f"{path}: not written", "start the agent again")'


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        (LABEL, 'with self._journal.transaction("XXaction.endedXX"): pass', "label of a transaction"),
        (LABEL, "with self._journal.transaction(None): pass", "label of a transaction"),
        (LABEL, 'with self._store.transaction("action.ended"): pass', ""),
        (STATEMENT, "self.execute(\"select * from actions where state = 'ended' and id = :Id\", a)", "case of SQL"),
        (STATEMENT, "self.execute(\"SELECT * FROM actions WHERE state = 'ENDED' AND id = :Id\", a)", ""),
        (STATEMENT, "self.execute(\"SELECT * FROM actions WHERE state = 'ended' AND id = :id\", a)", ""),
        (STATEMENT, "self.execute(\"SELECT * FROM actions WHERE state = 'ended' AND id = :Id\", None)", ""),
        ('a = row["name"]', 'a = row["NAME"]', "case of SQL"),
        ('a = row["name"]', 'a = row["XXnameXX"]', ""),
        ('a = payload["name"]', 'a = payload["NAME"]', ""),
        (SENTENCE, 'raise JournalUnusable(f"{path}: not written", "XXstart the agent againXX")', "sentence of an error"),
        (SENTENCE, 'raise JournalUnusable(f"{path}: not written", None)', ""),
        ('raise KeyError("id")', 'raise KeyError("ID")', ""),
        ("a = b + 1", "a = b - 1", ""),
        ("a = 1", "pass", ""),
    ],
)
def test_only_what_no_program_can_see_is_left_out(tmp_path: Path, before: str, after: str, rule: str) -> None:
    module = tmp_path / "mutants" / "package" / "journal.py"
    module.parent.mkdir(parents=True)
    module.write_text(f"class C:\n    def f__mutmut_orig(self, a):\n        {before}\n    def f__mutmut_1(self, a):\n        {after}\n")
    [change] = read_changes(tmp_path, Path("package/journal.py"))
    assert (change.name, change.harmless) == ("package.journal.f__mutmut_1", rule)
    assert change.difference.splitlines()[-2:] == [f"-        {before}", f"+        {after}"]
