"""Hold what the package reads of each family of `families` against the model's own plain logits.

The oracle reads one prefix at a time, alone, without padding, mask, positions or cache, in double
precision. As a program it writes ``docs/architectures.md`` from what is found (`make matrix`).
"""

from __future__ import annotations

import argparse
import datetime
import re
import time
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import families
import numpy as np
import torch
import transformers

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.trainer import Trainer
from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM
from llm_bridge.read.beam import beam_search
from llm_bridge.read.reward import EndogenousReward
from llm_bridge.read.rollout import Actor, Diverged, generate
from llm_bridge.read.tree import token_tree

TOLERANCE = 1e-4
"""Nats a token."""

KL = 1e-5
"""Nats a response, of a policy from itself: log-softmax is computed in two ways, in floats."""

GAP = 1e-3
"""Nats a token between generating and reading."""

LENGTHS = (1, 3, 9, 14)
"""Of prompts: below and above the thresholds of the families, in one batch."""

ANSWERS = (6, 12, 3, 5)
"""Of responses to them."""


class Read(NamedTuple):
    """What a check read.

    Attributes:
        apart: largest difference from the oracle, nats a token; NaN where there is one.
        notes: what the package says of how it read the model.

    """

    apart: float
    notes: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What became of a check.

    Attributes:
        kind: ``exact``, ``refused``, ``wrong`` or ``crash``.
        detail: largest difference, message, or where an error arose.
        notes: what the package says of how it read the model.

    """

    kind: str
    detail: str
    notes: tuple[str, ...] = ()

    @property
    def good(self):
        """Whether the numbers are right, or there are none and the message says why."""
        return self.kind in ("exact", "refused")


class Wrong(Exception):
    """A check found numbers that contradict each other."""


class Oracle:
    """Plain logits of one prefix after another."""

    def __init__(self, model):
        self.model = model
        self._known = {}

    @torch.no_grad()
    def logits(self, prefix):
        """Return the logits ``(V,)`` after a prefix that is read alone."""
        key = tuple(int(token) for token in prefix)
        if key not in self._known:
            with evaluation(self.model), families.precision(self.model):
                found = self.model(input_ids=torch.tensor([key]), use_cache=False).logits[0, -1]
            self._known[key] = found.double().numpy()
        return self._known[key]

    def value(self, prefix):
        """Return ``log Σ exp f`` after a prefix."""
        return float(np.logaddexp.reduce(self.logits(prefix)))

    def log_probs(self, prefix):
        """Return ``log π(·)`` ``(V,)`` after a prefix."""
        return self.logits(prefix) - self.value(prefix)

    def of_response(self, prompt, response):
        """Return ``log π`` ``(n,)`` of the tokens of a response."""
        text = [*prompt, *response]
        n = len(prompt)
        return np.array([self.log_probs(text[: n + h])[a] for h, a in enumerate(response)])


def token_ids(lengths, seed, high=families.VOCABULARY - 1):
    """Return random token ids of these lengths, without those that pad."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, high, n).tolist() for n in lengths]


def notes(reader):
    """Return what the package says of how it reads a model, where it says so."""
    return tuple(map(str, getattr(reader, "findings", ())))


def largest(found, expected):
    """Return the largest difference, NaN if there is one."""
    return float(np.max(np.abs(np.asarray(found, dtype=float) - np.asarray(expected)), initial=0))


# --- The checks ---


def check_score(lm, oracle):
    prompts = token_ids(LENGTHS, 1)
    answers = token_ids(ANSWERS, 2, families.TOKENS)
    reward = EndogenousReward(lm, end_tokens=())
    found = reward.score_ids(prompts, answers, progress=False)
    apart = []
    for prompt, answer, score in zip(prompts, answers, found, strict=True):
        apart.append(largest(score.log_probs, oracle.of_response(prompt, answer)))
        values = [oracle.value([*prompt, *answer[:h]]) for h in range(len(answer))]
        scale = max(1, np.abs(values).max())
        apart.append(largest(score.soft_values, values) / scale)
    return Read(float(np.max(apart)), notes(reward))


def check_tree(lm, oracle, horizon=3, tokens=(3, 4, 5)):
    prompts = token_ids(LENGTHS, 3)
    texts = [families.text(ids) for ids in prompts]
    policy = token_tree(lm, texts, horizon, tokens=tokens, rest=True).policy
    apart = []
    prefixes = [list(ids) for ids in prompts]
    for table in policy.log_probs:
        for row, prefix in zip(np.asarray(table), prefixes, strict=False):  # the last is the end
            listed = oracle.log_probs(prefix)[list(tokens)]
            others = np.delete(oracle.log_probs(prefix), list(tokens))
            apart.append(largest(row, [*listed, np.logaddexp.reduce(others)]))
        prefixes = [[*prefix, token] for prefix in prefixes for token in tokens]
    return Read(float(np.max(apart)))


def check_beam(lm, oracle, horizon=3, width=4):
    prompts = token_ids(LENGTHS, 4)
    beam = beam_search(lm, [families.text(ids) for ids in prompts], horizon, width)
    apart = []
    for prompt, response, log_prob in zip(prompts, beam.responses, beam.log_probs, strict=True):
        apart.append(abs(log_prob - oracle.of_response(prompt, response).sum()) / horizon)
        kept = [((), 0.0)]
        for _ in range(horizon):
            steps = [(s, p + oracle.log_probs([*prompt, *s])) for s, p in kept]
            longer = [((*s, a), q[a]) for s, q in steps for a in range(len(q))]
            kept = sorted(longer, key=lambda pair: -pair[1])[:width]
        apart.append(max(0.0, kept[0][1] - log_prob) / horizon)
    return Read(float(np.max(apart)))


def check_generation(lm, oracle, T=8, samples=2):
    prompts = token_ids(LENGTHS, 5)
    generator = torch.Generator().manual_seed(6)
    shape = len(prompts) * samples, T
    uniforms = torch.rand(*shape, generator=generator, dtype=torch.double)
    with evaluation(lm.model):
        actor = Actor(lm)
        rollout = generate(actor, prompts, T, samples=samples, uniforms=uniforms)
    expected = [oracle.of_response(*pair) for pair in zip(*rollout.texts(), strict=True)]
    return Read(largest(rollout.log_probs.numpy(), expected), notes(actor))


def check_ppo(lm, oracle):
    prompts = token_ids(LENGTHS, 7)
    config = PPOConfig(
        max_tokens=6,
        prompts_per_step=len(prompts),
        samples=2,
        minibatch=8,
        epochs=1,
        steps=1,
        end_tokens=(),
        lr=1e-12,
        value_lr=1e-12,
    )
    trainer = Trainer(lm, prompts, config)
    row = trainer.step()
    with torch.no_grad():
        read = trainer.rollout.read(trainer.actor).log_probs
    expected = [oracle.of_response(*pair) for pair in zip(*trainer.rollout.texts(), strict=True)]
    apart = largest(read.numpy(), expected)
    for name, value, most in (
        ("kl", abs(row["kl"]), KL),
        ("generation_gap", row["generation_gap"], GAP),
    ):
        if not value <= most:
            raise Wrong(f"{name} of the first step is {value:.3g}; read off by {apart:.3g} nats")
    return Read(apart, notes(trainer.actor))


CHECKS = {
    "score": check_score,
    "tree": check_tree,
    "beam": check_beam,
    "generation": check_generation,
    "ppo": check_ppo,
}


def outcome(check: str, lm: CausalLM, oracle: Oracle) -> Outcome:
    """Run a check and say what became of it."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = CHECKS[check](lm, oracle)
        except Wrong as error:
            return Outcome("wrong", str(error))
        except Exception as error:
            message = str(error)
            ours = type(error) is ValueError or isinstance(error, Diverged)
            named = re.search(rf"(?<![\w-]){re.escape(lm.name)}(?![\w-])", message)  # no "lo-git-s"
            if ours and named and "\n" not in message:
                return Outcome("refused", message)
            return Outcome("crash", _where(error))
    own = [str(w.message) for w in warned if str(w.message).startswith(lm.name)]
    said = tuple(dict.fromkeys([*found.notes, *own]))
    if not found.apart <= TOLERANCE:
        return Outcome("wrong", f"{found.apart:.3g} nats a token", said)
    return Outcome("exact", f"{found.apart:.1e}", said)


def _where(error):
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "llm_bridge" in frame.filename]
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*own[-1:], frames[-1])]
    message = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {message} ({' → '.join(places)})"


def subject(name: str) -> tuple[CausalLM, Oracle]:
    """Return a family in single precision, and its oracle."""
    oracle = Oracle(families.build(name, families.ORACLES.get(name, torch.float64)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle.logits([2, 3, 4])  # what fails here is no fault of the package
    return families.family(name), oracle


# --- The table ------------------------------------------------------------------------------------

COLUMNS = {
    "score": ("score",),
    "tree, beam": ("tree", "beam"),
    "generation": ("generation",),
    "PPO": ("ppo",),
}
SHORT = 32
"""Characters of a note that stands in the table itself, such as "read without cache"."""

WORST = ("crash", "wrong", "refused", "exact")

HEAD = """# Which architectures are read rightly

Every causal architecture of transformers {version} as a tiny random model, {date}: what the
package reads, in float32, against the model's plain logits of one unpadded prefix at a time, in
float64. *exact* is within {tolerance:g} nats a token. Prompts of {lengths} tokens are read
together; windows, chunks and other thresholds are {threshold} positions, so that texts cross them.
`make matrix` writes this page; the models are in `tests/helpers/families.py`, the checks in
`tests/helpers/matrix.py`.
"""


def table(found: dict[str, dict[str, Outcome]]) -> str:
    """Return the page: a line for each family, and what was said of it below."""
    lines = [
        HEAD.format(
            version=transformers.__version__,
            date=datetime.date.today(),
            tolerance=TOLERANCE,
            lengths=", ".join(map(str, LENGTHS)),
            threshold=families.THRESHOLD,
        ),
        "| family | " + " | ".join(COLUMNS) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    footnotes: dict[str, int] = {}

    def cell(name, outcomes):
        worst = min(outcomes, key=lambda one: WORST.index(one.kind))
        said = worst.notes if worst.kind == "exact" else (worst.detail, *worst.notes)
        if said and max(map(len, said)) < SHORT:
            return "; ".join((worst.kind, *said))
        said = [" ".join(text.replace(name, "NAME").split()).replace("|", "/") for text in said]
        marks = [f"[^{footnotes.setdefault(text, len(footnotes) + 1)}]" for text in said]
        return worst.kind + "".join(marks)

    for name in sorted([*found, *families.UNBUILT]):
        if name in found:
            cells = [cell(name, [found[name][c] for c in checks]) for checks in COLUMNS.values()]
        else:
            cells = [f"cannot be built here ({families.UNBUILT[name]})", *[""] * 3]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"[^{number}]: {text}" for text, number in footnotes.items())]
    return "\n".join(lines).rstrip() + "\n"


def main():
    """Run all checks on all families, or on those named; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families; all by default")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    found = {}
    for name in options.names or families.names():
        started = time.perf_counter()
        lm, oracle = subject(name)
        found[name] = {check: outcome(check, lm, oracle) for check in CHECKS}
        for check, one in found[name].items():
            print(f"{name:26s} {check:10s} {one.kind:8s} {one.detail} {' '.join(one.notes)}")
        print(f"{name:26s} {time.perf_counter() - started:.1f} s", flush=True)
    if options.out:
        options.out.write_text(table(found), encoding="utf-8")
    return int(not all(one.good for outcomes in found.values() for one in outcomes.values()))


if __name__ == "__main__":
    raise SystemExit(main())
