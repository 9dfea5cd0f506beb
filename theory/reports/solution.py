"""The report of ``endorm solve``: values of a token MDP, and exact worst cases of a ball."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from theory.reports.report import Column, Report, Section, Table, Text

__all__ = ["solution_report"]

SHOWN = 10
"""Prompts whose most probable responses are shown."""

POLICY = (
    ("plain_value", "plain value of the policy π̂ in the logits", ""),
    ("entropy", "entropy of π̂", " nats"),
    ("kl", "KL(π̂‖π_E)", " nats"),
    ("expert_kl", "KL(π_E‖π̂)", " nats"),
    ("max_log_ratio", "ε = max |log π̂ − log π_E|", " nats"),
)
"""Numbers of a policy that is compared with the soft-optimal one: name, label, unit."""

WORST_CASES = (
    ("cloning, V^{π_E} − V^{π̂}", "worst_clone_gap", "clone_gap_stepwise", "clone_gap_paper"),
    ("RL, V^{π_E} − V^{π_RL}", "worst_map_gap", "rl_gap_expert", "rl_gap_paper"),
    ("RL, max_π V^π − V^{π_RL}", "worst_map_gap_optimal", "rl_gap", None),
    ("preferences, TV", "worst_preference_tv", "preference_tv_sharp", "preference_tv_paper"),
    ("regularised, α KL(π̂‖π_E)", "worst_regularised_gap", "regularised_gap", None),
)
"""A label, the worst case, its sharp bound, and the paper's."""

WORST = (
    "Of all policies π̂ whose log-probabilities are within ε of the expert's π_E, the soft-optimal "
    "policy: what the worst one does on this MDP, the best bound for MDPs of this size, the "
    "paper's. π_RL is the best policy for the reward in π̂; below 0, better than the expert."
)
"""What the table of worst cases shows."""


def solution_report(name: str, numbers: Mapping[str, Any]) -> Report:
    """Report what ``endorm solve`` has computed.

    Args:
        name: of the MDP.
        numbers: what the command writes as JSON; worst cases where there is an ``"epsilon"``.

    Example:
        >>> numbers = {"horizon": 1, "vocab_size": 2, "n_prompts": 1, "alpha": 1.0}
        >>> numbers |= {"soft_value": 1.3133, "expert_plain_value": 0.7311}
        >>> numbers |= {"optimal_plain_value": 1.0, "map_return": [1.0]}
        >>> numbers |= {"expert_entropy": 0.5822, "map_response": [[1]], "map_log_prob": [-0.3133]}
        >>> print(solution_report("coin", numbers).text())
        coin: H = 1, V = 2, 1 prompt, α = 1
        The soft-optimal policy has plain value 0.7311; the best policy has 1.
          soft value E V*(s₁): 1.3133
          plain value of the soft-optimal policy: 0.7311
          plain value of the best policy: 1
          entropy of the soft-optimal policy: 0.5822 nats
        <BLANKLINE>
        Most probable responses
          prompt  MAP response    log π  r*
          ---------------------------------
          0       1             -0.3133   1

    """
    prompts = f"{numbers['n_prompts']} prompt{'s' * (numbers['n_prompts'] != 1)}"
    title = (
        f"{name}: H = {numbers['horizon']}, V = {numbers['vocab_size']}, {prompts}, "
        f"α = {numbers['alpha']:g}"
    )
    facts = {
        "soft value E V*(s₁)": f"{numbers['soft_value']:.10g}",
        "plain value of the soft-optimal policy": f"{numbers['expert_plain_value']:.10g}",
        "plain value of the best policy": f"{numbers['optimal_plain_value']:.10g}",
        "entropy of the soft-optimal policy": f"{numbers['expert_entropy']:.10g} nats",
    }
    facts |= {
        label: f"{numbers[name]:.10g}{unit}" for name, label, unit in POLICY if name in numbers
    }
    sections: list[Section] = _responses(numbers) if "map_response" in numbers else []
    if "epsilon" in numbers:
        sections += _worst_cases(numbers)
    value = f"{numbers['expert_plain_value']:.6g}"
    best = f"{numbers['optimal_plain_value']:.6g}"
    sentence = f"The soft-optimal policy has plain value {value}; the best policy has {best}."
    return Report(title, [sentence], facts, sections)


def _responses(numbers: Mapping[str, Any]) -> list[Section]:
    """The most probable response to each of the first prompts."""
    lists = [numbers[name][:SHOWN] for name in ("map_response", "map_log_prob", "map_return")]
    responses = [
        (prompt, " ".join(map(str, tokens)), log_prob, total)
        for prompt, (tokens, log_prob, total) in enumerate(zip(*lists, strict=True))
    ]
    columns = [
        Column("prompt"),
        Column("MAP response"),
        Column("log π", ".6g", "right"),
        Column("r*", ".6g", "right"),
    ]
    sections: list[Section] = [Table("Most probable responses", columns, responses)]
    if numbers["n_prompts"] > SHOWN:
        more = numbers["n_prompts"] - SHOWN
        sections.append(Text(f"… {more} more prompts: all of them with --json"))
    return sections


def _worst_cases(numbers: Mapping[str, Any]) -> list[Section]:
    """Worst cases beside their bounds, and why some are out of reach."""
    bounds = numbers["bounds"]
    columns = [
        Column(kind="formula"),
        Column("worst", ".6g", "right"),
        Column("sharp bound", ".6g", "right"),
        Column("paper", ".6g", "right"),
    ]
    rows = [
        (label, numbers[worst], bounds[sharp], "" if paper is None else bounds[paper])
        for label, worst, sharp, paper in WORST_CASES
    ]
    title = f"Exact worst cases within ε = {numbers['epsilon']:g} nats"
    reasons = [Text(f"{name}: {why}") for name, why in numbers["out_of_reach"].items()]
    return [Table(title, columns, rows, WORST), *reasons]
