"""What a run of PPO reports of its way to the optimum."""

from llm_bridge.improve.report import progress_report


def test_shares_of_the_way_to_the_optimum():
    first = {"step": 0, "objective": 1.0, "entropy": 2.0, "kl_to_optimum": 0.5}
    last = {"step": 9, "objective": 1.75, "entropy": 2.5, "kl_to_optimum": 0.125}
    report = progress_report("t", first, last, {"objective": 2.0, "entropy": 2.0005})
    table, distance = report.sections
    assert table.rows == [
        ("objective", 1.0, 1.75, 2.0, 0.75),
        ("entropy", 2.0, 2.5, 2.0005, None),  # no way to have a share of
    ]
    assert "75%" in report.text()
    assert distance.paragraph == (
        "exact distance to the optimum: 0.2500 reward units, KL(π‖optimum) = 0.1250 nats"
    )


def test_tasks_where_the_optimum_is_not_known():
    first = {"step": 0, "reward": 0.1, "math/greedy": 0.25}
    last = {"step": 9, "reward": 0.2, "math/greedy": 0.5}
    (table,) = progress_report("t", first, last).sections
    assert table.rows == [("math/greedy", 0.25, 0.5)]
    assert progress_report("t", {"step": 0}, {"step": 9}).text() == "t"
