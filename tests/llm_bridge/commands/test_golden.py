"""Every number that ``check``, ``verify``, ``score`` and ``ppo`` write of the model that comes with
the package, against an oracle that reads plain logits and shares no other code.

A number that no oracle has is a failure, so that a new field comes with one.
"""

import contextlib
import copy
import io
import itertools
import json
import math
import re
import statistics
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
mpmath = pytest.importorskip("mpmath")


from mpmath import mpf
from reference import Description, Oracle, describe, tv_randomised_response

from llm_bridge.commands.main import main
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.load import EXAMPLE
from llm_bridge.tasks.generated import sorting
from llm_bridge.tasks.named import TASKS
from theory.claims.findings import Group
from theory.claims.instance import Instance
from theory.claims.statements import STATEMENTS
from theory.mdp.responses import sample_log_ratio_ball
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal
from theory.studies import groups, sweep

ALPHA = 0.7
EXPERT_TEMPERATURE = 0.9
HORIZON = 2
PROMPTS = ("A", "B")
V = 6

NOT_RESULTS = ("environment", "arguments", "run", "exit_code", "alpha", "token ids")
"""Keys whose numbers are input, or of the machine."""

NOT_FINITE = ("nan", "inf", "-inf")
"""How numbers are written that JSON has no other word for."""


def numbers(tree, path=()):
    """Path and value of every number in a file of JSON, texts and settings left out."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in NOT_RESULTS:
                yield from numbers(value, (*path, key))
    elif isinstance(tree, list):
        for k, value in enumerate(tree):
            yield from numbers(value, (*path, k))
    elif (isinstance(tree, int | float) and not isinstance(tree, bool)) or tree in NOT_FINITE:
        yield path, float(tree)


def assert_all(written, expected, rel=2e-5, abs=2e-7):
    """Every number is expected, and is what is expected: a number, or a test of it."""
    found = dict(numbers(written))
    assert sorted(found.keys() - expected.keys(), key=str) == [], "numbers that no oracle has"
    assert sorted(expected.keys() - found.keys(), key=str) == [], "numbers that are not written"

    def agrees(value, want):
        if callable(want):
            return want(value)
        return value == pytest.approx(want, rel=rel, abs=abs, nan_ok=True)

    wrong = {
        path: (x, expected[path]) for path, x in found.items() if not agrees(x, expected[path])
    }
    assert not wrong


# --- Plain logits ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logits():
    """``logits(tokens)`` of the token after a prefix: a pass of the whole row, ``(V,)``."""
    model = transformers.AutoModelForCausalLM.from_pretrained(EXAMPLE, dtype=torch.float32).eval()

    def read(tokens):
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0, -1].double().numpy()

    return read


@pytest.fixture(scope="module")
def prompt_ids():
    tokenizer = transformers.AutoTokenizer.from_pretrained(EXAMPLE)
    return [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]


def log_sum(row):
    return float(np.logaddexp.reduce(row))


@pytest.fixture(scope="module")
def tables(logits, prompt_ids):
    """Logits of both policies by layer, ``(2·V^h, V)``: prefixes in order."""
    model = [
        np.array(
            [
                logits([*prompt, *prefix])
                for prompt in prompt_ids
                for prefix in itertools.product(range(V), repeat=h)
            ]
        )
        for h in range(HORIZON)
    ]
    return model, [table / EXPERT_TEMPERATURE for table in model]


@pytest.fixture(scope="module")
def description(tables):
    """The problem that `check` puts to the statements, from plain logits."""
    policy, expert = tables
    V_E = [np.array([log_sum(row) for row in table]) for table in expert] + [None]
    rewards = []
    for h, table in enumerate(expert):
        later = 0.0 if V_E[h + 1] is None else V_E[h + 1].reshape(table.shape)
        rewards.append(ALPHA * (table - later))
    everything = np.concatenate([r.ravel() for r in rewards])
    return Description(
        rewards=rewards,
        next_states=[np.arange(2 * V ** (h + 1)).reshape(-1, V) for h in range(HORIZON - 1)],
        log_probs=policy,
        alpha=ALPHA,
        prompt_weights=(0.5, 0.5),
        reward_range=(everything.min(), everything.max()),
        log_normalizers=[[log_sum(row) for row in table] for table in policy],
    )


# --- Statements -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(description):
    return Oracle(description, 30)


def elements(oracle, prompt, statement):
    """Left side, right side and ceiling of each element of a prompt; none where it does not
    apply.
    """
    if not oracle.applies(prompt)[statement.name]:
        return []
    left, right = (
        [float(x) for x in (side if isinstance(side, list) else [side])]
        for side in oracle.sides(prompt)[statement.name]
    )
    ceiling = math.inf
    if statement.quantity.unit == "probability":
        ceiling = 1.0
    elif statement.quantity.ceiling is not None:
        ceiling = float(oracle.greatest_return[prompt] - oracle.least_return[prompt])
    return [(a, b, ceiling) for a, b in zip(left, right, strict=True)]


def finding(problems, statement):
    """Numbers of a finding, of oracles and their prompts: each is a problem with a gauge, and
    policies that differ.
    """
    rows = [elements(*problem, statement) for problem in problems]
    missing = sum(not row for row in rows)
    rows = [row for row in rows if row]
    flat = [element for row in rows for element in row]
    if statement.equality:
        tested = len(rows)
        least, left, right, ratio = 0.0, math.isfinite, math.isfinite, math.nan
    else:
        tested = sum(any((a > 1e-12 or b < -1e-12) and b < c for a, b, c in row) for row in rows)
        left, right, _ = min(flat, key=lambda row: row[1] - row[0])
        least = right - left
        ratio = max((a / b for a, b, _ in flat if b > 0), default=math.nan)
    can_be_vacuous = statement.quantity.ceiling is not None and not statement.equality
    counts = {"holds": len(rows), "does not apply": missing}
    return {("outcomes", name): n for name, n in counts.items() if n} | {
        "instances": len(rows),
        "tested": tested,
        "applies": len(rows) / len(problems),
        "mean_left": statistics.fmean(max(a for a, _, _ in row) for row in rows),
        "mean_right": statistics.fmean(max(b for _, b, _ in row) for row in rows),
        "worst_ratio": ratio,
        "smallest_slack": least,
        "left": left,
        "right": right,
        "error_bound": lambda x: 0 <= x < 1e-9,
        "vacuous_share": statistics.fmean(b >= c * (1 - 1e-9) for _, b, c in flat)
        if can_be_vacuous
        else math.nan,
        "certified": len(rows) if statement.equality else 0,
        "equal_within": (lambda x: 0 <= x < 1e-30) if statement.equality else math.nan,
    }


def findings(problems, at):
    return {
        (*at, statement.name, *(key if isinstance(key, tuple) else (key,))): value
        for statement in STATEMENTS
        for key, value in finding(problems, statement).items()
    }


# --- Two policies, by every response --------------------------------------------------------------


def softmax(rows):
    rows = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return rows / rows.sum(axis=-1, keepdims=True)


def kl(one, two):
    return float(one @ np.log(one / two))


class Laws:
    """Both policies and the expert's return on one prompt, of two tokens each: ``(V²,)``."""

    def __init__(self, policy, expert, prompt):
        self.rows = [
            [softmax(tables[0][prompt]), softmax(tables[1].reshape(-1, V, V)[prompt])]
            for tables in (expert, policy)
        ]
        self.expert, self.policy = ((first[:, None] * then).ravel() for first, then in self.rows)
        begin, then = expert[0][prompt], expert[1].reshape(-1, V, V)[prompt]
        after = np.array([log_sum(row) for row in then])
        self.rewards = [ALPHA * (begin - after), ALPHA * then]
        self.returns = (self.rewards[0][:, None] + self.rewards[1]).ravel()
        first, second = (np.abs(np.log(e / p)) for e, p in zip(*self.rows, strict=True))
        self.ratios = np.concatenate([first, second.ravel()])
        self.epsilon = self.ratios.max()
        masses = [np.concatenate([row, law]) for (row, _), law in self._both()]
        self.visited = self.ratios[np.maximum(*masses) >= 1e-3].max()
        self.mass = masses[0] / HORIZON
        first = self.rows[1][0].argmax()
        self.greedy = first * V + self.rows[1][1][first].argmax()

    def _both(self):
        return zip(self.rows, (self.expert, self.policy), strict=True)

    def quantile(self, share):
        """The least ratio that no more than the rest of the expert's tokens exceed."""
        return min(x for x in self.ratios if self.mass[self.ratios > x].sum() <= 1 - share)

    def power(self, exponent):
        return self.policy**exponent / (self.policy**exponent).sum()

    def loss(self, value):
        return self.expert @ self.returns - value


class Ball:
    """The worst of all policies within a radius of the expert, row by row at a vertex."""

    def __init__(self, laws, radius):
        first, then = laws.rows[0]
        rewards, later = laws.rewards
        bounds = [(row * np.exp(-radius), np.minimum(row * np.exp(radius), 1)) for row in then]
        vertices = [list(_vertices(low, high)) for low, high in bounds]
        low, high = first * np.exp(-radius), np.minimum(first * np.exp(radius), 1)
        begin = list(_vertices(low, high))
        worth = np.array([min(q @ r for q in at) for at, r in zip(vertices, later, strict=True)])
        self.cloning = laws.loss(min(q @ (rewards + worth) for q in begin))
        far = np.array([max(kl(q, p) for q in at) for at, p in zip(vertices, then, strict=True)])
        self.divergence = max(kl(q, first) + q @ far for q in begin)
        self.least_return = min(
            rewards[a] + later[a, b]
            for a in range(V)
            for b in range(V)
            if _can_be_the_most_probable(a, b, (low, high), bounds)
        )


def _vertices(low, high):
    """Rows of the ball in which all tokens but one are at an end."""
    for free in range(len(low)):
        for ends in itertools.product((0, 1), repeat=len(low) - 1):
            row = np.insert(np.where(ends, np.delete(high, free), np.delete(low, free)), free, 0.0)
            row[free] = 1 - row.sum()
            if low[free] - 1e-12 <= row[free] <= high[free] + 1e-12 and row[free] > 0:
                yield row


def _top(low, high, token):
    """The most that a token can have."""
    return min(high[token], 1 - np.delete(low, token).sum())


def _can_be_the_most_probable(a, b, first, then):
    """Whether a policy of the ball writes ``(a, b)`` at least as often as every other response."""
    up, last = _top(*first, a), _top(*then[a], b)
    mine = up * last
    low, high = then[a]
    rest = np.minimum(np.delete(high, b), last)
    if (np.delete(low, b) > last * (1 + 1e-12)).any() or rest.sum() < (1 - last) * (1 - 1e-12):
        return False
    most = np.array([mine / _least_maximum(*bounds) for bounds in then])
    low, high = (np.delete(end, a) for end in first)
    limit = np.minimum(high, np.delete(most, a))
    return bool((limit >= low * (1 - 1e-12)).all() and limit.sum() >= (1 - up) * (1 - 1e-12))


def _least_maximum(low, high):
    """The least that the largest probability of a row can be, by bisection."""
    below, above = 0.0, 1.0
    for _ in range(80):
        level = (below + above) / 2
        enough = np.clip(level, low, high).sum() >= 1
        below, above = (below, level) if enough else (level, above)
    return max(above, low.max())


# --- The commands ---------------------------------------------------------------------------------


def printed(*words):
    """What a command prints, after it ended well."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert main([*map(str, words)]) == 0
    return text.getvalue()


def rows_of(text):
    """Cells of every line of a table, by the first cell; the last of a name counts."""
    lines = (re.split(r"\s{2,}", line.strip()) for line in text.splitlines())
    return {cells[0]: cells[1:] for cells in lines if len(cells) > 2}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    out = tmp_path_factory.mktemp("check")
    words = ["check", "--model", "letters", "--expert-temperature", EXPERT_TEMPERATURE]
    words += ["--alpha", ALPHA, "--horizon", HORIZON, "--out", out]
    words += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    text = printed(*words, "--verbose")
    return json.loads((out / "check.json").read_text()), text


def test_check(checked, oracle, tables):
    checked, _ = checked
    laws = [Laws(*tables, prompt) for prompt in range(len(PROMPTS))]
    expected = findings([(oracle, prompt) for prompt in oracle.prompts], ("exact", "statements"))
    expected["exact", "prompts"] = len(PROMPTS)

    def put(*path, each):
        expected[path] = statistics.fmean(each(law) for law in laws)

    close = ("exact", "closeness")
    put(*close, "epsilon_pi", each=lambda law: law.epsilon)
    expected[*close, "epsilon_pi, largest of a prompt"] = max(law.epsilon for law in laws)
    put(*close, "epsilon of tokens in 0.001 of the responses", each=lambda law: law.visited)
    for share in (50, 90, 99):
        name = f"{share}% of the expert's tokens within"
        put(*close, name, each=lambda law, share=share: law.quantile(share / 100))
    put(*close, "KL(pi_E||pi_hat)", each=lambda law: kl(law.expert, law.policy))
    put(*close, "KL(pi_hat||pi_E)", each=lambda law: kl(law.policy, law.expert))
    gaps = ("exact", "gaps")
    put(*gaps, "sampling pi_hat", each=lambda law: law.loss(law.policy @ law.returns))
    put(*gaps, "greedy decoding", each=lambda law: law.loss(law.returns[law.greedy]))
    squared = "pi_hat^2, the anchored optimum at beta = alpha"
    put(*gaps, squared, each=lambda law: law.loss(law.power(2) @ law.returns))
    map_response = "pi_RL, the most probable response"
    put(*gaps, map_response, each=lambda law: law.loss(law.returns[law.policy.argmax()]))
    put(*gaps, "best policy", each=lambda law: law.loss(law.returns.max()))
    put(*gaps, "range of the return", each=lambda law: np.ptp(law.returns))
    for name, radius in (
        ("epsilon_pi", lambda law: law.epsilon),
        ("epsilon visited", lambda law: law.visited),
        ("median", lambda law: law.quantile(0.5)),
    ):
        worst = ("exact", "worst", name)
        put(*worst, "radius", each=radius)
        balls = [Ball(law, radius(law)) for law in laws]
        expected[*worst, "cloning"] = statistics.fmean(ball.cloning for ball in balls)
        played = statistics.fmean(ball.least_return for ball in balls)
        value = statistics.fmean(law.expert @ law.returns for law in laws)
        best = statistics.fmean(law.returns.max() for law in laws)
        expected[*worst, "RL, against pi_E"] = value - played
        expected[*worst, "RL, against the best"] = best - played
        expected[*worst, "KL(pi_hat||pi_E)"] = statistics.fmean(ball.divergence for ball in balls)
    assert_all(checked, expected | of_facts(facts_of(oracle, laws)))


def test_check_prints_what_it_writes(checked):
    written, text = checked
    rows = rows_of(text)
    for name, found in written["exact"]["statements"].items():
        ends = [f"{found[side]:.5g}" for side in ("mean_left", "mean_right")]
        assert rows[name][:3] == [*ends, found["verdict"]]
    for table in ("closeness", "gaps"):
        for x in written["exact"][table].values():
            assert f" {x:.5g}\n" in text
    for name, worst in written["exact"]["worst"].items():
        *_, cells = [line.split() for line in text.splitlines() if f"{worst['radius']:.5g}" in line]
        assert cells[-5:] == [f"{x:.5g}" for x in worst.values()], name


def facts_of(oracle, laws):
    """What is said of a model's tree and its policies."""

    def mean(each):
        return statistics.fmean(each(law) for law in laws)

    return {
        "horizon, tokens, prefixes": (HORIZON, V, len(PROMPTS) * (V + V**2)),
        "mass outside the tokens, at most": 0.0,
        "expert's mass outside the tokens, at most": 0.0,
        "reward range": oracle.given.reward_range,
        "epsilon_pi (nats), at most": max(law.epsilon for law in laws),
        "KL(pi_E||pi_hat), KL(pi_hat||pi_E) (nats)": (
            mean(lambda law: kl(law.expert, law.policy)),
            mean(lambda law: kl(law.policy, law.expert)),
        ),
        "plain values of pi_E, pi_hat, pi_RL, best": (
            mean(lambda law: law.expert @ law.returns),
            mean(lambda law: law.policy @ law.returns),
            mean(lambda law: law.returns[law.policy.argmax()]),
            mean(lambda law: law.returns.max()),
        ),
        "largest preference error (TV)": max(
            float(max(oracle.sides(prompt)["theorem-1"][0])) for prompt in oracle.prompts
        ),
    }


def of_facts(facts, at=()):
    """Paths of facts, those of several numbers one by one."""
    found = {}
    for name, value in facts.items():
        if isinstance(value, tuple):
            found |= {(*at, "facts", name, k): float(x) for k, x in enumerate(value)}
        else:
            found[*at, "facts", name] = float(value)
    return found


# --- verify ---------------------------------------------------------------------------------------

RADIUS = 0.3
HORIZONS = (2, 3, 5)
RADII = (0.01, 3.0)


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """The model beside four random problems of two tokens, and short curves."""
    out = tmp_path_factory.mktemp("verify")
    rng = np.random.default_rng(0)
    mdp = TokenMDP.random(2, 2, batch=(4,), seed=rng)
    expert = soft_optimal(mdp, 0.5).policy
    policy = sample_log_ratio_ball(expert, 0.8, rng)
    gauge = tuple(rng.normal(size=(4, n)) for n in (1, 2))
    random = Instance(mdp, expert, replace(policy, log_normalizers=gauge), 0.5)
    words = ["verify", "--model", "letters", "--expert-temperature", EXPERT_TEMPERATURE]
    words += ["--alpha", ALPHA, "--horizon", HORIZON, "--instances", 4, "--processes", 1]
    words += [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    few = [Group("random", [random], {"alpha": (0.5,)}, STATEMENTS)]
    long = partial(sweep.horizon_curve, HORIZONS, alpha=ALPHA, vocab_size=2, epsilon=RADIUS)
    pairs = partial(sweep.preference_curve, alpha=ALPHA, horizon=2, vocab_size=2, points=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "exact_groups", lambda *_, **__: few)
        patch.setattr(sweep, "horizon_curve", long)
        patch.setattr(sweep, "preference_curve", pairs)
        text = printed(*words, "--verbose", "--out", out)
    return json.loads((out / "report.json").read_text()), random, text


def test_verify(verified, oracle, tables):
    report, random, _ = verified
    own = [(oracle, prompt) for prompt in oracle.prompts]
    others = [(Oracle(describe(random.take(k)), 30), 0) for k in range(4)]
    laws = [Laws(*tables, prompt) for prompt in range(len(PROMPTS))]
    expected = {("groups", 0, "instances"): 4, ("groups", 1, "instances"): len(PROMPTS)}
    expected |= findings(others, ("groups", 0, "statements"))
    expected |= findings(own, ("groups", 1, "statements"))
    expected |= of_facts(facts_of(oracle, laws), ("groups", 1)) | of_facts({"seed": 0})
    expected |= of_curve("horizon", horizon_curve()) | of_curve("preference", preference_curve())
    assert_all(report, expected)


def test_verify_prints_what_it_writes(verified):
    written, _, text = verified
    *_, first, second, attained = re.split(r"\n(?=random\n|letters against|attained)", text)
    tables = rows_of(first), rows_of(second)
    fractions = rows_of(attained)
    for k, group in enumerate(written["groups"]):
        for name, found in group["statements"].items():
            tested, ratio, slack, verdict, _ = tables[k][name]
            assert (tested, verdict) == (str(found["tested"]), found["verdict"])
            assert float(slack) == pytest.approx(found["smallest_slack"], rel=6e-3, abs=1e-30)
            if found["relation"] == "≤":
                shown = "–" if found["worst_ratio"] == "nan" else f"{found['worst_ratio']:.4g}"
                assert (ratio, fractions[name][k]) == (shown, shown), name


def of_curve(name, curve):
    found = {}
    for key, values in curve.items():
        if isinstance(values, list | tuple):
            found |= {("curves", name, key, k): value for k, value in enumerate(values)}
        else:
            found["curves", name, *(key if isinstance(key, tuple) else (key,))] = values
    return found


def horizon_curve():
    """Each curve by plain sums, and by the worst side of every state."""
    tv = {h: float(tv_randomised_response(h, mpf(RADIUS))) for h in range(1, max(HORIZONS) + 1)}
    worst = [max((coin_payoff_loss(h, x), x) for x in sweep.COIN_FRACTIONS) for h in HORIZONS]
    swapped = [h * 0.999 * min(2 * ALPHA * RADIUS, ALPHA * math.log(2), 1) for h in HORIZONS]
    curves = {
        "clone": [loss for loss, _ in worst],
        "clone_paper": [h**2 * RADIUS for h in HORIZONS],
        "clone_composition": [h * tv[h] for h in HORIZONS],
        "clone_stepwise": [sum(tv[k] for k in range(1, h + 1)) for h in HORIZONS],
        "clone_three_halves": [h**1.5 * RADIUS / 2 for h in HORIZONS],
        "rl": swapped,
        "rl_bound": [2 * ALPHA * h * RADIUS for h in HORIZONS],
        "rl_paper": [h * RADIUS for h in HORIZONS],
        "coin_fractions": [x for _, x in worst],
        "horizons": list(HORIZONS),
        "epsilons": [RADIUS] * len(HORIZONS),
    }
    own = {"vocab_size": 2, "epsilon": RADIUS}
    for name in ("clone", "rl"):
        x, y = np.log(HORIZONS), np.log(np.array(curves[name]) / RADIUS)
        (slope, _), (residual, *_), *_ = np.polyfit(x, y, 1, full=True)
        student = math.tan(math.pi * 0.475)  # 97.5 % of one degree of freedom
        own["exponents", name, "slope"] = slope
        own["exponents", name, "half_width"] = student * math.sqrt(residual / x.var() / len(x))
        own["local_exponents", name] = (y[-1] - y[-2]) / (x[-1] - x[-2])
    assert all(a < b for a, b in zip(curves["clone"], curves["rl_bound"], strict=True))
    return curves | own  # and no crossover


def coin_payoff_loss(horizon, fraction):
    """``V^{π_E} − min V^π̂`` of two tokens, step by step: coins, then what the majority pays."""
    coins = round(fraction * horizon)
    pays = 1 / (1 + math.exp(-1 / ALPHA))
    level = ALPHA * math.log((math.exp(1 / ALPHA) + 1) / 2)

    def worst(probs, worths):
        low, high = np.array(probs) * np.exp([[-RADIUS], [RADIUS]])
        return min(q @ worths for q in _vertices(low, np.minimum(high, 1)))

    def values(step, heads):
        """Of `π_E` and of the worst policy."""
        if step == horizon:
            return 0.0, 0.0
        if step < coins:
            after = [values(step + 1, heads + side) for side in (0, 1)]
            expert, others = zip(*after, strict=True)
            return sum(expert) / 2, worst((0.5, 0.5), np.array(others))
        won = 2 * heads > coins or (2 * heads == coins and (step - coins) % 2 == 0)
        own = (pays, worst((1 - pays, pays), np.array([0.0, 1.0]))) if won else (level, level)
        later = values(step + 1, heads)
        return own[0] + later[0], own[1] + later[1]

    expert, least = values(0, 0)
    return expert - least


def preference_curve():
    """The greatest error of any pair, each state's row at either end of the ball."""
    rewards = TokenMDP.random(2, 2, seed=np.random.default_rng(0)).rewards
    after = ALPHA * np.logaddexp(*(rewards[1] / ALPHA).T)
    rows = [softmax((rewards[0][0] + after) / ALPHA), *softmax(rewards[1] / ALPHA)]
    returns = (rewards[0][0][:, None] + rewards[1]).ravel()
    worst = []
    for radius in RADII:
        ends = [
            list(_vertices(r * np.exp(-radius), np.minimum(r * np.exp(radius), 1))) for r in rows
        ]
        found = 0.0
        for first, *then in itertools.product(*ends):
            logs = ALPHA * np.log(first[:, None] * then).ravel()
            for a, b in itertools.combinations(range(4), 2):
                true, read = (1 / (1 + math.exp(x[b] - x[a])) for x in (returns, logs))
                found = max(found, abs(true - read))
        worst.append(found)
    return {
        "horizon": 2,
        "epsilons": RADII,
        "worst": worst,
        "sampled": [lambda x, most=most: 0 < x <= most for most in worst],
        "paper": [ALPHA * radius for radius in RADII],
        "sharp": [math.tanh(ALPHA * radius) for radius in RADII],
    }


# --- Scores ---------------------------------------------------------------------------------------

PAIRS = (("A", "cadd", "bb"), ("B", "dca", "adda"), ("A", "c", "d"))
"""Prompt, chosen, rejected: of the first prompt's two comparisons the model orders one right."""


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    out = tmp_path_factory.mktemp("score")
    rows = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in PAIRS]
    (out / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", "--model", "letters", "--pairs", out / "pairs.jsonl", "--alpha", ALPHA]
    return out / "run", printed(*words, "--out", out / "run")


def written_response(logits, prompt, text):
    """Rewards and log-probabilities of a text's tokens, of plain logits."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(EXAMPLE)
    before, tokens = (tokenizer(x, add_special_tokens=False)["input_ids"] for x in (prompt, text))
    rows = [logits([*before, *tokens[:h]]) for h in range(len(tokens))]
    values = [log_sum(row) for row in rows] + [0.0]
    chosen = [row[token] for row, token in zip(rows, tokens, strict=True)]
    return {
        "tokens": tokens,
        "rewards": [ALPHA * (x - after) for x, after in zip(chosen, values[1:], strict=True)],
        "log_probs": [x - own for x, own in zip(chosen, values, strict=False)],
        "value": ALPHA * values[0],
    }


def test_score_of_each_response(scored, logits):
    scored, _ = scored
    lines = [json.loads(line) for line in (scored / "responses.jsonl").read_text().splitlines()]
    texts = [(prompt, text) for prompt, *pair in PAIRS for text in pair]
    assert len(lines) == len(texts)
    for line, (prompt, text) in zip(lines, texts, strict=True):
        own = written_response(logits, prompt, text)
        expected = {("index",): 0, ("tokens",): len(text), ("end_value",): 0.0}
        expected |= {("reward_sum",): sum(own["rewards"]), ("log_prob",): sum(own["log_probs"])}
        expected["soft_value_prompt",] = own["value"]
        for name, key in (("token_ids", "tokens"), ("rewards",) * 2, ("log_probs",) * 2):
            expected |= {(name, k): float(x) for k, x in enumerate(own[key])}
        assert_all(line, expected, abs=2e-6)


def test_score_summary(scored, logits):
    scored, text = scored
    summary = json.loads((scored / "summary.json").read_text())
    expected = {("facts", "seed of the bootstrap"): 0}
    expected |= {("comparisons",): 3, ("comparisons_cut",): 0, ("comparisons_waiting",): 0}
    responses = [
        [written_response(logits, prompt, text) for text in pair] for prompt, *pair in PAIRS
    ]
    measures = {
        "sum": lambda own: sum(own["rewards"]),
        "mean": lambda own: statistics.fmean(own["rewards"]),
        "logprob": lambda own: sum(own["log_probs"]),
        "logprob_mean": lambda own: statistics.fmean(own["log_probs"]),
    }
    lengths = [tuple(map(len, pair)) for _, *pair in PAIRS]
    shorter = [won(-one, -two) for one, two in lengths]
    for name, measure in measures.items():
        right = [won(*map(measure, pair)) for pair in responses]
        settings = {"tolerance": 0.1, "resamples": 2000, "seed": 0, "confidence": 0.95}
        expected |= {("scores", name, key): value for key, value in settings.items()}
        for at in (("scores", name), ("scores", name, "subsets", "pairs")):
            expected |= accuracies(at, right, shorter)
        value, low, high = (expected["scores", name, "accuracy", x] for x in ENDS)
        wins = f"{value:.3f} [{low:.3f}, {high:.3f}]  {right[2]:.3f} (1)"
        assert re.search(rf" {name} .* {re.escape(wins)}", text), name
    assert_all(summary, expected)


ENDS = ("value", "low", "high")


def won(one, two):
    return float(one > two) if one != two else 0.5


def interval(at, wins):
    """Mean over comparisons; of two prompts resampled whole, either one alone is a quarter of the
    draws, so that the ends of the interval are the means of one prompt.
    """
    of_prompt = [statistics.fmean((wins[0], wins[2])), wins[1]]
    low = 0.025**0.5 if min(wins) == max(wins) == 1 else min(of_prompt)  # p² = 0.025
    return {
        (*at, "value"): statistics.fmean(wins),
        (*at, "low"): low,
        (*at, "high"): max(of_prompt),
    }


def accuracies(at, right, shorter):
    expected = {(*at, "comparisons"): 3, (*at, "pairs"): 3, (*at, "ties"): 0}
    expected |= interval((*at, "accuracy"), right)
    null = (*at, "nulls", "random", "accuracy")
    expected |= {(*null, "value"): 0.5, (*null, "low"): 0.0, (*null, "high"): 1.0}
    for unit in ("characters", "tokens"):  # a token is a character
        for which, wins in (("shorter", shorter), ("longer", [1 - x for x in shorter])):
            null = (*at, "nulls", f"{which} ({unit})")
            above = [x - y for x, y in zip(right, wins, strict=True)]
            expected |= interval((*null, "accuracy"), wins)
            expected |= interval((*null, "accuracy_above"), above)
        matched = (*at, "length_controlled", unit, "matched")  # the third, one token each
        expected |= {(*matched, "comparisons"): 1, (*matched, "pairs"): 1}
        low, high = (0.025, 1.0) if right[2] == 1 else (0.0, 0.975)  # p^1 = 0.025
        expected |= {
            (*matched, "value"): right[2],
            (*matched, "low"): low,
            (*matched, "high"): high,
        }
        if all(x == 1 for x in right):  # a regression on nothing but wins
            expected[*at, "length_controlled", unit, "logistic", "value"] = 1.0
        half = {"value": 0.5, "low": 0.025 / 2, "high": 1 - 0.025 / 2}
        expected |= {(*matched, "shorter", key): value for key, value in half.items()}
    return expected


# --- PPO ------------------------------------------------------------------------------------------

BETA = 0.3
LAMBDA = 0.8
SAMPLES = 4
RATE = 0.003


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two batches on half of the four prompts of two letters: the folder, the prompts of either
    half, and of each batch the responses and all weights before it.
    """
    out = tmp_path_factory.mktemp("ppo")
    task = sorting(4, 0, letters="ab", length=2)
    batches = []

    def step(trainer):
        actor = trainer.actor
        before = copy.deepcopy((actor.model, actor.value))
        row = own_step(trainer)
        batches.append((*before, trainer.rollout.ids.tolist()))
        return row

    words = ["--task", "sorting", "--n-prompts", 2, "--eval-prompts", 2, "--max-tokens", HORIZON]
    words += ["--steps", 2, "--samples", SAMPLES, "--prompts-per-step", 2, "--minibatch", 8]
    words += ["--epochs", 1, "--alpha", ALPHA, "--beta", BETA, "--gae-lambda", LAMBDA]
    words += ["--reward", "dense", "--gauge", "logprob", "--out", out, "--lr", RATE]
    own_step = Trainer.step
    with pytest.MonkeyPatch.context() as patch:
        made = replace(TASKS["sorting"], make=lambda n, seed, folder: task)
        patch.setitem(TASKS, "sorting", made)
        patch.setattr(Trainer, "step", step)
        text = printed("ppo", "--model", "letters", *words)
    held, _ = task.split(2)
    return out, held, batches, text


def plain(model):
    """``logits(tokens)`` of a model, as those of `logits`."""
    model = model.eval()

    def read(tokens):
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0, -1].double().numpy()

    return read


def law(read, prompt):
    """Probabilities of all responses to a prompt: ``(V²,)``."""
    first = softmax(read(prompt))
    return (first[:, None] * softmax(np.array([read([*prompt, a]) for a in range(V)]))).ravel()


def ids_of(text):
    tokenizer = transformers.AutoTokenizer.from_pretrained(EXAMPLE)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def sharpened(p):
    """The optimum ``π̂^{(α+β)/β}``."""
    p = p ** ((ALPHA + BETA) / BETA)
    return p / p.sum()


def evaluation(policy, anchor, held):
    """What is measured of a policy, a law of each prompt, against the exact optimum."""
    rows = []
    for prompt, answer in zip(held.prompts, held.answers, strict=True):
        start, now = law(anchor, ids_of(prompt)), policy(ids_of(prompt))
        best = sharpened(start)
        first = now.reshape(V, V).sum(axis=1).argmax()
        greedy = first * V + now.reshape(V, V)[first].argmax()
        right = int(np.dot(ids_of(answer), (V, 1)))

        def objective(p, start=start):
            return ALPHA * p @ np.log(start) - BETA * kl(p, start)

        rows.append(
            {
                "objective": objective(now),
                "objective_start": objective(start),
                "objective_optimum": objective(best),
                "kl_to_anchor": kl(now, start),
                "kl_to_optimum": kl(now, best),
                "entropy": -now @ np.log(now),
                "accuracy_sampled": now[right],
                "accuracy_map": float(now.argmax() == right),
                "accuracy_greedy": float(greedy == right),
            }
        )
    found = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
    ends = found["objective_start"], found["objective_optimum"]
    return found | {"share": (found["objective"] - ends[0]) / (ends[1] - ends[0])}


def batch_row(number, anchor, model, value, rows):
    """Metrics of a batch, by the recursion and by plain derivatives."""
    log_probs, states, reference = [], [], []
    for ids in rows:
        prompt, row = ids[:-HORIZON], ids[-HORIZON:]
        found = model(torch.tensor([ids]), output_hidden_states=True)
        steps = slice(-HORIZON - 1, -1)
        every = found.logits[0, steps].log_softmax(dim=-1)
        log_probs.append(every[range(HORIZON), row])
        states.append(found.hidden_states[-1][0, steps].detach())
        before = [anchor([*prompt, *row[:h]]) for h in range(HORIZON)]
        reference.append([x[a] - log_sum(x) for x, a in zip(before, row, strict=True)])
    log_probs, reference = torch.stack(log_probs), np.array(reference)
    own = log_probs.detach().double().numpy()
    raw = ALPHA * reference
    paid = raw - BETA * (own - reference)
    to_go = paid[:, ::-1].cumsum(axis=1)[:, ::-1]
    if number == 1:  # the head starts at what there is to get
        torch.nn.init.constant_(value.bias, to_go.mean())
    predicted = value(torch.stack(states))[..., 0].detach().double().numpy()
    values = np.pad(predicted, ((0, 0), (0, 1)))
    advantages = np.zeros_like(paid)
    for h in reversed(range(HORIZON)):
        later = LAMBDA * advantages[:, h + 1] if h + 1 < HORIZON else 0.0
        advantages[:, h] = paid[:, h] + values[:, h + 1] - values[:, h] + later
    returns = advantages + values[:, :-1]
    n = len(rows)
    loss = -(log_probs * torch.tensor(advantages)).sum() / n
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    return {
        "step": number,
        "beta": BETA,
        "reward": raw.sum(axis=1).mean(),
        "penalised_reward": paid.sum(axis=1).mean(),
        "kl": (own - reference).sum(axis=1).mean(),
        "log_prob": own.sum(axis=1).mean(),
        "tokens": HORIZON,
        "ended": 0.0,
        "explained": 1 - (advantages**2).mean() / returns.var(ddof=1),
        "advantage_deviation": advantages.std(),
        "generation_gap": lambda x: 0 <= x < 1e-5,
        "policy_loss": -advantages.sum() / n,
        "value_loss": 0.5 * (advantages**2).sum() / n,
        "update_kl": 0.0,
        "gradient": math.sqrt(sum(float(x.square().sum()) for x in slopes)),
        "updates": 1,
    }


def test_ppo(trained, logits):
    out, held, batches, text = trained
    seconds = {"seconds": lambda x: x > 0}
    last = plain(transformers.AutoModelForCausalLM.from_pretrained(out / "model"))
    rows = [batch_row(k, logits, *batch) for k, batch in enumerate(batches, start=1)]
    start, end, optimum = (
        evaluation(policy, logits, held)
        for policy in (
            lambda prompt: law(logits, prompt),
            lambda prompt: law(last, prompt),
            lambda prompt: sharpened(law(logits, prompt)),
        )
    )
    expected = [{"step": 0} | start | seconds, rows[0] | seconds, rows[1] | end | seconds]
    written = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(written) == len(expected)
    for row, want in zip(written, expected, strict=True):
        assert_all(row, one_level(want), rel=1e-4, abs=2e-6)
    summary = json.loads((out / "summary.json").read_text())
    assert summary.pop("first") == written[0]
    assert summary.pop("last") == written[-1]
    settings = {"beta": BETA, "steps": 2, "prompts_per_step": 2, "samples": SAMPLES, "lr": RATE}
    wanted = of_facts(settings | {"max_tokens": HORIZON, "seed": 0})
    wanted |= {("optimum", name): value for name, value in optimum.items()} | one_level(seconds)
    assert_all(summary, wanted, rel=1e-4, abs=2e-6)
    rows = rows_of(text)
    for name in ("objective", "kl_to_anchor", "entropy", "accuracy_sampled", "accuracy_map"):
        shown = [f"{x[name] + 0.0:.4f}" for x in (written[0], written[-1], summary["optimum"])]
        assert rows[name][:3] == shown, name


def one_level(row):
    return {(name,): value for name, value in row.items()}


def test_ppo_samples(trained, logits):
    """What is written of the last batch: a response of it to each prompt."""
    out, _, batches, _ = trained
    model, _, rows = batches[-1]
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        prompt, response = ids_of(line["prompt"]), ids_of(line["response"])
        assert [*prompt, *response] in rows
        at = response[0] * V + response[1]
        log_probs = [np.log(law(read, prompt)[at]) for read in (logits, plain(model))]
        expected = {"step": 2, "reward": ALPHA * log_probs[0], "log_prob": log_probs[1]}
        assert_all(line, one_level(expected), rel=1e-4, abs=2e-6)
