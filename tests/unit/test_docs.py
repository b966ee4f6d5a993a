"""What pages of docs/ tell of the code is what the code says."""

import re
from pathlib import Path

import pytest

from wavbench.upstream.corpus import corpus_names, load_corpus
from wavbench.upstream.transcripts import RULES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """Cells of the table under a header line, by the first name in backquotes of each row."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = lines.index(heading) + 2
    found = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        name = re.match(r"\| `(\w[\w ]*)`", line)
        if not name or name[1] in found:
            raise AssertionError(f"{page} has a row without a name, or one twice: {line}")
        found[name[1]] = [cell.strip() for cell in line.strip("|").split(" | ")]
    return found


CORPORA = rows("corpora.md", "| corpus | tasks | how to get it | size and hours | licence | command |")


def test_the_page_of_corpora_lists_every_reader_and_nothing_else() -> None:
    assert set(CORPORA) == set(corpus_names())


@pytest.mark.parametrize("name", corpus_names())
def test_the_page_of_corpora_says_what_a_reader_says(name: str) -> None:
    module = load_corpus(name)
    title, tasks, obtain, size, licence, command = CORPORA[name]
    corpus = module.corpus
    assert corpus.title in title
    assert tasks == ", ".join(corpus.tasks)
    assert corpus.obtain in obtain
    assert size == (", ".join(filter(None, [corpus.size, f"{corpus.hours:g} h" if corpus.hours else ""])) or "-")
    assert licence == corpus.licence
    parts = [archive.part for archive in getattr(module, "archives", ())]
    verb = "fetch" if parts else "import" if hasattr(module, "read") else "build"
    assert re.fullmatch(rf"`wavbench corpus {verb} {name}( FOLDER| parts=[\w.,-]+)?`", command)
    assert set(re.findall(r"[\w.-]+", command.partition("parts=")[2])) <= set(parts)
    assert ("parts=" in command) == (len(parts) > 3 and not getattr(module, "default_parts", ()))


def test_the_page_of_corpora_tells_which_rule_makes_texts() -> None:
    told = rows("corpora.md", "| rule | for | what it does |")
    assert set(told) == set(RULES)
    for name in corpus_names():
        corpus = load_corpus(name).corpus
        for rule in ("librispeech", "words"):
            title = {"mls": "MLS", "hugging_face": "Hugging Face"}.get(name, corpus.title)
            assert (title in told[rule][1].split(", ")) == (corpus.text == rule), name
