"""The ``endorm solve`` command: a token MDP from a file, solved, and its exact worst cases."""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
    json: Path | None = shared.json_file()


def run(arguments: argparse.Namespace) -> int:
    """Solve and print; returns the exit code."""
    from theory.mdp.token_mdp import TokenMDP
    from theory.solve.soft import plain_optimal, soft_optimal
    from theory.storage.files import write_json

    options = SolveOptions.read(arguments)
    mdp = TokenMDP.load(options.file)
    if mdp.batch_shape:
        raise ValueError(
            f"{options.file}: reward_0 has batch axes {mdp.batch_shape}; store one MDP a file"
        )
    solved = soft_optimal(mdp, options.alpha)
    best = plain_optimal(mdp)
    numbers = {"alpha": options.alpha} | _solution(mdp, solved, best)
    _print_solution(options, numbers)
    if options.epsilon is not None:
        worst = _worst_cases(mdp, solved.policy, best, options.alpha, options.epsilon)
        _print_worst_cases(worst)
        numbers |= worst
    if options.json is not None:
        write_json(options.json, numbers)
    return 0


def _print_solution(options: SolveOptions, numbers: dict[str, Any]) -> None:
    print(
        f"{options.file}: H = {numbers['horizon']}, V = {numbers['vocab_size']}, "
        f"{numbers['n_prompts']} prompt(s), α = {options.alpha:g}"
    )
    print(f"  soft value  E V*(s₁)                      {numbers['soft_value']:.10g}")
    print(f"  plain value of the soft-optimal policy    {numbers['expert_plain_value']:.10g}")
    print(f"  plain value of the best policy            {numbers['optimal_plain_value']:.10g}")
    print(f"  entropy of the soft-optimal policy        {numbers['expert_entropy']:.10g} nats")
    shown = zip(
        numbers["map_response"], numbers["map_log_prob"], numbers["map_return"], strict=True
    )
    for prompt, (tokens, log_p, total) in enumerate(list(shown)[:SHOWN]):
        print(
            f"  MAP response to prompt {prompt}: {' '.join(map(str, tokens))}   log π = "
            f"{log_p:.6g}, r* = {total:.6g}"
        )
    if numbers["n_prompts"] > SHOWN:
        print(f"  … {numbers['n_prompts'] - SHOWN} more prompts: all of them with --json")


SHOWN = 10
"""Prompts whose responses are printed."""


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
    from theory.solve.adversary import worst_clone, worst_kl
    from theory.solve.worst_map import worst_map
    from theory.solve.worst_preference import worst_preference_pair

    average = mdp.dynamics.average
    value, best = plain_value(mdp, expert), average(optimal.values[0])
    out_of_reach: dict[str, str] = {}

    def unless_too_large(name: str, find: Callable[[], Any]) -> Any:
        try:
            return find()
        except ValueError as error:
            out_of_reach[name] = str(error)
            return None

    mapped = unless_too_large("worst_map_gap", lambda: worst_map(mdp, expert, epsilon))
    least = None if mapped is None else average(mapped.returns)
    kl = unless_too_large("worst_kl", lambda: average(worst_kl(expert, epsilon).values[0]))
    pair = unless_too_large(
        "worst_preference_tv", lambda: worst_preference_pair(mdp, expert, epsilon, alpha)
    )
    return {
        "epsilon": epsilon,
        "worst_clone_gap": float(value - average(worst_clone(mdp, expert, epsilon).values[0])),
        "worst_map_gap": None if least is None else float(value - least),
        "worst_map_gap_optimal": None if least is None else float(best - least),
        "worst_map_response": None if mapped is None else mapped.responses.tokens.tolist(),
        "worst_preference_tv": None if pair is None else float(pair[0]),
        "worst_preference_pair": None
        if pair is None
        else [pair[1].tokens[0].tolist(), pair[2].tokens[0].tolist()],
        "worst_kl": None if kl is None else float(kl),
        "worst_regularised_gap": None if kl is None else float(alpha * kl),
        "bounds": every_bound(mdp.horizon, epsilon, alpha, mdp.vocab_size, mdp.reward_width),
        "out_of_reach": out_of_reach,
    }


WORST_CASES = (
    ("cloning, V^{π_E} − V^{π̂}", "worst_clone_gap", "clone_gap_stepwise", "clone_gap_paper"),
    ("RL, V^{π_E} − V^{π_RL}", "worst_map_gap", "rl_gap_expert", "rl_gap_paper"),
    ("RL, max_π V^π − V^{π_RL}", "worst_map_gap_optimal", "rl_gap", None),
    ("preferences, TV", "worst_preference_tv", "preference_tv_sharp", "preference_tv_paper"),
    ("regularised, α KL(π̂‖π_E)", "worst_regularised_gap", "regularised_gap", None),
)
"""What is shown of `_worst_cases`: a label, the worst case, its sharp bound, and the paper's."""


def _print_worst_cases(worst: dict[str, Any]) -> None:
    title = f"exact worst cases of the ball, ε = {worst['epsilon']:g} nats"
    print(f"  {title:<49}{'worst':>5}{'sharp bound':>14}{'paper':>14}")
    for label, name, sharp, paper in WORST_CASES:
        accents = label.count("\u0302")
        value = "–" if worst[name] is None else f"{worst[name]:.6g}"
        paper_value = "" if paper is None else f"{worst['bounds'][paper]:.6g}"
        print(
            "    "
            f"{label:<{38 + accents}}{value:>14}{worst['bounds'][sharp]:>14.6g}{paper_value:>14}"
        )
    for name, reason in worst["out_of_reach"].items():
        print(f"    {name}: {reason}")


COMMAND = Command("solve", "solve a token MDP from an .npz file", (Group(SolveOptions),), run)
