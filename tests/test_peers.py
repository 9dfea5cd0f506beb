"""The benchmark beside other packages, at its smallest size and without any environment."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "peers.py"


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("peers_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_own_and_scipy_rows_agree(peers, tmp_path, capsys):
    rows = peers.main(["--quick", "--only", "ours", "--cache", str(tmp_path)])
    assert [row["peer"] for row in rows] == ["ours, soft", "SciPy", "ours, plain"]
    assert all(row["gap"] <= peers.RTOL and row["seconds"] > 0 for row in rows)
    assert "| soft | 4 | 2 | SciPy |" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_peer_that_fails_is_a_row_with_the_reason(peers, monkeypatch, tmp_path):
    names = ["ours, soft", "SciPy", "ours, plain"]
    real = peers.turn

    def turn(python, peer, tree, values):
        return (
            {"failed": "more than 2 GiB"} if peer == "SciPy" else real(python, peer, tree, values)
        )

    monkeypatch.setattr(peers, "turn", turn)
    rows = [row for size in peers.measure(names, [(2, 2), (2, 3)], 1, tmp_path) for row in size]
    assert len(rows) == 6
    reasons = [row["failed"] for row in rows if row["peer"] == "SciPy"]
    assert reasons == ["more than 2 GiB (at V=2, H=2)"] * 2
    assert "more than 2 GiB" in peers.table(rows)
