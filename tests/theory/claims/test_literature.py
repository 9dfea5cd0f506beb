"""The literature's claims: verdicts, and every number against sums over responses written out."""

import dataclasses
import itertools
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from theory.claims import literature
from theory.claims.instance import Instance
from theory.claims.literature import LITERATURE, LiteratureClaim, decide_literature
from theory.claims.one_prompt import DISCOUNT, OnePrompt
from theory.claims.statement import Quantity, Statement
from theory.mdp.token_mdp import TokenMDP
from theory.reports import literature as report
from theory.solve.improve import kl_optimal
from theory.solve.soft import soft_optimal
from theory.studies.literature import literature_trees

PAGE = Path(__file__).resolve().parents[3] / "docs" / "literature.md"

TREES = literature_trees()


@pytest.fixture(scope="module")
def found():
    return decide_literature(TREES)


def test_every_claim_is_as_the_list_says(found):
    assert [x.claim.name for x in found if not x.confirmed] == []
    assert len(found) == len(LITERATURE)


def test_names_and_papers():
    names = [s.name for claim in LITERATURE for s in (*claim.holds, *claim.fails)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"\d{4}\.\d{5}", claim.paper) for claim in LITERATURE)


def test_the_page_has_every_table(found):
    page = PAGE.read_text(encoding="utf-8")
    tables = [report.claims_table(found), report.statements_table(found)]
    tables += [report.intrinsic_table(), report.noise_table(), report.power_table()]
    for table in tables:
        assert table.markdown() in page, f"{table.title}: paste its .markdown() into {PAGE.name}"
    for claim in LITERATURE:
        assert f"- **{claim.name}.**" in page  # its proof


def test_the_page_of_claims_counts_them():
    counts = Counter(claim.verdict for claim in LITERATURE)
    proved, assumed, refuted = (
        counts[x] for x in ("proved", "true under an assumption", "refuted")
    )
    said = f"of {len(LITERATURE)} claims {proved} are proved, {assumed} are true under an "
    said += f"assumption that is named, {refuted} are refuted"
    assert said in (PAGE.parent / "claims.md").read_text(encoding="utf-8")


def test_a_wrong_claim_is_found_out(monkeypatch):
    one = Quantity[OnePrompt]("KL", lambda i: i.kl_to_expert, "nats")
    half = Quantity[OnePrompt]("KL/2", lambda i: i.kl_to_expert / 2, "nats")
    wrong = Statement("wrong", "nowhere", one, "≤", half)
    right = Statement("right", "nowhere", half, "≤", one)
    for holds, fails in (((wrong,), ()), ((right,), (dataclasses.replace(right, name="r"),))):
        verdict = "refuted" if fails else "proved"
        claim = LiteratureClaim("c", "0000.00000", "", verdict, "", holds, fails)
        monkeypatch.setattr(literature, "LITERATURE", (claim,))
        assert not decide_literature(TREES[:1])[0].confirmed


def test_a_verdict_that_its_statements_do_not_bear_is_refused():
    some = LITERATURE[0].holds
    with pytest.raises(ValueError, match="proved if and only if"):
        LiteratureClaim("c", "0", "", "proved", "", some, some)
    with pytest.raises(ValueError, match="proved if and only if"):
        LiteratureClaim("c", "0", "", "refuted", "", some)
    with pytest.raises(ValueError, match="nothing to check"):
        LiteratureClaim("c", "0", "", "proved", "", ())


def test_only_one_prompt_with_logits():
    mdp = TokenMDP.random(2, 2, n_prompts=2, seed=0)
    expert = soft_optimal(mdp, 1.0).policy
    with pytest.raises(ValueError, match="2 prompts"):
        OnePrompt(mdp, expert, expert, 1.0)
    tree = TREES[0]
    bare = dataclasses.replace(tree.policy, log_normalizers=None)
    with pytest.raises(ValueError, match="no logits"):
        OnePrompt(tree.mdp, tree.expert, bare, tree.alpha)


# --- The numbers, with every response written out -------------------------------------------------


class Written:
    """A tree as dictionaries of prefixes: sums over responses in plain Python."""

    def __init__(self, tree: Instance) -> None:
        self.V = tree.mdp.vocab_size
        self.H = tree.horizon
        self.alpha = float(tree.alpha)
        self.rewards = self.rows(tree.mdp.rewards)
        self.p = {s: np.exp(row) for s, row in self.rows(tree.policy.log_probs).items()}
        self.q = {s: np.exp(row) for s, row in self.rows(tree.expert.log_probs).items()}
        gauge = self.rows([z[:, None] for z in tree.policy.log_normalizers])
        self.gauge = {s: float(row[0]) for s, row in gauge.items()}
        self.responses = list(itertools.product(range(self.V), repeat=self.H))

    def rows(self, tables):
        return {
            prefix: np.asarray(tables[h])[k]
            for h in range(self.H)
            for k, prefix in enumerate(itertools.product(range(self.V), repeat=h))
        }

    def law(self, rows):
        return {
            t: math.prod(float(rows[t[:h]][t[h]]) for h in range(self.H)) for t in self.responses
        }

    def total(self, rows):
        return {t: sum(float(rows[t[:h]][t[h]]) for h in range(self.H)) for t in self.responses}


@pytest.mark.parametrize("tree", TREES)
def test_tuned_values_and_prefixes(tree):
    w = Written(tree)
    p = w.law(w.p)
    r = w.total(w.rewards)
    partition = sum(p[t] * math.exp(r[t] / w.alpha) for t in w.responses)
    assert float(tree.tuned_value) == pytest.approx(w.alpha * math.log(partition), abs=1e-12)
    assert float(tree.log_partition) == pytest.approx(w.alpha * math.log(partition), abs=1e-12)
    for a in range(w.V):
        mine = [t for t in w.responses if t[0] == a]
        tilted = sum(p[t] * math.exp(r[t] / w.alpha) for t in mine)
        mass = sum(p[t] for t in mine)
        expected = w.alpha * math.log(tilted / mass)
        assert tree.prefix_value(tree.true_return)[a] == pytest.approx(expected, abs=1e-12)
        expected = w.alpha * math.log(tilted / partition / mass)
        assert tree.first_log_ratio(tree.tuned)[a] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tree", TREES)
def test_guided_by_plain_values(tree):
    w = Written(tree)

    def value(prefix):
        if len(prefix) == w.H:
            return 0.0
        return sum(
            w.p[prefix][a] * (w.rewards[prefix][a] + value((*prefix, a))) for a in range(w.V)
        )

    guided = {}
    for prefix in w.p:
        q = [w.rewards[prefix][a] + value((*prefix, a)) for a in range(w.V)]
        weight = w.p[prefix] * np.exp(np.array(q) / w.alpha)
        guided[prefix] = weight / weight.sum()
    law = w.law(guided)
    p = w.law(w.p)
    r = w.total(w.rewards)
    objective = sum(law[t] * (r[t] - w.alpha * math.log(law[t] / p[t])) for t in w.responses)
    assert float(tree.guided_objective) == pytest.approx(objective, abs=1e-12)


def test_guiding_by_plain_values_loses():
    # a token is worth 1 for sure, or 3 and −1 with ½ each: the same mean, not the same soft mean
    tree = TREES[0]
    assert float(tree.guided_objective) < float(tree.tuned_value) - 1e-6


@pytest.mark.parametrize("tree", TREES[:3])
def test_the_minimiser_of_the_bellman_residual_is_the_reference(tree):
    w = Written(tree)
    p = w.law(w.p)
    prefixes = list(w.p)
    where = {prefix: k for k, prefix in enumerate(prefixes)}

    def unpacked(x):
        return x.reshape(len(prefixes), w.V)

    def loss(x):
        q = unpacked(x)
        top = q.max(axis=1)
        v = top + np.log(np.exp(q - top[:, None]).sum(axis=1))
        total = 0.0
        for t in w.responses:
            residual = sum(
                q[where[t[:h]], t[h]]
                - math.log(w.p[t[:h]][t[h]])
                - (v[where[t[: h + 1]]] if h + 1 < w.H else 0.0)
                for h in range(w.H)
            )
            total += p[t] * residual**2
        return total

    at_reference = np.log(np.array([w.p[s] for s in prefixes])) + 0.0
    assert loss(at_reference.ravel()) == pytest.approx(0.0, abs=1e-20)
    as_it_comes = at_reference + np.array([w.gauge[s] for s in prefixes])[:, None]
    assert loss(as_it_comes.ravel()) == pytest.approx(w.gauge[()] ** 2, abs=1e-12)
    start = np.random.default_rng(0).normal(size=at_reference.size)
    found = minimize(loss, start, method="BFGS", options={"gtol": 1e-10, "maxiter": 500})
    q = unpacked(found.x)
    policy = np.exp(q - np.log(np.exp(q).sum(axis=1, keepdims=True)))
    law = w.law(dict(zip(prefixes, policy, strict=True)))
    divergence = sum(p[t] * math.log(p[t] / law[t]) for t in w.responses)
    assert 0 <= divergence + 1e-12 < 1e-9


@pytest.mark.parametrize("tree", TREES)
def test_residuals_and_discounts(tree):
    w = Written(tree)
    log_p = {t: math.log(x) for t, x in w.law(w.p).items()}
    own = tree.bellman_sum(calibrated=False)
    moved = tree.bellman_sum(calibrated=True)
    for k, t in enumerate(w.responses):
        assert own[k] == pytest.approx(log_p[t] + w.gauge[()], abs=1e-12)
        assert moved[k] == pytest.approx(log_p[t], abs=1e-12)
        rewards = []
        for h in range(w.H):
            after = w.gauge[t[: h + 1]] if h + 1 < w.H else 0.0
            rewards.append(math.log(w.p[t[:h]][t[h]]) + w.gauge[t[:h]] - after)
        discounted = w.alpha * sum(DISCOUNT**h * x for h, x in enumerate(rewards))
        assert tree.discounted_sum[k] == pytest.approx(discounted, abs=1e-12)


@pytest.mark.parametrize("tree", TREES)
def test_variances_of_a_divergence(tree):
    w = Written(tree)
    p = w.law(w.p)
    q = w.law(w.q)
    ratio = {t: math.log(p[t] / q[t]) for t in w.responses}
    row_kl = {s: float((w.p[s] * np.log(w.p[s] / w.q[s])).sum()) for s in w.p}
    known = {t: sum(row_kl[t[:h]] for h in range(w.H)) for t in w.responses}

    def variance(x):
        mean = sum(p[t] * x[t] for t in w.responses)
        return sum(p[t] * (x[t] - mean) ** 2 for t in w.responses)

    statement = next(s for c in LITERATURE for s in c.fails if s.name == "rao-blackwell-sum")
    assert float(statement.quantity.of(tree)) == pytest.approx(variance(known), abs=1e-12)
    assert float(statement.bound.of(tree)) == pytest.approx(variance(ratio), abs=1e-12)


@pytest.mark.parametrize("tree", TREES)
def test_a_reward_for_certainty(tree):
    w = Written(tree)
    p = w.law(w.p)
    entropy = {s: -float((w.p[s] * np.log(w.p[s])).sum()) for s in w.p}
    sure = {t: -sum(entropy[t[:h]] for h in range(w.H)) for t in w.responses}
    weight = {t: p[t] * math.exp(sure[t] / w.alpha) for t in w.responses}
    mean = sum(weight[t] * math.log(p[t]) for t in w.responses) / sum(weight.values())
    policy = kl_optimal(tree.certainty, tree.policy, tree.alpha).policy
    assert float(tree.expected_log_prob(policy, tree.policy)) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("tree", TREES[:2])
def test_logit_errors(tree):
    w = Written(tree)

    def soft_q(prefix, a):
        after = (*prefix, a)
        rest = 0.0
        if len(after) < w.H:
            rest = w.alpha * math.log(sum(math.exp(soft_q(after, b) / w.alpha) for b in range(w.V)))
        return w.rewards[prefix][a] + rest

    worst = max(
        abs(math.log(w.p[s][a]) + w.gauge[s] - soft_q(s, a) / w.alpha)
        for s in w.p
        for a in range(w.V)
    )
    assert float(tree.greatest_logit_error) == pytest.approx(worst, abs=1e-12)
