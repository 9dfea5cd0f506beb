"""Intrinsic rewards, the noise of policy gradients, and estimates of the power policy."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from theory.mdp.policy import Policy
from theory.mdp.responses import all_responses, log_prob
from theory.mdp.token_mdp import TokenMDP
from theory.mdp.values import plain_value
from theory.solve.improve import kl_optimal
from theory.solve.reward import returns
from theory.solve.soft import power_policy
from theory.studies.gradient_noise import GRADIENTS, gradient_mean_and_noise, gradient_noise
from theory.studies.intrinsic import careful_or_sure, compare_intrinsic, intrinsic_rewards
from theory.studies.literature import literature_trees, power_estimate_bias
from theory.studies.sharpening import rise_then_fall

INSTANCE = careful_or_sure()


def test_rewards_summed_over_a_response():
    """Every reward of the response (0, 3, 2), from probabilities and soft values by hand."""
    rewards = intrinsic_rewards(INSTANCE.policy)
    responses = all_responses(INSTANCE.policy.dynamics)
    k = next(i for i, t in enumerate(responses.tokens.tolist()) if t == [0, 3, 2])
    total = {name: float(returns(mdp, responses)[k]) for name, mdp in rewards.items()}
    rows = [[0.68, 0.3, 0.01, 0.01], [0.25] * 4, [0.8, 0.1, 0.05, 0.05]]
    logs = [np.log(0.68), np.log(0.25), np.log(0.05)]
    steps = [logs[0] + 1 - 0, logs[1] + 0 - 1, logs[2] + 1]
    assert total["endogenous"] == pytest.approx(sum(steps))
    entropies = [sum(x * np.log(x) for x in row) for row in rows]
    assert total["token entropy"] == pytest.approx(sum(entropies))
    uniform = [sum(np.log(0.25 / x) for x in row) / 4 for row in rows]
    assert total["self-certainty"] == pytest.approx(sum(uniform))
    assert total["majority vote"] == 0
    weights = [1, 0.95, 0.95**2]
    assert total["discounted, γ = 0.95"] == pytest.approx(np.dot(weights, steps))
    assert total["the same in gauge logprob"] == pytest.approx(np.dot(weights, logs))
    assert total["clipped at 0"] == pytest.approx(sum(max(x, 0) for x in steps))


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_optima_against_all_responses(beta):
    responses = all_responses(INSTANCE.policy.dynamics)
    law = np.exp(log_prob(INSTANCE.policy, responses))
    right = responses.tokens[:, -1] == 0
    rows = {row.reward: row for row in compare_intrinsic(INSTANCE, beta)}
    assert rows["(none)"].value == pytest.approx(law[right].sum())
    for name, reward in intrinsic_rewards(INSTANCE.policy).items():
        total = returns(reward, responses)
        weight = law * np.exp((total - total.max()) / beta)
        weight /= weight.sum()
        assert rows[name].value == pytest.approx(weight[right].sum(), abs=1e-12)
        assert rows[name].log_likelihood == pytest.approx(weight @ np.log(law), abs=1e-12)
        assert rows[name].divergence == pytest.approx(weight @ np.log(weight / law), abs=1e-12)
        slope = law @ (total * right) - (law @ total) * (law @ right)
        assert rows[name].covariance == pytest.approx(slope, abs=1e-12)


def test_the_slope_is_the_derivative():
    reward = intrinsic_rewards(INSTANCE.policy)["endogenous"]
    row = next(x for x in compare_intrinsic(INSTANCE, 1.0) if x.reward == "endogenous")
    tiny = 1e-6
    moved = kl_optimal(reward, INSTANCE.policy, 1 / tiny).policy
    change = float(plain_value(INSTANCE.mdp, moved) - plain_value(INSTANCE.mdp, INSTANCE.policy))
    assert change / tiny == pytest.approx(row.covariance, rel=1e-4)


def test_votes_are_counted_for_each_prompt():
    first = np.array([[0.4, 0.6], [0.9, 0.1]])  # the majority's first token is not the answer
    second = np.array([[1.0, 0.0], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]]) * 0.98 + 0.01
    dynamics = TokenMDP.tree([np.zeros((2, 2)), np.zeros((4, 2))]).dynamics
    policy = Policy.from_logits(dynamics, [np.log(first), np.log(second)])
    votes = intrinsic_rewards(policy)["majority vote"].rewards[-1]
    assert votes.argmax(axis=-1).tolist() == [0, 0, 1, 1]


# --- Policy gradients -----------------------------------------------------------------------------


def objective(logits, dynamics, reference, alpha, beta):
    """``E_π Σ k``, a sum over all responses."""
    responses = all_responses(dynamics)
    policy = Policy.from_logits(dynamics, logits)
    log_pi = log_prob(policy, responses)
    k = (alpha + beta) * log_prob(reference, responses) - beta * log_pi
    return float(np.exp(log_pi) @ k)


@pytest.mark.parametrize("kappa", [1.0, 1.5, 3.0])
def test_every_estimator_has_the_gradient_as_its_mean(kappa):
    tree = literature_trees()[0]
    policy = power_policy(tree.policy, kappa)
    found = gradient_mean_and_noise(policy, tree.policy, alpha=1.0, beta=0.5)
    assert list(found) == list(GRADIENTS)
    logits = [np.array(t) for t in policy.log_probs]
    exact = []
    for table in logits:
        for index in np.ndindex(table.shape):
            moved = []
            for side in (1e-5, -1e-5):
                kept = table[index]
                table[index] = kept + side
                moved.append(objective(logits, policy.dynamics, tree.policy, 1.0, 0.5))
                table[index] = kept
            exact.append((moved[0] - moved[1]) / 2e-5)
    for mean, _ in found.values():
        np.testing.assert_allclose(mean, exact, atol=1e-8)


def test_noise_against_drawn_gradients():
    """Variances of whole responses and of the closed form, with automatic differentiation."""
    torch = pytest.importorskip("torch")
    tree = literature_trees()[0]
    reference = [torch.tensor(np.array(t)) for t in tree.policy.log_probs]
    logits = [t.clone().requires_grad_() for t in reference]
    tables = [torch.log_softmax(t, dim=-1) for t in logits]
    pays = [2 * q - p.detach() for p, q in zip(tables, reference, strict=True)]
    closed = [(p.exp() * (2 * q - p)).sum(-1) for p, q in zip(tables, reference, strict=True)]
    V, H = 2, 3
    gradients = {"to go": [], "expected": []}
    weights = []
    for tokens in itertools.product(range(V), repeat=H):
        states = [int("0" + "".join(map(str, tokens[:h])), 2) for h in range(H)]
        drawn = [tables[h][states[h], tokens[h]] for h in range(H)]
        paid = [float(pays[h][states[h], tokens[h]].detach()) for h in range(H)]
        known = [closed[h][states[h]] for h in range(H)]
        weights.append(float(sum(drawn).exp().detach()))
        losses = {
            "to go": sum(drawn[h] * sum(paid[h:]) for h in range(H)),
            "expected": sum(known[h] for h in range(H))
            + sum(
                drawn[h] * float(torch.stack([*known[h + 1 :], 0 * known[0]]).sum().detach())
                for h in range(H)
            ),
        }
        for name, loss in losses.items():
            parts = torch.autograd.grad(loss, logits, retain_graph=True)
            gradients[name].append(torch.cat([x.ravel() for x in parts]).numpy())
    noise = gradient_noise(tree.policy, tree.policy)
    for name, rows in gradients.items():
        each = np.array(rows)
        mean = np.array(weights) @ each
        expected = np.array(weights) @ ((each - mean) ** 2).sum(axis=1)
        assert noise[name] == pytest.approx(expected, rel=1e-9)


def test_at_the_optimum_whole_responses_have_no_noise():
    for tree in literature_trees():
        noise = gradient_noise(power_policy(tree.policy, 3.0), tree.policy, alpha=1.0, beta=0.5)
        assert noise["sum"] == pytest.approx(0.0, abs=1e-12)
        assert noise["to go, ideal critic"] == pytest.approx(0.0, abs=1e-12)
        assert noise["to go"] > 0


def test_several_prompts_are_refused():
    policy = rise_then_fall().policy
    with pytest.raises(ValueError, match="2 prompts: take one"):
        gradient_noise(policy, policy)
    with pytest.raises(ValueError, match="beta"):
        gradient_noise(INSTANCE.policy, INSTANCE.policy, beta=0.0)


# --- Estimates of the power policy ----------------------------------------------------------------


@pytest.mark.parametrize("draws", [2, 3])
def test_bias_in_exact_fractions(draws):
    rest = [[Fraction(1, 2), Fraction(1, 2)], [Fraction(9, 10), Fraction(1, 10)]]
    first = [Fraction(3, 5), Fraction(2, 5)]
    exact = [first[a] ** 2 * sum(x**2 for x in rest[a]) for a in range(2)]
    plain = jackknife = Fraction(0)
    for one in itertools.product(range(2), repeat=draws):
        for two in itertools.product(range(2), repeat=draws):
            mass = Fraction(1)
            for k in range(draws):
                mass *= rest[0][one[k]] * rest[1][two[k]]

            def share(kept, one=one, two=two):
                weights = [
                    first[a] ** 2 * sum(rest[a][x[k]] for k in kept)
                    for a, x in ((0, one), (1, two))
                ]
                return weights[0] / sum(weights)

            whole = share(range(draws))
            others = [share([k for k in range(draws) if k != m]) for m in range(draws)]
            plain += mass * whole
            jackknife += mass * (draws * whole - Fraction(draws - 1, draws) * sum(others))
    found = power_estimate_bias(
        np.array(rest, dtype=float), np.array(first, dtype=float), 2.0, draws
    )
    truth = exact[0] / sum(exact)
    assert found[0] == pytest.approx(float(plain - truth), abs=1e-12)
    assert found[1] == pytest.approx(float(jackknife - truth), abs=1e-12)


def test_too_many_outcomes_are_refused():
    with pytest.raises(ValueError, match="at most a million"):
        power_estimate_bias(np.full((2, 2), 0.5), np.array([0.5, 0.5]), draws=11)
