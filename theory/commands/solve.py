"""The ``endorm solve`` command: a token MDP from a file, solved, and its exact worst cases."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theory.commands import shared
from theory.commands.options import Command, Group, Options, option

if TYPE_CHECKING:
    from theory.mdp.policy import Policy
    from theory.mdp.token_mdp import TokenMDP
    from theory.solve.soft import Solution

__all__ = ["COMMAND", "SolveOptions"]


MAY_BE_OUT_OF_REACH = (
    "worst_map_gap",
    "worst_map_gap_optimal",
    "worst_map_response",
    "worst_preference_tv",
    "worst_preference_pair",
    "worst_kl",
    "worst_regularised_gap",
)
"""Numbers of a ball that are not computed where the problem is too large."""


@dataclass(frozen=True)
class SolveOptions(Options):
    """Which MDP is solved, and what is computed of it."""

    file: Path = option(
        help="token MDP, as TokenMDP.save writes it", metavar="FILE.npz", positional=True
    )
    alpha: float = shared.alpha()
    epsilon: float | None = option(
        None,
        help="radius of the ball around the soft-optimal policy: its worst cases too",
        unit="nats",
        low=1e-12,
        high=500.0,
        metavar="E",
    )
    out: Path | None = shared.out(None, "report.html and solution.json")
    json: Path | None = shared.json_file()


def run(arguments: argparse.Namespace) -> int:
    """Solve and print; returns the exit code."""
    from theory.mdp.token_mdp import TokenMDP
    from theory.reports.solution import solution_report
    from theory.solve.soft import plain_optimal, soft_optimal
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder

    options = SolveOptions.read(arguments)
    mdp = TokenMDP.load(options.file)
    if mdp.batch_shape:
        raise ValueError(
            f"{options.file}: reward_0 has batch axes {mdp.batch_shape}; store one MDP a file"
        )
    solved = soft_optimal(mdp, options.alpha)
    best = plain_optimal(mdp)
    numbers = {"alpha": options.alpha} | _solution(mdp, solved, best)
    if options.epsilon is not None:
        numbers |= _worst_cases(mdp, solved.policy, best, options.alpha, options.epsilon)
    shown = solution_report(str(options.file), numbers)
    numbers = shown.head("solve/1") | numbers
    last = "the page: with --out DIR"
    if options.out is not None:
        with RunFolder(options.out) as folder:
            shown.save(folder.path)
            write_json(folder.path / "solution.json", numbers)
        last = f"report.html and solution.json in {options.out}"
    return shared.show(shown, last, numbers, options.json)


def _solution(mdp: TokenMDP, solution: Solution, best: Solution) -> dict[str, Any]:
    from theory.mdp.responses import log_prob, map_response
    from theory.mdp.values import plain_value, trajectory_entropy
    from theory.solve.reward import returns

    answer = map_response(solution.policy)
    return {
        "horizon": mdp.horizon,
        "vocab_size": mdp.vocab_size,
        "n_prompts": mdp.dynamics.n_prompts,
        "soft_value": float(mdp.dynamics.average(solution.values[0])),
        "expert_plain_value": float(plain_value(mdp, solution.policy)),
        "optimal_plain_value": float(mdp.dynamics.average(best.values[0])),
        "expert_entropy": float(trajectory_entropy(solution.policy)),
        "map_response": answer.tokens.tolist(),
        "map_log_prob": log_prob(solution.policy, answer).tolist(),
        "map_return": returns(mdp, answer).tolist(),
    }


def _worst_cases(
    mdp: TokenMDP, expert: Policy, optimal: Solution, alpha: float, epsilon: float
) -> dict[str, Any]:
    """The exact worst cases over the ball around the soft-optimal policy; `None` for one that is
    out of reach.
    """
    from theory.claims.bounds import every_bound
    from theory.mdp.values import plain_value
    from theory.solve.worst_clone import worst_clone
    from theory.solve.worst_kl import worst_kl
    from theory.solve.worst_map import worst_map
    from theory.solve.worst_preference import worst_preference_pair

    average = mdp.dynamics.average
    value = plain_value(mdp, expert)
    cloned = average(worst_clone(mdp, expert, epsilon).values[0])
    found: dict[str, Any] = {"epsilon": epsilon, "worst_clone_gap": float(value - cloned)}
    found |= dict.fromkeys(MAY_BE_OUT_OF_REACH)
    out_of_reach: dict[str, str] = {}

    @contextmanager
    def unless_too_large(name: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            out_of_reach[name] = str(error)

    with unless_too_large("worst_map_gap"):
        mapped = worst_map(mdp, expert, epsilon)
        least = average(mapped.returns)
        found["worst_map_gap"] = float(value - least)
        found["worst_map_gap_optimal"] = float(average(optimal.values[0]) - least)
        found["worst_map_response"] = mapped.responses.tokens.tolist()
    with unless_too_large("worst_kl"):
        found["worst_kl"] = float(average(worst_kl(expert, epsilon).values[0]))
        found["worst_regularised_gap"] = alpha * found["worst_kl"]
    with unless_too_large("worst_preference_tv"):
        tv, *pair = worst_preference_pair(mdp, expert, epsilon, alpha)
        found["worst_preference_tv"] = float(tv)
        found["worst_preference_pair"] = [response.tokens[0].tolist() for response in pair]
    bounds = every_bound(mdp.horizon, epsilon, alpha, mdp.vocab_size, mdp.reward_width)
    return found | {"bounds": bounds, "out_of_reach": out_of_reach}


COMMAND = Command("solve", "solve a token MDP from an .npz file", (Group(SolveOptions),), run)
