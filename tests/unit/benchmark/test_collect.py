"""Records that a report is made of: what is wrong with the others is said, and none of it stops the rest."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from wavbench.benchmark import collect as collecting
from wavbench.benchmark.collect import CACHE, collect
from wavbench.benchmark.record import Record, write_record
from wavbench.benchmark.report import write_report
from wavbench.upstream.errors import UserError


@pytest.fixture
def results(tmp_path: Path, make_record: Callable, write_records: Callable) -> tuple[Path, list[Record]]:
    records = [make_record(upstream=name, value=value) for name, value in (("a", 50.0), ("b", 60.0), ("c", 70.0))]
    write_records(tmp_path, *records)
    return tmp_path, records


def damages(folder: Path, key: str, make_record: Callable) -> dict[str, Callable[[], object]]:
    """Ways to spoil one record, by what is said of it then."""
    path, scores = folder / f"runs/{key}.json", folder / f"runs/{key}.scores.csv"

    def other_metric() -> None:
        write_record(
            folder, make_record(upstream="b", value=60.0, metric="MOS", key=key), pd.DataFrame({"x": [1]}), None
        )

    def turned() -> None:
        path.write_text(path.read_text().replace('"higher_is_better": true', '"higher_is_better": false'))

    return {
        "schema 0, this version reads 1": lambda: path.write_text(
            path.read_text().replace('"schema": 1', '"schema": 0')
        ),
        "a record cannot be read": lambda: path.write_text(path.read_text()[:200]),
        "accuracy 55.0000 from the scores, 60.0000 in the record": lambda: scores.write_text(
            "utterance,errors,tokens\n" + 100 * "0a,45,100\n"
        ),
        "are not of its metric": lambda: scores.write_text("utterance,score\n" + 100 * "0a,1\n"),
        "99 rows, and the record is of 100": lambda: scores.write_text(scores.read_text().rsplit("\n", 2)[0] + "\n"),
        "accuracy is in %, and higher is better": turned,
        "the scores of a record cannot be read": lambda: scores.write_bytes(b"\xff\xfe\x00"),
        "a metric that is not known: MOS": other_metric,
    }


@pytest.mark.parametrize("said", damages(Path(), "", lambda **_: None))
def test_a_record_with_something_wrong_is_left_out_and_named(results: tuple, make_record: Callable, said: str) -> None:
    folder, records = results
    write_report(folder)  # what was verified before does not count
    damages(folder, records[1].key, make_record)[said]()
    done = write_report(folder)
    (problem,) = done.problems
    assert said in problem.screen()
    assert records[1].key in problem.where
    assert {record.upstream for record in collect(folder).records} == {"a", "c"}
    assert [line.split()[1] for line in done.text.splitlines() if "[" in line] == ["c", "a"]


def test_all_problems_are_listed_together(results: tuple) -> None:
    folder, records = results
    for record in records[:2]:
        (folder / f"runs/{record.key}.json").write_text("{")
    (folder / f"runs/{records[2].key} (1).json").write_text((folder / f"runs/{records[2].key}.json").read_text())
    done = write_report(folder)
    assert len(done.problems) == 3
    assert any("its key is not the name of its file" in problem.screen() for problem in done.problems)


def test_nothing_but_broken_records_is_an_error_that_names_them(results: tuple) -> None:
    folder, records = results
    for record in records:
        (folder / f"runs/{record.key}.json").write_text("{")
    with pytest.raises(UserError, match="no records to report") as error:
        write_report(folder)
    assert all(record.key in error.value.why for record in records)


def test_what_was_verified_is_not_read_again(results: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, records = results
    first = collect(folder)
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "read_scores", None)
        assert collect(folder) == first
        (folder / f"runs/{records[0].key}.scores.csv").write_text("utterance,errors,tokens\n" + 100 * "0a,50.0,100.0\n")
        with pytest.raises(TypeError):
            collect(folder)
    for text in ("{", "[]", '{"version": 2, "verified": 7}', '{"version": 2, "verified": [[]]}'):
        (folder / CACHE).write_text(text)
        assert collect(folder) == first


def test_a_record_without_scores_says_of_its_metric_what_is_so(results: tuple) -> None:
    folder, records = results
    path = folder / f"runs/{records[0].key}.json"
    path.write_text(path.read_text().replace('"higher_is_better": true', '"higher_is_better": false'))
    path.with_suffix(".scores.csv").unlink()
    found = collect(folder)
    assert len(found.records) == 2
    assert "higher is better" in found.problems[0].screen()


def test_a_record_whose_scores_were_not_passed_on_is_kept(results: tuple) -> None:
    folder, records = results
    (folder / f"runs/{records[0].key}.scores.csv").unlink()
    assert len(collect(folder).records) == 3
    assert not collect(folder).problems
