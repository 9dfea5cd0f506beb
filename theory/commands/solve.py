"""The ``endorm solve`` command: a token MDP from a file or folder, solved, and its worst cases."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from theory.commands import shared
from theory.commands.options import Command, Group, Options, option

if TYPE_CHECKING:
    from theory.mdp.policy import Policy
    from theory.mdp.token_mdp import TokenMDP
    from theory.solve.soft import Solution
    from theory.storage.runs import RunFolder

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
        help="token MDP: an .npz file as TokenMDP.save writes it, or a folder of reward_h.npy (and "
        "logits_h.npy of a policy), which may be larger than memory",
        metavar="MDP",
        positional=True,
    )
    example: bool = option(
        False,
        help="write the MDP of the tutorial to FILE.npz, and its arrays' names; do nothing more",
    )
    alpha: float = shared.alpha(1.0)
    epsilon: float | None = option(
        None,
        help="radius of the ball around the soft-optimal policy: its worst cases too",
        unit="nats",
        low=1e-12,
        high=500.0,
        metavar="E",
    )
    threads: int | None = option(
        None,
        help="blocks of a folder that are solved at the same time; by default one for each core, "
        "at most four",
        low=1,
        high=1024,
        affects_results=False,
    )
    out: Path | None = shared.out(
        None, "report.html and solution.json, and of a folder the blocks that are finished"
    )
    json: Path | None = shared.json_file()


def run(arguments: argparse.Namespace) -> int:
    """Solve and print; returns the exit code."""
    from theory.reports.solution import solution_report
    from theory.storage.files import write_json
    from theory.storage.runs import RunFolder

    options = SolveOptions.read(arguments)
    if options.example:
        _write_example(options.file)
        return 0
    last = "give --out DIR for a page of this, with formulas and what they mean"
    with nullcontext() if options.out is None else RunFolder(options.out) as folder:
        many = options.file.is_dir()
        numbers = _streamed(options, folder) if many else _in_memory(options)
        shown = solution_report(str(options.file), numbers)
        numbers = shown.head("solve/1") | numbers
        if folder is not None:
            shown.save(folder.path)
            write_json(folder.path / "solution.json", numbers)
            last = f"report.html and solution.json in {options.out}"
    return shared.show(shown, last, numbers, options.json)


def _in_memory(options: SolveOptions) -> dict[str, Any]:
    from theory.mdp.token_mdp import TokenMDP
    from theory.solve.soft import plain_optimal, soft_optimal

    if options.threads is not None:
        raise ValueError(f"{options.file}: --threads is for a folder of .npy files; leave it out")
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
    return numbers


def _streamed(options: SolveOptions, folder: RunFolder | None) -> dict[str, Any]:
    """What is computed of a tree that is read block by block: no response is looked for."""
    from joblib import cpu_count

    from theory.mdp.streamed import StreamedTree
    from theory.solve.prompt_values import averages, prompt_values

    if options.epsilon is not None:
        raise ValueError(
            f"--epsilon: worst cases need the whole MDP in memory, and {options.file} is a folder: "
            "leave it out, or give an .npz file"
        )
    tree = StreamedTree.load(options.file)
    threads = options.threads or min(4, cpu_count())  # more wait for the interpreter
    found = prompt_values(tree, options.alpha, threads=threads, run=folder)
    sizes = {"horizon": tree.horizon, "vocab_size": tree.vocab_size, "n_prompts": tree.n_prompts}
    return {"alpha": options.alpha} | sizes | averages(found, tree.prompt_weights)


EXAMPLE = Path(__file__).parents[1] / "studies" / "letters.npz"
"""Two prompts, four tokens, five steps: what the model ``letters`` was trained on."""


def _write_example(path: Path) -> None:
    """Copy the example, and say what its arrays are.

    Raises:
        FileExistsError: the file is there.
    """
    import numpy as np

    if path.suffix != ".npz":
        raise ValueError(f"{path}: give a name that ends in .npz")
    with path.open("xb") as file:
        file.write(EXAMPLE.read_bytes())
    print(f"{path}: a token tree of 2 prompts, 4 tokens, 5 steps")
    with np.load(path) as arrays:
        for name, array in arrays.items():
            shape = " × ".join(map(str, array.shape)) or "one value"
            print(f"  {name:<15} {array.dtype!s:<8} {shape}")
    print(
        "reward_h has a row for each state before token h and a column for each token; state s\n"
        "followed by token a is state s·4 + a of the next layer (docs: your own MDP)."
    )


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


COMMAND = Command(
    "solve",
    "solve a token MDP from a file or a folder",
    (Group(SolveOptions),),
    run,
    ("endorm solve --example mdp.npz", "endorm solve mdp.npz --alpha 0.5 --epsilon 0.1"),
)
