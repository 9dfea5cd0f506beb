"""The cloning adversary against Storm's interval models. Optional: ``pip install stormpy``, else
skipped.
"""

import numpy as np
import pytest

from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import best_clone, worst_clone

stormpy = pytest.importorskip("stormpy", reason="stormpy is not installed: pip install stormpy")


def interval_model(mdp, expert, epsilon):
    """The ball as a DRN file: one action a state, interval probabilities, after a leaf a coin with
    the return's odds.

    Storm knows no rewards on intervals, so a response with return `r` ends in `goal` with
    probability ``r/H``: the plain value is `H` times the probability of `goal`. A sink follows the
    leaves.
    """
    H, V = mdp.horizon, mdp.vocab_size
    first = np.concatenate([[0], np.cumsum([V**h for h in range(H + 1)])])
    goal, sink = int(first[-1]), int(first[-1]) + 1
    lines = [
        "@type: MDP\n@value_type: "
        f"double-interval\n@parameters\n\n@reward_models\n\n@nr_states\n{sink + 1}"
    ]
    lines.append(f"@nr_choices\n{sink + 1}\n@model")
    total = np.zeros(1)
    for h in range(H):
        p = np.exp(expert.log_probs[h])
        for s in range(V**h):
            lines.append(f"state {first[h] + s}{' init' if h == 0 else ''}\n\taction 0")
            for a in range(V):
                low, high = np.exp(-epsilon) * p[s, a], min(np.exp(epsilon) * p[s, a], 1.0)
                lines.append(f"\t\t{first[h + 1] + s * V + a} : [{low:.17g}, {high:.17g}]")
        total = (total[:, None] + mdp.rewards[h]).reshape(-1)
    for leaf, r in enumerate(total / H):
        lines.append(f"state {first[H] + leaf}\n\taction 0")
        lines.append(
            f"\t\t{goal} : [{r:.17g}, {r:.17g}]\n\t\t{sink} : [{1 - r:.17g}, {1 - r:.17g}]"
        )
    lines.append(
        f"state {goal} goal\n\taction 0\n\t\t{goal} : [1, 1]\nstate {sink}\n\taction 0\n\t\t{sink} "
        ": [1, 1]"
    )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("V", "H", "seed"), [(2, 3, 0), (3, 3, 1), (4, 2, 2), (2, 6, 3), (3, 4, 4)]
)
@pytest.mark.parametrize(("alpha", "epsilon"), [(0.3, 0.1), (1.0, 0.7), (5.0, 0.02)])
def test_clones_are_the_values_of_an_interval_model(V, H, seed, alpha, epsilon, tmp_path):
    mdp = TokenMDP.random(V, H, seed=seed)
    expert = soft_optimal(mdp, alpha).policy
    path = tmp_path / "ball.drn"
    path.write_text(interval_model(mdp, expert, epsilon))
    model = stormpy.build_model_from_drn[stormpy.Interval](str(path))
    modes = stormpy.UncertaintyResolutionMode
    for adversary, direction, mode in (
        (worst_clone, "min", modes.MINIMIZE),
        (best_clone, "max", modes.MAXIMIZE),
    ):
        formula = stormpy.parse_properties(f'P{direction}=? [F "goal"]')[0]
        found = H * stormpy.model_checking(
            model, formula, uncertainty_resolution_mode=mode
        ).get_value(0)
        assert found == pytest.approx(float(adversary(mdp, expert, epsilon).values[0][0]), abs=1e-9)
