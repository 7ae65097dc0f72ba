"""Checkpoints: round trip, atomicity, and no code run on loading."""

import pickle

import pytest
import torch

from segkit.checkpoint import load_checkpoint, save_checkpoint
from segkit.errors import UserError


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_round_trip(tmp_path):
    content = {"network": {"w": torch.arange(3.0)}, "state": {"epoch": 3, "dice": None}}
    save_checkpoint(tmp_path / "a.pt", content)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded["network"]["w"].tolist() == [0, 1, 2]
    assert loaded["state"] == content["state"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_pickles_that_would_run_code_are_refused(tmp_path):
    torch.save({"format_version": 1, "x": Malicious()}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="more than tensors"):
        load_checkpoint(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "b.pt")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"network": {"w": torch.zeros(1000)}})
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"w": torch.zeros(1)}, tmp_path / "foreign.pt")
    for name in ("half.pt", "empty.pt", "foreign.pt", "missing.pt"):
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)


def test_an_interrupted_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "a.pt", {"step": 1})
    original = torch.save

    def fail_half_way(content, stream):
        original(content, stream)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", fail_half_way)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "a.pt", {"step": 2})
    assert load_checkpoint(tmp_path / "a.pt")["step"] == 1
