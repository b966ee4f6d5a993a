"""What the names of folders and files tell of their split, and where an index starts its paths."""

from pathlib import Path

import pytest

from wavbench.upstream.corpus import find_base, plain_columns, split_of_name
from wavbench.upstream.errors import UserError


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("train_clean_100", "train"), ("Training", "train"), ("train960", "train"),
        ("train_nodev", "train"), ("speech-train-000012", "train"), ("trainset", "train"),
        ("dev", "dev"), ("dev-clean", "dev"), ("cv-en_dev", "dev"), ("valid", "dev"), ("validation", "dev"),
        ("val2017", "dev"), ("train_dev", "dev"), ("test_dev93", "dev"), ("devset", "dev"),
        ("test", "test"), ("test_eval92", "test"), ("eval2000", "test"), ("TEST-other", "test"), ("testing", "test"),
        ("lang", ""), ("device", ""), ("evalita", ""), ("latest", ""), ("restrained", ""), ("value", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_name_tells_its_split_by_whole_words(name: str, split: str) -> None:
    assert split_of_name(name) == split


def test_a_base_is_the_nearest_folder_where_a_path_leads_to_a_file(tmp_path: Path) -> None:
    index = tmp_path / "recipe/data/train/wav.scp"
    index.parent.mkdir(parents=True)
    (tmp_path / "a.wav").touch()
    assert find_base(index.parent, ["none.wav", "a.wav"], "", index) == tmp_path
    (tmp_path / "recipe/a.wav").touch()
    assert find_base(index.parent, ["a.wav"], "", index) == tmp_path / "recipe"
    assert find_base(index.parent, ["a.wav"], str(tmp_path), index) == tmp_path
    with pytest.raises(UserError, match="base=FOLDER"):
        find_base(index.parent, ["a.wav"], str(tmp_path / "other"), index)


def test_columns_from_json_are_plain_and_leave_the_readers_own_alone() -> None:
    values = {"Take": 2, "Emotion": "sad", "ID": "x", "words": ["a"], "a b": 1, "ok": True, 7: "x", "_hidden": "x"}
    assert plain_columns(values, ("id",)) == {"Take": 2, "emotion": "sad", "ok": True}
