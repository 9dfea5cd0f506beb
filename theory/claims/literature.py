"""The literature's claims that a language model contains a reward, and what is true of them.

Each `LiteratureClaim` says what a paper claims, the verdict, why, and two lists of statements:
those that must hold on every token tree, and those of which one tree shows that they do not. They
are decided like every other statement (`theory.claims.findings`), so that a counterexample is
proved and not only seen. What they read is `theory.claims.one_prompt.OnePrompt`.

``endorm verify --literature`` prints them, and ``docs/literature.md`` has them with their proofs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from theory.arrays.namespace import root
from theory.claims import bounds
from theory.claims.findings import Finding, decide_each
from theory.claims.one_prompt import (
    DISCOUNT,
    OnePrompt,
    first_row,
    last_step,
    log_sum,
    normalised,
)
from theory.claims.statement import Quantity, Statement
from theory.claims.statements import LATER_GAUGE
from theory.mdp.distances import log_ratios
from theory.mdp.responses import log_prob
from theory.mdp.values import expected_sums
from theory.solve.improve import kl_optimal
from theory.solve.soft import power_policy

__all__ = [
    "LITERATURE",
    "LiteratureClaim",
    "LiteratureFinding",
    "LiteratureVerdict",
    "decide_literature",
]

LiteratureVerdict = Literal["proved", "true under an assumption", "refuted"]


@dataclass(frozen=True)
class LiteratureClaim:
    """What a paper claims, and what is true.

    Attributes:
        name: its name in tables.
        paper: arXiv id of the paper that makes the claim.
        says: what the paper says, in the symbols of this package.
        verdict: whether that is so.
        because: the proof in a sentence, or the assumption, or the counterexample.
        holds: statements that are true of every token tree.
        fails: statements that are false of some.

    Raises:
        ValueError: there is nothing to check, or a claim is *proved* and something of it fails.

    """

    name: str
    paper: str
    says: str
    verdict: LiteratureVerdict
    because: str
    holds: tuple[Statement[OnePrompt], ...]
    fails: tuple[Statement[OnePrompt], ...] = ()

    def __post_init__(self) -> None:
        """Validate."""
        if not self.holds:
            raise ValueError(f"claim {self.name!r}: holds is empty: there is nothing to check")
        if (self.verdict == "proved") == bool(self.fails):
            raise ValueError(
                f"claim {self.name!r}: verdict={self.verdict!r} with {len(self.fails)} statements "
                "that fail: a claim is proved if and only if nothing of it fails"
            )


@dataclass(frozen=True)
class LiteratureFinding:
    """What was found of a claim.

    Attributes:
        claim: the claim.
        holds: a finding for each statement that must hold on every tree.
        fails: likewise for those that must be violated on one.

    """

    claim: LiteratureClaim
    holds: tuple[Finding, ...]
    fails: tuple[Finding, ...]

    @property
    def confirmed(self) -> bool:
        """Whether all was found as the claim's verdict says."""
        return all(x.verdict == "holds" for x in self.holds) and all(
            x.verdict == "violated" for x in self.fails
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the claim and its findings as plain numbers and text."""
        claim = self.claim
        return {
            "name": claim.name,
            "paper": claim.paper,
            "says": claim.says,
            "verdict": claim.verdict,
            "because": claim.because,
            "confirmed": self.confirmed,
            "holds": {x.statement.name: x.as_dict() for x in self.holds},
            "fails": {x.statement.name: x.as_dict() for x in self.fails},
        }


def decide_literature(instances: Sequence[OnePrompt]) -> list[LiteratureFinding]:
    """Decide every statement of `LITERATURE` on token trees.

    Args:
        instances: token trees, as those of `theory.studies.literature.literature_trees`.

    Raises:
        ValueError: there are none.

    Example:
        >>> from theory import Policy, TokenMDP, soft_optimal
        >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])
        >>> policy = Policy.from_logits(mdp.dynamics, [[[0.0, 1.0]], [[0.0, 2.0], [1.0, 0.5]]])
        >>> tree = OnePrompt(mdp, soft_optimal(mdp, 1.0).policy, policy, 1.0)
        >>> found = {x.claim.name: x for x in decide_literature([tree])}
        >>> found["secretly-a-q-function"].confirmed
        True

    """
    statements = [s for claim in LITERATURE for s in (*claim.holds, *claim.fails)]
    found = {x.statement.name: x for x in decide_each(statements, instances)}
    return [
        LiteratureFinding(
            claim,
            tuple(found[s.name] for s in claim.holds),
            tuple(found[s.name] for s in claim.fails),
        )
        for claim in LITERATURE
    ]


# --- The list -------------------------------------------------------------------------------------

LOG_LAW = Quantity[OnePrompt]("log π̂(τ)", lambda i: i.policy_log_prob, "nats")

TUNED_VALUE = Quantity[OnePrompt]("max_π V^π_r − α KL(π‖π̂)", lambda i: i.tuned_value)

EXPECTED_LOG_LAW = Quantity[OnePrompt](
    "E_π̂ log π̂", lambda i: i.expected_log_prob(i.policy, i.policy), "nats"
)

FIRST_RATIO = Quantity[OnePrompt]("α log π_r(a₁)/π̂(a₁)", lambda i: i.first_log_ratio(i.tuned))

GAUGE_DIFFERENCES = Quantity[OnePrompt](
    "Σ_{h≥2} [V̂(s_h) − V̂(s'_h)]", lambda i: i.differences(i.later_gauge)
)

ENERGY_BASED = LiteratureClaim(
    "energy-based",
    "2512.15605",
    "autoregressive and energy-based models are in bijection, q(s,a) = r(s,a) + V_q(s⊕a), and "
    "write every response with the same probability; distillation errors are bounded",
    "proved",
    "telescoping; the bound is kl-ball with ε = 2δ, since log-softmax moves by 2δ where logits "
    "move by δ (constant derived here)",
    holds=(
        Statement(
            "energy-law",
            "docs §1",
            Quantity(
                "log e^{r̂(τ)/α}/Σ_τ e^{r̂(τ)/α}",
                lambda i: normalised(i.endogenous_return / i.temperature),
                "nats",
            ),
            "=",
            LOG_LAW,
            term=GAUGE_DIFFERENCES,
        ),
        Statement(
            "energy-distillation",
            "docs §4",
            Quantity("KL(π̂‖π_E)", lambda i: i.kl_to_expert, "nats"),
            "≤",
            Quantity(
                "2Hδ tanh δ, δ = max|q − q*|",
                lambda i: i.averaged(bounds.kl_ball(i.horizon, 2 * i.greatest_logit_error)),
                "nats",
            ),
        ),
    ),
)

BELLMAN_RESIDUAL = LiteratureClaim(
    "bellman-residual",
    "2603.23355",
    "the trajectory Bellman residual (TBRM) with r = 0 does not have the reference π̂ as optimum",
    "refuted",
    "its loss is 0 at π̂, once V(s₁) is taken from the logits of the first state, and at no "
    "other policy; what is true is that the reference's logits as they come have the residual "
    "V̂(s₁)",
    holds=(
        Statement(
            "residual-calibrated",
            "docs §1",
            Quantity("Σ_h [q − V_q'], V(s₁) = 0", lambda i: i.bellman_sum(calibrated=True), "nats"),
            "=",
            LOG_LAW,
            term=LATER_GAUGE,
        ),
        Statement(
            "residual-unique",
            "Jensen",
            Quantity("KL(π̂‖π)", lambda i: i.kl_to_expert, "nats"),
            "≤",
            Quantity("√(loss of π), V(s₁) = 0", lambda i: root(i.calibrated_loss), "nats"),
        ),
    ),
    fails=(
        Statement(
            "residual-as-it-comes",
            "2603.23355",
            Quantity("Σ_h [q − V_q']", lambda i: i.bellman_sum(calibrated=False), "nats"),
            "=",
            LOG_LAW,
        ),
    ),
)

DISTILLATION = LiteratureClaim(
    "on-policy-distillation",
    "2602.12125",
    "on-policy distillation is RL with a dense reward and a KL anchor, of equal weights; a "
    "weight λ on the reward extrapolates beyond the teacher",
    "proved",
    "the reward is the teacher's endogenous reward, so the optimum is π̂^{1−λ} π_E^λ, "
    "normalised: the teacher at λ = 1, and at λ = 2 what the teacher moved, moved again",
    holds=(
        Statement(
            "distillation-objective",
            "docs §4",
            Quantity("−KL(π̂‖π_E)", lambda i: -i.kl_to_expert, "nats"),
            "=",
            Quantity(
                "E_π̂ log π_E + H(π̂)",
                lambda i: i.expected_log_prob(i.policy, i.expert) + i.entropy(i.policy),
                "nats",
            ),
        ),
        *(
            Statement(
                f"distillation-optimum-{name}",
                "docs §8",
                Quantity(
                    f"log argmax_π {scale:g} E_π log(π_E/π̂) − KL(π‖π̂)",
                    partial(OnePrompt.distilled, scale=scale),
                    "nats",
                ),
                "=",
                Quantity(
                    f"log π̂^{1 - scale:g} π_E^{scale:g}, normalised",
                    partial(OnePrompt.mixed, scale=scale),
                    "nats",
                ),
            )
            for name, scale in (("half", 0.5), ("twice", 2.0))
        ),
    ),
)

PROCESS_REWARD = LiteratureClaim(
    "implicit-process-reward",
    "2412.01981",
    "the log-ratio of a prefix is the exact soft expectation (a Q-value) of the outcome reward: "
    "Σ_{h≤t} β log π/π̂ = β log E_π̂[e^{r/β} | y_≤t]",
    "true under an assumption",
    "true if r is the log-ratio itself, r = β log π/π̂; for the optimum of any other reward it "
    "is off by the constant β log E_π̂ e^{r/β}, which differences between prefixes do not see",
    holds=(
        Statement(
            "process-own-reward",
            "docs §8",
            Quantity("α log π_E(a₁)/π̂(a₁)", lambda i: i.first_log_ratio(i.expert)),
            "=",
            Quantity(
                "α log E_π̂[π_E(τ)/π̂(τ) | a₁]",
                lambda i: i.prefix_value(i.temperature * (i.expert_log_prob - i.policy_log_prob)),
            ),
        ),
        Statement(
            "process-any-reward",
            "docs §8",
            Quantity(
                "α log π_r(a₁)/π̂(a₁) + α log E_π̂ e^{r/α}",
                lambda i: i.first_log_ratio(i.tuned) + i.log_partition,
            ),
            "=",
            Quantity("α log E_π̂[e^{r/α} | a₁]", lambda i: i.prefix_value(i.true_return)),
        ),
    ),
    fails=(
        Statement(
            "process-without-constant",
            "2412.01981",
            FIRST_RATIO,
            "=",
            Quantity("α log E_π̂[e^{r/α} | a₁]", lambda i: i.prefix_value(i.true_return)),
        ),
    ),
)

SECRET_Q = LiteratureClaim(
    "secretly-a-q-function",
    "2404.12358",
    "a model trained by DPO is an optimal Q-function of the token MDP, and its log-ratios are "
    "token rewards",
    "true under an assumption",
    "true up to a potential: summed over a response the log-ratio is r(τ) − V(s₁), token by "
    "token it is r(s,a) + V(s⊕a) − V(s), and policies do not tell V",
    holds=(
        Statement(
            "secret-return",
            "docs §1",
            Quantity(
                "α log π_r(τ)/π̂(τ)",
                lambda i: i.temperature * (log_prob(i.tuned, i.responses) - i.policy_log_prob),
            ),
            "=",
            Quantity("r(τ) − V_r(s₁)", lambda i: i.true_return - i.log_partition),
        ),
    ),
    fails=(
        Statement(
            "secret-token",
            "2404.12358",
            FIRST_RATIO,
            "=",
            Quantity("r(s₁,a₁)", lambda i: first_row(i.mdp.rewards[0])),
        ),
    ),
)

Q_SHARP = LiteratureClaim(
    "q-sharp",
    "2502.20548",
    "the optimum of KL-regularised RL follows from the law of the reference's return, V = η log "
    "E_π̂ e^{r/η}; guiding by the reference's plain Q-values is not optimal",
    "proved",
    "one backward sweep, and the same number as a sum over all responses; what is lost by plain "
    "Q-values is a Jensen gap",
    holds=(
        Statement(
            "q-sharp-value",
            "docs §8",
            TUNED_VALUE,
            "=",
            Quantity("α log E_π̂ e^{r(τ)/α}", lambda i: i.log_partition),
        ),
        Statement(
            "q-sharp-guided",
            "docs §8",
            Quantity("V^π_r − α KL(π‖π̂), π ∝ π̂ e^{Q^π̂/α}", lambda i: i.guided_objective),
            "≤",
            TUNED_VALUE,
        ),
    ),
)

POWER_SAMPLING = LiteratureClaim(
    "power-sampling",
    "2601.21590",
    "the next token of p^κ is drawn from the low-temperature law times a factor that sums over "
    "continuations, p(a|s)^κ ζ(s⊕a)",
    "true under an assumption",
    "exact with ζ = Σ p(rest)^κ, which is what power_policy computes; without it, low "
    "temperature is another policy, and estimates of ζ from M continuations are biased (table "
    "below)",
    holds=(
        Statement(
            "power-conditional",
            "docs §8",
            Quantity(
                "log π̂²(a₁)",
                lambda i: first_row(power_policy(i.policy, 2.0).log_probs[0]),
                "nats",
            ),
            "=",
            Quantity(
                "log π̂(a₁)² Σ π̂(rest)², normalised",
                lambda i: normalised(log_sum(i.by_first_token(2 * i.policy_log_prob))),
                "nats",
            ),
        ),
    ),
    fails=(
        Statement(
            "power-is-low-temperature",
            "2601.21590",
            Quantity(
                "log π̂²(a₁)",
                lambda i: first_row(power_policy(i.policy, 2.0).log_probs[0]),
                "nats",
            ),
            "=",
            Quantity(
                "log π̂(a₁)², normalised",
                lambda i: normalised(2 * first_row(i.policy.log_probs[0])),
                "nats",
            ),
        ),
    ),
)

INTRINSIC = LiteratureClaim(
    "intrinsic-rewards-sharpen",
    "2603.08660",
    "all intrinsic rewards converge toward sharpening the model's first law; the odds of the "
    "answer voted for multiply by e^{1/β} a step",
    "true under an assumption",
    "true of majority votes, if the anchor moves along, and of the endogenous reward; a reward "
    "for certain next tokens pays for states, and moves mass to unlikely responses where these "
    "are surer: E log π̂ falls",
    holds=(
        Statement(
            "vote-odds",
            "docs §8",
            Quantity(
                "log-odds of the answer after a step",
                lambda i: i.log_odds(kl_optimal(i.vote, i.policy, i.alpha).policy),
                "nats",
            ),
            "=",
            Quantity(
                "log-odds before + 1/α",
                lambda i: i.log_odds(i.policy) + 1 / i.temperature,
                "nats",
            ),
        ),
        Statement(
            "endogenous-sharpens",
            "docs §8",
            EXPECTED_LOG_LAW,
            "≤",
            Quantity(
                "E_π log π̂, π ∝ π̂²",
                lambda i: i.expected_log_prob(power_policy(i.policy, 2.0), i.policy),
                "nats",
            ),
        ),
    ),
    fails=(
        Statement(
            "certainty-sharpens",
            "2603.08660",
            EXPECTED_LOG_LAW,
            "≤",
            Quantity(
                "E_π log π̂, π optimal for −Σ_h H(π̂(·|s_h))",
                lambda i: i.expected_log_prob(
                    kl_optimal(i.certainty, i.policy, i.alpha).policy, i.policy
                ),
                "nats",
            ),
        ),
    ),
)

RAO_BLACKWELL = LiteratureClaim(
    "rao-blackwell",
    "2504.10637",
    "the sum of exact next-token divergences along a draw estimates KL(π̂‖π_E) without bias and "
    "with provably no more variance than the sum of log-ratios",
    "refuted",
    "it has no bias, and no more variance in any one step; but steps can cancel in the sum: "
    "where the log-ratio of whole responses is constant the plain estimate has no variance at "
    "all, and this one has",
    holds=(
        Statement(
            "rao-blackwell-unbiased",
            "chain rule",
            Quantity(
                "E_π̂ Σ_h KL(π̂(·|s_h)‖π_E(·|s_h))",
                lambda i: i.averaged(expected_sums(i.policy, i.kl_tables)[0]),
                "nats",
            ),
            "=",
            Quantity("KL(π̂‖π_E)", lambda i: i.kl_to_expert, "nats"),
        ),
        Statement(
            "rao-blackwell-step",
            "Rao–Blackwell",
            Quantity(
                "Var KL(π̂(·|s_H)‖π_E(·|s_H))",
                lambda i: i.variance(last_step(i.kl_tables)),
                "nats",
            ),
            "≤",
            Quantity(
                "Var log π̂(a_H|s_H)/π_E(a_H|s_H)",
                lambda i: i.variance(last_step(log_ratios(i.policy, i.expert))),
                "nats",
            ),
        ),
    ),
    fails=(
        Statement(
            "rao-blackwell-sum",
            "2504.10637",
            Quantity("Var Σ_h KL(π̂(·|s_h)‖π_E(·|s_h))", lambda i: i.variance(i.kl_tables), "nats"),
            "≤",
            Quantity(
                "Var log π̂(τ)/π_E(τ)",
                lambda i: i.variance(log_ratios(i.policy, i.expert)),
                "nats",
            ),
        ),
    ),
)

BASELINE = LiteratureClaim(
    "closed-form-baseline",
    "2605.07865",
    "the value function of on-policy distillation is, in closed form, the negative reverse KL of "
    "the next token",
    "true under an assumption",
    "true if a token is paid its own log-ratio only (γ = 0); the value of the whole objective is "
    "the negative KL of all that follows, of which the closed form is the first term (as a "
    "baseline any function of the state leaves the gradient unbiased)",
    holds=(
        Statement(
            "baseline-value",
            "chain rule",
            Quantity(
                "E_π̂ log π_E(τ)/π̂(τ)",
                lambda i: i.averaged(expected_sums(i.policy, log_ratios(i.expert, i.policy))[0]),
                "nats",
            ),
            "=",
            Quantity("−KL(π̂(τ)‖π_E(τ))", lambda i: -i.kl_to_expert, "nats"),
        ),
        Statement(
            "baseline-first-term",
            "chain rule",
            Quantity("KL(π̂(·|s₁)‖π_E(·|s₁))", lambda i: i.kl_tables[0][..., 0], "nats"),
            "≤",
            Quantity("KL(π̂(τ)‖π_E(τ))", lambda i: i.kl_to_expert, "nats"),
        ),
    ),
    fails=(
        Statement(
            "baseline-is-value",
            "2605.07865",
            Quantity("KL(π̂(τ)‖π_E(τ))", lambda i: i.kl_to_expert, "nats"),
            "=",
            Quantity("KL(π̂(·|s₁)‖π_E(·|s₁))", lambda i: i.kl_tables[0][..., 0], "nats"),
        ),
    ),
)

DISCOUNTED = LiteratureClaim(
    "discounted-sum",
    "2506.23235",
    "public re-implementations score a response with Σ_h γ^{h−1} r̂(s_h,a_h), "
    f"γ = {DISCOUNT:g}, as if that ordered responses as the sum does",
    "refuted",
    "with γ = 1 the soft values cancel and differences are those of α log π̂, in every gauge; "
    "with γ < 1 they do not, and the order depends on a gauge that the policy does not tell",
    holds=(
        Statement(
            "undiscounted-differences",
            "docs §1",
            Quantity("r̂(τ) − r̂(τ')", lambda i: i.differences(i.endogenous_return)),
            "=",
            Quantity(
                "α log π̂(τ)/π̂(τ')",
                lambda i: i.over_pairs(i.temperature) * i.differences(i.policy_log_prob),
            ),
            term=GAUGE_DIFFERENCES,
        ),
        Statement(
            "discounted-split",
            "docs §1",
            Quantity("Σ γ^{h−1} r̂", lambda i: i.discounted_sum),
            "=",
            Quantity(
                "Σ γ^{h−1} [α log π̂ + V̂(s_h) − V̂(s_{h+1})]",
                lambda i: i.discounted_log_prob + i.discounted_values,
            ),
            term=Quantity("Σ γ^{h−1} [V̂(s_h) − V̂(s_{h+1})]", lambda i: i.discounted_values),
        ),
    ),
    fails=(
        Statement(
            "discounted-differences",
            "re-implementations",
            Quantity("Σ γ^{h−1} [r̂ − r̂']", lambda i: i.differences(i.discounted_sum)),
            "=",
            Quantity(
                "α Σ γ^{h−1} log π̂/π̂'",
                lambda i: i.differences(i.discounted_log_prob),
            ),
        ),
    ),
)

LITERATURE: tuple[LiteratureClaim, ...] = (
    ENERGY_BASED,
    SECRET_Q,
    PROCESS_REWARD,
    Q_SHARP,
    BELLMAN_RESIDUAL,
    DISTILLATION,
    POWER_SAMPLING,
    INTRINSIC,
    RAO_BLACKWELL,
    BASELINE,
    DISCOUNTED,
)
"""Every claim, the oldest idea first."""
