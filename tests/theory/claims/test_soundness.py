"""Verdicts are right: enclosures hold an independent oracle's numbers, and no planted violation
ever `holds`.
"""

import dataclasses
import math
from contextlib import nullcontext
from functools import cache

import mpmath
import numpy as np
import pytest
from extreme import extreme_instance, faults, one_state_layers
from planted import changed, claim
from reference import Oracle, describe

from theory.arrays.doubles import Doubles
from theory.arrays.precision import precision
from theory.claims.findings import decide, decide_each
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.claims.verdict import HOLDS, Contradiction, check
from theory.mdp.distances import squared_hellinger
from theory.mdp.policy import Policy
from theory.mdp.responses import Responses
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal
from theory.solve.worst_clone import worst_clone
from theory.studies.gallery import indifferent_learner

BY_NAME = {statement.name: statement for statement in STATEMENTS}
INF, NAN = math.inf, math.nan
SLOW = (pytest.mark.slow,)
TIED = "its sides are not separated"
ASSUMED = [statement for statement in STATEMENTS if statement.when is not None]


def small_tree(seed=0, alpha=0.7, epsilon=0.5, **options):
    rng = np.random.default_rng(seed)
    mdp = TokenMDP.tree([rng.random((2 * 3**h, 3)) for h in range(3)], **options)
    expert = soft_optimal(mdp, alpha).policy
    return Instance(mdp, expert, nearby(expert, epsilon, rng), alpha)


def nearby(policy, epsilon, rng):
    logits = [
        np.where(np.isfinite(t), t + epsilon * rng.uniform(-1, 1, t.shape), t)
        for t in policy.log_probs
    ]
    return Policy.from_logits(policy.dynamics, logits)


def window(horizon, seed=0, alpha=0.4, epsilon=0.3):
    rng = np.random.default_rng(seed)
    sizes = [1, *[2] * (horizon - 1)]
    mdp = TokenMDP.window([rng.random((n, 2)) for n in sizes], 1)
    expert = soft_optimal(mdp, alpha).policy
    return Instance(mdp, expert, nearby(expert, epsilon, rng), alpha)


# --- Against the oracle ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=SLOW) for n in range(10, 90, 10))])
def test_doubles_hold_the_numbers_of_the_oracle(first):
    found = {
        seed: faults(extreme_instance(np.random.default_rng(seed)))
        for seed in range(first, first + 10)
    }
    assert not {seed: faulty for seed, faulty in found.items() if faulty}


@pytest.mark.parametrize("bits", [128, 512])
def test_balls_hold_the_numbers_of_the_oracle(bits):
    for seed in range(1000, 1012):
        assert not faults(extreme_instance(np.random.default_rng(seed), longest=3), bits), seed


def listed(instance, n=4):
    """The same instance, which compares a few responses only."""
    tokens = np.random.default_rng(0).integers(instance.mdp.vocab_size, size=(n, instance.horizon))
    return dataclasses.replace(instance, chosen_responses=Responses(np.zeros(n, dtype=int), tokens))


LONG = [
    BY_NAME[name]
    for name in (
        "soft-value",
        "telescoping",
        "irl-gap",
        "inverse-soft-q",
        "theorem-2-clone",
        "regularised-equality",
    )
]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=SLOW) for n in (1, 2))])
def test_long_tables_hold_the_numbers_of_the_oracle(seed):
    rng = np.random.default_rng(seed)
    alpha, epsilon = 10.0 ** rng.uniform(-2, 2), 10.0 ** rng.uniform(-9, 1)
    assert not faults(listed(one_state_layers(rng, 100, alpha, epsilon)))


@pytest.mark.slow
def test_widths_grow_no_faster_than_the_horizon():
    widths = {}
    for horizon in (100, 1000):
        instance = listed(one_state_layers(np.random.default_rng(1), horizon), 2)
        if horizon == 100:
            assert not faults(instance, statements=LONG)
        for statement in LONG:
            result = check(statement, instance)
            size = np.abs(result.ends).max()
            widths[statement.name, horizon] = (result.ends[1::2] - result.ends[0::2]).max() / size
    for statement in LONG:
        one, ten = (widths[statement.name, horizon] for horizon in (100, 1000))
        assert ten <= 12 * one, statement.name
    for name in ("soft-value", "telescoping"):
        assert widths[name, 1000] < 1e-10


# --- Planted violations ---------------------------------------------------------------------------


def planted(statement, delta, zero=False):
    """The statement, made false: relative to its sides, or by `delta` itself where they are
    zero.
    """
    if statement.equality:
        right = (
            (lambda i: statement.bound.of(i) + delta)
            if zero
            else (lambda i: statement.bound.of(i) * (1 + delta))
        )
    elif zero:
        right = lambda i: statement.quantity.of(i) - delta  # noqa: E731
    else:
        right = lambda i: statement.quantity.of(i) - delta * np.abs(statement.quantity.of(i))  # noqa: E731
    named = dataclasses.replace(statement, name=f"{statement.name}, off by {delta:g}")
    return changed(named, right=right)


def all_planted(statements, instance, deltas=(1.0, 1e-9, 1e-13)):
    """`planted` of each, absolute for the first, then relative where some side is certain not to be
    zero.
    """
    made = []
    for statement in statements:
        result = check(statement, instance, 256)
        low, high = (
            result.ends[2 if statement.equality else 0],
            result.ends[3 if statement.equality else 1],
        )
        counted = result.applies | result.uncertain
        zero = not (counted & ((low > 1e-30) | (high < -1e-30))).any()
        made += [planted(statement, delta, zero or delta == 1.0) for delta in deltas]
    return made


CASES = {
    "tree": lambda: small_tree(),
    "tree with ends": lambda: small_tree(1, alpha=0.05, eos=1, prompt_weights=[1.0, 0.0]),
    "tree with masks": lambda: small_tree(
        2, allowed=[np.array([[True, True, False]] * 2), None, None]
    ),
    "tree, nearly equal": lambda: small_tree(3, epsilon=1e-9),
    "window 1": lambda: window(1),
    "window 10": lambda: window(10),
    "window 82": lambda: window(82),
    "window 100": lambda: window(100),
    "window 1000": lambda: window(1000),
    "table 1": lambda: one_state_layers(np.random.default_rng(0), 1),
    "table 10": lambda: one_state_layers(np.random.default_rng(0), 10, alpha=1e-4),
    "table 82": lambda: one_state_layers(np.random.default_rng(0), 82),
    "table 100": lambda: one_state_layers(np.random.default_rng(0), 100),
    "table 1000": lambda: one_state_layers(np.random.default_rng(0), 1000),
}
case = cache(lambda name: CASES[name]())


LASTING = ("window 82", "window 100", "window 1000", "table 82", "table 100", "table 1000")


@pytest.mark.parametrize("name", [pytest.param(n, marks=SLOW * (n in LASTING)) for n in CASES])
def test_statements_hold_and_no_planted_violation_does(name):
    """All at once, since they have most of their quantities in common."""
    instance = case(name)
    made = all_planted(STATEMENTS, instance, (1.0, 1e-9, 1e-13))
    found = decide_each([*STATEMENTS, *made], [instance])
    for summary in found[: len(STATEMENTS)]:
        assert summary.verdict in ("holds", "does not apply"), (
            summary.statement.name,
            summary.reasons,
        )
    for summary in found[len(STATEMENTS) :]:
        applies = summary.verdict != "does not apply"
        assert summary.verdict == "violated" or not applies, (
            summary.statement.name,
            summary.reasons,
        )
        assert applies or summary.statement.when is not None, summary.statement.name


@pytest.mark.slow
def test_extreme_instances_are_never_judged_wrongly():
    """Where sides are the same number nothing separates them, and all that is left is a tiny
    difference.
    """
    for seed in range(2000, 2025):
        instance = extreme_instance(np.random.default_rng(seed), longest=3)
        size = max(1.0, *map(abs, instance.mdp.reward_range), instance.alpha, 1 / instance.alpha)
        made = all_planted(STATEMENTS, instance, (1.0, 1e-13))
        found = decide_each([*STATEMENTS, *made], [instance])
        for summary in found[: len(STATEMENTS)]:
            where = (seed, summary.statement.name, summary.reasons)
            assert summary.verdict != "violated", where
            if summary.verdict == "undecided":
                assert set(summary.reasons) == {TIED}, where
                assert summary.equal_within < size**2 * (
                    1e-130 if "pinsker" in where[1] else 1e-250
                ), where
        for summary in found[len(STATEMENTS) :]:
            assert summary.verdict in ("violated", "does not apply"), (
                seed,
                summary.statement.name,
                summary.reasons,
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: one_state_layers(np.random.default_rng(0), 3_000), id="table 3000"),
        pytest.param(lambda: window(10_000), id="window 10000"),
    ],
)
def test_thousands_of_layers(make):
    """Every statement as it stands, and moved by one part in ten trillion."""
    instance = make()
    made = [planted(statement, 1e-13) for statement in STATEMENTS]
    found = decide_each([*STATEMENTS, *made], [instance])
    for true, false in zip(found[: len(STATEMENTS)], found[len(STATEMENTS) :], strict=True):
        assert true.verdict in ("holds", "does not apply"), true.statement.name
        assert false.verdict == ("violated" if true.verdict == "holds" else "does not apply"), (
            true.statement.name
        )


def test_a_wrong_temperature_is_found():
    """Each side that contains α, at another one."""
    instance = case("tree")

    def doubled(i):
        return dataclasses.replace(i, alpha=i.alpha * 2.0)

    names = (
        "soft-value",
        "telescoping",
        "endogenous-telescoping",
        "irl-saddle",
        "irl-gap",
        "inverse-soft-q",
        "regularised-equality",
    )
    wrong = [
        changed(BY_NAME[n], right=lambda i, n=n: BY_NAME[n].bound.of(doubled(i))) for n in names
    ]
    assert {s.statement.name: s.verdict for s in decide_each(wrong, [instance])} == dict.fromkeys(
        names, "violated"
    )
    tight = indifferent_learner(6, 0.5)
    bound = BY_NAME["rl-expert"]
    less = changed(
        bound, right=lambda i: bound.bound.of(dataclasses.replace(i, alpha=i.alpha * (1 - 1e-9)))
    )
    assert decide(less, [tight]).verdict == "violated"
    assert decide(bound, [tight]).verdict != "violated"


def undecidable(i):
    """An assumption that is neither certain nor impossible, at any precision: an equality of
    inexact numbers.
    """
    return np.exp(i.temperature) == np.exp(i.temperature) * 1.0


# --- Assumptions ----------------------------------------------------------------------------------


def test_a_dropped_assumption_is_violated():
    """``V^{π_E} − V^{π_RL} ≤ Hε`` needs ``α(1 + tanh(ε/2)) ≤ R``."""
    instance = indifferent_learner(5, 1.2, vocab_size=5, low=3)
    statement = BY_NAME["theorem-2-rl"]
    assert decide(statement, [instance]).verdict == "does not apply"
    dropped = dataclasses.replace(statement, when=None)
    assert decide(dropped, [instance]).verdict == "violated"


@pytest.mark.slow
def test_without_its_assumption_no_false_statement_holds():
    """On instances that break them, what holds is what the oracle says of the bare claim."""
    of_pairs = ("theorem-1", "theorem-1-sharp", "preference-length")
    bare = [dataclasses.replace(s, when=None) for s in ASSUMED if s.name not in of_pairs]
    broken = 0
    for seed in range(3000, 3020):
        instance = extreme_instance(np.random.default_rng(seed), longest=3)
        oracle = Oracle(describe(instance))
        n = instance.mdp.dynamics.n_prompts
        for statement in bare:
            for bits in (53, 128):
                result = check(statement, instance, bits)
                codes = result.codes.reshape(n, -1)[:, 0]
                for prompt in oracle.prompts:
                    sides = oracle.sides(prompt)[statement.name]
                    if sides is None:
                        continue
                    if any(map(mpmath.isnan, sides)):
                        assert codes[prompt] != HOLDS, (seed, statement.name)
                        continue
                    broken += not oracle.applies(prompt)[statement.name]
                    with mpmath.workdps(90):
                        within = mpmath.mpf(10) ** -40 * max(
                            1, *(abs(x) for x in sides if mpmath.isfinite(x)), 1
                        )
                        apart = 0 if sides[0] == sides[1] else sides[0] - sides[1]
                        true = abs(apart) <= within if statement.equality else apart <= within
                    assert true or codes[prompt] != HOLDS, (seed, statement.name, bits, sides)
    assert broken > 20


def test_an_uncertain_assumption_decides_only_what_holds_anyway():
    instance = case("tree")
    true, false = (
        claim("uncertain", lambda i: i.clone_gap, right, when=undecidable)
        for right in (lambda i: i.clone_gap + 1.0, lambda i: i.clone_gap - 1.0)
    )
    held, broken = decide_each([true, false], [instance])
    assert held.verdict == "holds"
    assert (broken.verdict, broken.reasons) == ("undecided", {"its condition is undecided": 1})
    for bits in (53, 128):
        result = check(false, instance, bits)
        assert result.uncertain.all()
        assert not result.applies.any()


def test_an_assumption_that_is_met_exactly_is_no_violation():
    """``α(1 + tanh(ε/2)) = R`` at ``α = R = 1``, ``ε = 0``: what is violated there must not
    hold.
    """
    mdp = TokenMDP.tree([np.array([[0.25, 0.75]])])
    expert = soft_optimal(mdp, 1.0).policy
    statement = BY_NAME["theorem-2-rl"]
    found = decide_each(
        [statement, planted(statement, 1.0, zero=True)], [Instance(mdp, expert, expert, 1.0)]
    )
    assert found[0].verdict in ("holds", "undecided")
    assert found[1].verdict in ("violated", "undecided")
    even = TokenMDP.tree([np.array([[0.5, 0.5]])])
    expert = soft_optimal(even, 1.0).policy
    found = decide_each(
        [statement, planted(statement, 1.0, zero=True)], [Instance(even, expert, expert, 1.0)]
    )
    assert found[0].verdict in ("holds", "undecided")
    assert found[1].verdict in ("violated", "undecided")


# --- Faults that were found -----------------------------------------------------------------------


@pytest.mark.parametrize("horizon", [81, 82, 300])
def test_a_violation_does_not_become_holds_beyond_82_layers(horizon):
    rng = np.random.default_rng(0)
    links = [np.zeros((1, 2), dtype=int)] * (horizon - 1)
    mdp = TokenMDP.table([rng.random((1, 2))] * horizon, links)
    expert = soft_optimal(mdp, 0.3).policy
    instance = Instance(mdp, expert, worst_clone(mdp, expert, 0.5).policy, 0.3)
    names = ("irl-gap", "inverse-soft-q", "regularised-equality")
    off = [changed(BY_NAME[n], right=lambda i, n=n: BY_NAME[n].bound.of(i) + 1.0) for n in names]
    off += [
        planted(BY_NAME[n], 1.0, zero=True)
        for n in ("theorem-2-rl", "clone-hellinger", "clone-pinsker")
    ]
    assert [s.verdict for s in decide_each(off, [instance])] == ["violated"] * len(off)


@pytest.mark.slow
def test_soft_values_are_decided_at_long_horizons():
    statement = BY_NAME["soft-value"]
    off = changed(statement, right=lambda i: statement.bound.of(i) + 1.0)
    assert decide(statement, [one_state_layers(np.random.default_rng(0), 600)]).verdict == "holds"
    assert decide(off, [one_state_layers(np.random.default_rng(0), 5000)]).verdict == "violated"


def test_a_wrong_expert_is_refused():
    mdp = TokenMDP.random(2, 4, seed=0)
    other = soft_optimal(mdp, 0.2).policy
    with pytest.raises(ValueError, match="expert"):
        Instance(mdp, other, other, 1.0)
    flat = soft_optimal(TokenMDP.random(2, 4, seed=1), 1.0).policy
    with pytest.raises(ValueError, match="expert"):
        Instance(mdp, Policy(mdp.dynamics, flat.log_probs), flat, 1.0)
    nearly = Policy(mdp.dynamics, tuple(t + 1e-9 for t in soft_optimal(mdp, 1.0).policy.log_probs))
    with pytest.raises(ValueError, match="expert"):
        Instance(mdp, nearly, other, 1.0)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 40.0])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_how_far_an_expert_may_be_from_the_solvers(alpha, scale):
    """By 1e-13 for each nat of a value, a reward and a log-probability, and no further."""
    mdp = TokenMDP.tree([[[0.0, scale]], [[0.0, scale], [scale, 0.0]]], reward_range=(0, scale))
    expert = soft_optimal(mdp, alpha).policy
    log_p = expert.log_probs[0][0]
    soft_value = alpha * np.logaddexp(0.0, scale / alpha) * 2
    nats = 1.0 + 2 * (soft_value + scale) / alpha - log_p[0]
    for share, refused in ((0.98, False), (1.02, True)):
        moved = np.array([[log_p[0] - share * 1e-13 * nats, log_p[1]]])
        given = dataclasses.replace(expert, log_probs=(moved, *expert.log_probs[1:]))
        with pytest.raises(ValueError, match="expert: log π_E is") if refused else nullcontext():
            Instance(mdp, given, expert, alpha)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-8, 1e-10])
def test_divergences_of_nearly_equal_policies_keep_their_digits(epsilon):
    instance = small_tree(epsilon=epsilon)
    oracle = Oracle(describe(instance))
    with precision(53):
        exact = instance.enclosed(53)
        divergences = {name: getattr(exact, name) for name in ("kl_to_expert", "kl_from_expert")}
        divergences["squared_hellinger"] = squared_hellinger(exact.expert, exact.policy)
        for name, found in divergences.items():
            for prompt in oracle.prompts:
                number = oracle.quantities(prompt)[name]
                low, high = float(found.lower()[prompt]), float(found.upper()[prompt])
                assert low <= number <= high, (name, low, number, high)
                assert high - low < (1e-2 if epsilon < 1e-9 else 1e-4) * number, name


def test_a_divergence_is_infinite_where_the_expert_underflows():
    """`π_E` gives a token ``e^{−1000}``, a double's zero, and `π̂` none."""
    mdp = TokenMDP.tree([np.array([[0.0, 1.0]]), np.array([[0.0, 0.5], [0.5, 0.0]])])
    expert = soft_optimal(mdp, 1e-3).policy
    assert expert.log_probs[0].min() < -745
    policy = Policy.from_logits(mdp.dynamics, [np.array([[-np.inf, 0.0]]), np.zeros((2, 2))])
    instance = Instance(mdp, expert, policy, 1e-3)
    assert (float(instance.kl_from_expert), float(instance.epsilon)) == (INF, INF)
    assert math.isfinite(float(instance.kl_to_expert))
    for bits in (53, 128, 1024):
        assert not faults(instance, bits)
    found = {s.statement.name: s for s in decide_each(STATEMENTS, [instance])}
    for name in ("irl-gap", "inverse-soft-q"):
        assert found[name].verdict == "does not apply"
    for name in ("rl-anchored", "rl-anchored-renyi", "rl-average", "clone-pinsker", "kl-ball"):
        assert found[name].verdict == "holds", found[name].reasons


@pytest.mark.parametrize("bits", [53, 128])
def test_an_infinite_epsilon_is_vacuous(bits):
    """`π̂` lacks a token in the second layer: every bound in ε is infinite, and none is NaN."""
    instance = small_tree()
    tables = [np.array(t) for t in instance.policy.log_probs]
    tables[1][:, 2] = -np.inf
    lacking = dataclasses.replace(
        instance, policy=Policy.from_logits(instance.mdp.dynamics, tables)
    )
    for statement in STATEMENTS:
        result = check(statement, lacking, bits)
        assert not result.unknown[result.applies].any(), statement.name
        assert not result.uncertain.any(), statement.name
        assert set(np.unique(result.codes)) <= {0, HOLDS} or statement.equality or bits == 53, (
            statement.name
        )
        bound_in_epsilon = statement.name.startswith(
            ("theorem-2-clone", "clone-e", "clone-t", "rl-", "theorem-2-rl")
        )
        if bound_in_epsilon and statement.name not in ("clone-tv", "clone-elementary"):
            assert result.vacuous[result.applies].all(), statement.name
    for summary in decide_each(STATEMENTS, [lacking]):
        assert summary.verdict in ("holds", "does not apply"), (
            summary.statement.name,
            summary.reasons,
        )


def test_what_cannot_happen_does_not_count():
    """Policies that differ after a prompt of weight zero, and in a state that no response reaches,
    are the same law.
    """
    rng = np.random.default_rng(0)
    rewards = [rng.random((2, 2)), rng.random((3, 2))]
    mdp = TokenMDP.table(rewards, [np.array([[0, 0], [1, 1]])], prompt_weights=[1.0, 0.0])
    expert = soft_optimal(mdp, 0.5).policy
    tables = [np.array(t) for t in expert.log_probs]
    tables[0][1], tables[1][1:] = [-6.0, 0.0], [-np.inf, 0.0]
    instance = Instance(mdp, expert, Policy.from_logits(mdp.dynamics, tables), 0.5)
    assert float(instance.epsilon) < 1e-15
    assert float(instance.trajectory_tv) < 1e-15
    assert float(np.max(instance.pair_tv)) < 1e-15
    assert float(instance.kl_to_expert) < 1e-30
    assert not faults(instance)
    for summary in decide_each(STATEMENTS, [instance]):
        assert summary.verdict in ("holds", "undecided", "does not apply")
        assert set(summary.reasons) <= {TIED}
        assert not summary.vacuous_share > 0, summary.statement.name


def test_not_a_number_below_infinity_is_undecided():
    def nan(i):
        return i.clone_gap * NAN

    def inf(i):
        return i.clone_gap * 0.0 + INF

    instance = case("tree")
    pairs = [
        (nan, inf),
        (inf, nan),
        (nan, nan),
        (nan, lambda i: i.clone_gap),
        (lambda i: -inf(i), nan),
    ]
    for equality in (False, True):
        made = [
            claim(f"nan {k}", one, other, equality=equality) for k, (one, other) in enumerate(pairs)
        ]
        for summary in decide_each(made, [instance]):
            assert (summary.verdict, summary.reasons) == (
                "undecided",
                {"a side is not a number": 1},
            )
    nan_beside = claim("max", lambda i: i.clone_gap, lambda i: np.maximum(nan(i), inf(i)))
    assert decide(nan_beside, [instance]).verdict == "undecided"
    true = [
        claim("true", lambda i: i.clone_gap, inf),
        claim("same", inf, inf),
    ]
    assert [s.verdict for s in decide_each(true, [instance])] == ["holds", "holds"]
    false = claim("false", inf, lambda i: i.clone_gap)
    assert decide(false, [instance]).verdict == "violated"


def test_a_wide_reward_range_hides_no_difference():
    instance = small_tree(reward_range=(-1e17, 1e17))
    off = [
        changed(BY_NAME[name], right=lambda i, name=name: BY_NAME[name].bound.of(i) + 0.3)
        for name in ("soft-value", "telescoping", "irl-gap", "regularised-equality")
    ]
    assert {s.verdict for s in decide_each(off, [instance])} == {"violated"}


def test_functions_of_single_numbers_are_refused_by_name():
    """``math.sqrt`` would collapse an enclosure to a double: a true statement would be violated."""
    instance = case("tree")
    for collapse in (math.sqrt, float, lambda x: math.sqrt(x[0]), np.asarray):
        for left, right in ((np.sqrt, collapse), (collapse, np.sqrt)):
            statement = claim(
                "of one's own",
                lambda i, f=left: f(i.kl_to_expert),
                lambda i, f=right: f(i.kl_to_expert),
                unit="nats",
                equality=True,
            )
            with pytest.raises(TypeError) as raised:
                decide(statement, [instance])
            assert any("of one's own" in note for note in raised.value.__notes__)
    assumed = claim(
        "of one's own",
        lambda i: i.clone_gap,
        lambda i: i.clone_gap,
        when=lambda i: float(i.clone_gap) > 0,
    )
    with pytest.raises(TypeError) as raised:
        decide(assumed, [instance])
    assert raised.value.__notes__ == ['while condition of "of one\'s own" was evaluated']
    word = changed(assumed, left=lambda i: "a word", when=None)
    with pytest.raises(ValueError, match="a word") as raised:
        decide(word, [instance])
    assert "of one's own" in raised.value.__notes__[0]
    rooted = claim(
        "root",
        lambda i: np.sqrt(i.kl_to_expert),
        lambda i: i.kl_to_expert**2 / i.kl_to_expert,
    )
    equal = claim(
        "roots",
        lambda i: np.sqrt(i.kl_to_expert),
        lambda i: np.sqrt(i.kl_to_expert),
        unit="nats",
        equality=True,
    )
    assert decide(equal, [instance]).verdict == "holds"
    assert decide(rooted, [instance]).verdict == "violated"  # √x > x below one


# --- Bad input ------------------------------------------------------------------------------------


def with_entry(tables, value, layer=1):
    changed = [np.array(t) for t in tables]
    changed[layer][0, 1] = value
    return tuple(changed)


def test_bad_input_is_refused_by_name():
    good = case("tree")
    mdp, expert, policy, alpha = good.mdp, good.expert, good.policy, good.alpha
    other = TokenMDP.random(3, 2, seed=0)
    batch = TokenMDP.random(3, 3, batch=(2,), n_prompts=2, seed=0)
    batched = soft_optimal(batch, 0.7).policy
    for value in (NAN, INF, -INF):
        with pytest.raises(ValueError, match=r"rewards\[1\]"):
            dataclasses.replace(
                good, mdp=dataclasses.replace(mdp, rewards=with_entry(mdp.rewards, value))
            )
    for value in (NAN, INF):
        with pytest.raises(ValueError, match=r"policy.log_probs\[1\]"):
            dataclasses.replace(
                good, policy=Policy(mdp.dynamics, with_entry(policy.log_probs, value))
            )
        with pytest.raises(ValueError, match=r"expert.log_probs\[1\]"):
            dataclasses.replace(
                good, expert=Policy(mdp.dynamics, with_entry(expert.log_probs, value))
            )
    normalizers = [np.array(z) for z in policy.log_normalizers]
    normalizers[2][0] = NAN
    with pytest.raises(ValueError, match=r"policy.log_normalizers\[2\]"):
        dataclasses.replace(good, policy=Policy(mdp.dynamics, policy.log_probs, tuple(normalizers)))
    with pytest.raises(ValueError, match="policy: has other dynamics"):
        dataclasses.replace(good, policy=soft_optimal(other, 0.7).policy)
    with pytest.raises(ValueError, match="expert: has other dynamics"):
        dataclasses.replace(good, expert=soft_optimal(other, 0.7).policy)
    for value in (NAN, 0.0, -1.0, INF, "warm", None):
        with pytest.raises(ValueError, match="alpha"):
            dataclasses.replace(good, alpha=value)
    with pytest.raises(ValueError, match="expert"):
        dataclasses.replace(good, alpha=alpha * 1.001)
    with pytest.raises(ValueError, match="batch axes do not broadcast"):
        Instance(batch, batched, batched, np.full(3, 0.7))
    for name in ("left", "right", "when", "ceiling"):
        sides = {"left": lambda i: 0.0, "right": lambda i: 0.0} | {name: 3.0}
        with pytest.raises(ValueError, match=r"=3\.0 must be a function of an instance"):
            claim("mine", **sides)
    with pytest.raises(ValueError, match="quantity 'right': of=None"):
        claim("mine", lambda i: 0.0, None)
    for empty in ([], iter(())):
        with pytest.raises(ValueError, match="instances is empty"):
            decide(BY_NAME["soft-value"], empty)


def test_rewards_that_are_no_doubles_are_refused_and_not_rounded():
    if np.finfo(np.longdouble).nmant == np.finfo(float).nmant:
        pytest.skip("long doubles are doubles here")
    mdp = TokenMDP.tree([np.array([[1, 2]], np.longdouble) / 3])
    expert = soft_optimal(mdp, 0.5).policy
    with pytest.raises(ValueError, match="not a double"):
        decide(BY_NAME["soft-value"], [Instance(mdp, expert, expert, 0.5)])


# --- Two precisions -------------------------------------------------------------------------------


def test_a_side_that_depends_on_the_precision_is_a_contradiction():
    def moving(i):
        return i.clone_gap + (1.0 if isinstance(i.clone_gap, Doubles) else 0.0)

    instance = case("tree")
    for equality in (False, True):
        statement = claim("of the precision", moving, lambda i: i.clone_gap, equality=equality)
        with pytest.raises(Contradiction, match="of the precision"):
            decide(statement, [instance])


def test_a_statement_may_be_read_at_any_precision():
    """The same verdict of every precision that decides."""
    instance = case("tree")
    for statement in (*STATEMENTS, *all_planted(STATEMENTS, instance, (1e-9,))):
        decided = {check(statement, instance, bits).verdict for bits in (53, 128, 256, 512)} - {
            "undecided"
        }
        assert len(decided) == 1, statement.name


def test_rewards_far_above_the_temperature_are_decided():
    """Returns of 1e24 temperatures: exponents whose rounding alone is 1e8."""
    rng = np.random.default_rng(0)
    mdp = TokenMDP.tree(
        [rng.random((1, 2)) * 1e12, rng.random((2, 2)) * 1e12], reward_range=(0.0, 1e12)
    )
    expert = soft_optimal(mdp, 1e-12).policy
    instance = Instance(mdp, expert, nearby(expert, 1.0, rng), 1e-12)
    for summary in decide_each(STATEMENTS, [instance]):
        assert summary.verdict != "violated", summary.statement.name
        assert set(summary.reasons) <= {TIED}, (summary.statement.name, summary.reasons)


def test_an_expert_of_twice_the_temperature_is_refused_where_values_are_huge():
    """The tolerance grows with the values and with the log-probabilities, and not with their
    product.
    """
    rng = np.random.default_rng(0)
    mdp = TokenMDP.tree([1e6 * rng.random((2**h, 2)) for h in range(4)], reward_range=(0, 1e6))
    wrong = soft_optimal(mdp, 2e-6).policy
    with pytest.raises(ValueError, match="expert: log π_E is"):
        Instance(mdp, wrong, wrong, 1e-6)
