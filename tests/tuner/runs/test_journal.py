"""Committed generations come back as they were; anything else is cut off or refused."""

from pathlib import Path

import numpy as np
import pytest

from craft_tuner.errors import RunError
from craft_tuner.runs import journal
from craft_tuner.runs.journal import Checkpoint, Generation


def write(directory: Path, count: int) -> None:
    for number in range(1, count + 1):
        line = Generation(
            generation=number, fitness=(0.1 + 0.2, 1e-17), asked="00", queries=5 * number
        )
        state = {"w": np.full((2, 2), number, np.float32)}
        journal.commit(directory, line, {"sigma": 0.1 * number, "head_loss": float("nan")}, state)


def test_a_new_run_has_an_empty_checkpoint(tmp_path: Path) -> None:
    past = journal.restore(tmp_path)
    assert past == Checkpoint()
    assert (past.generation, past.queries) == (0, 0)


def test_floats_and_tensors_come_back_to_the_last_bit(tmp_path: Path) -> None:
    write(tmp_path, 3)
    past = journal.restore(tmp_path)
    assert (past.generation, past.queries) == (3, 15)
    assert past.journal[2].fitness == (0.1 + 0.2, 1e-17)
    assert np.array_equal(past.tensors["w"], np.full((2, 2), 3, np.float32))


def test_numbers_that_are_not_finite_are_null_on_disk_and_nan_in_memory(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert '"head_loss": null' in (tmp_path / "metrics.jsonl").read_text()
    row = journal.restore(tmp_path).metrics[0]
    assert row["sigma"] == 0.1
    assert np.isnan(row["head_loss"])


@pytest.mark.parametrize("torn", [b"", b'{"generation": 4, "fit', b'{"whole": 1}\n'])
def test_what_follows_the_checkpoint_is_cut_off(torn: bytes, tmp_path: Path) -> None:
    write(tmp_path, 3)
    files = [tmp_path / "journal.jsonl", tmp_path / "metrics.jsonl"]
    before = [file.read_bytes() for file in files]
    for file in files:
        file.write_bytes(file.read_bytes() + torn)
    assert journal.restore(tmp_path).generation == 3
    assert [file.read_bytes() for file in files] == before


def test_a_journal_without_checkpoint_is_cut_to_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "checkpoint.safetensors").unlink()
    assert journal.restore(tmp_path) == Checkpoint()
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", ["journal.jsonl", "metrics.jsonl"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "the run is damaged"), (b"\x00\x00\n\x00\n", "are damaged")],
)
def test_a_damaged_history_is_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=said):
        journal.restore(tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"zzzz")
    with pytest.raises(RunError, match="is damaged"):
        journal.restore(tmp_path)
