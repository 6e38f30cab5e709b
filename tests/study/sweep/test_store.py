"""The file of results: what is whole is kept, whatever happened to the end."""

from pathlib import Path

import pytest

from shadowmmu.study.sweep.store import Store, StoreError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.runs.jsonl"
    with Store(path) as store:
        store.add("a", {"seed": 0}, {"faults": 1})
        store.add("b", {"seed": 1}, {"faults": 2})
    return path


def test_results_are_kept(path: Path) -> None:
    with Store(path) as store:
        assert store.get("a") == {"faults": 1}
        assert store.get("c") is None
        store.add("c", {}, {"faults": 3})
        assert store.get("c") == {"faults": 3}
    assert len(path.read_text().splitlines()) == 3


def test_a_torn_last_line_is_dropped_wherever_it_ends(path: Path) -> None:
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first + 1, len(whole)):
        path.write_bytes(whole[:length])
        with Store(path) as store:
            assert store.get("a") == {"faults": 1}
            assert store.get("b") is None
        assert path.read_bytes() == whole[:first]


def test_one_sweep_at_a_time(path: Path) -> None:
    with Store(path), pytest.raises(StoreError, match="another sweep writes it; wait, or name another"):
        Store(path)
    Store(path).__exit__(None, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[machine]\nvcpus = 3\n",
            "line 1 is not a run of a sweep; remove it, or name another file with --runs",
        ),
        ('{"key": "a", "result": {}}\n3\n', "line 2 is not a run of a sweep"),
        ("dear diary", "holds no runs of a sweep; name another file with --runs"),
    ],
)
def test_other_files_stay_as_they_are(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(StoreError) as refused:
        Store(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert path.read_text() == text
