"""Hyperparameters of PPO: each with its range, its unit and what it does. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llm_bridge.read.reading import RewardReading
from theory.commands import shared
from theory.commands.options import OptionError, Options, option
from theory.solve.reward import Gauge, Terminal

__all__ = ["PPOConfig", "learning_rate"]

OBJECTIVE = "objective"
RESPONSES = "responses"
ADVANTAGES = "advantages"
UPDATES = "updates"
MACHINE = "computation"

LR = 2e-4
"""Largest learning rate of a model, and of the small models that `docs/ppo.md` measures."""

VALUE_LR = 1e-2
"""Largest learning rate of the value head."""

COUNT: dict[str, Any] = {"low": 1}
OFF: dict[str, Any] = {"above": 0}


@dataclass(frozen=True)
class PPOConfig(Options):
    """Everything that a run depends on, apart from model, prompts and reward. KL and entropy are in
    nats a response.

    Raises:
        ValueError: a value is out of range, or two of them contradict each other; names them.

    Example:
        >>> PPOConfig(beta=-1.0)
        Traceback (most recent call last):
        theory.commands.option.OptionError: beta=-1.0: must be at least 0 reward units per nat

    """

    alpha: float = option(
        1.0,
        help="temperature α of the reward; 0 for no endogenous reward",
        group=OBJECTIVE,
        **shared.ALPHAS | {"low": 0},
    )
    beta: float = option(
        0.01,
        help="coefficient β of the penalty KL(π‖π̂); 0 for none",
        unit="reward units per nat",
        low=0,
        group=OBJECTIVE,
    )
    adaptive_kl: float | None = option(
        None,
        help="KL(π‖π̂) that β follows (Ziegler et al. 2019, section 2.2); without it β is fixed",
        unit="nats",
        group=OBJECTIVE,
        **OFF,
    )
    entropy: float = option(
        0.0,
        help="coefficient of the entropy bonus; beta=0 with entropy=alpha is soft RL, whose "
        "optimum is π̂ itself",
        unit="reward units per nat",
        low=0,
        group=OBJECTIVE,
    )
    checked: float = option(
        0.0,
        help="added to the reward of a response whose answer is right, at its last token",
        unit="reward units",
        low=0,
        group=OBJECTIVE,
    )
    reward: Literal["expected", "dense", "sum"] = option(
        "expected",
        help="reward of all tokens, of the one that was sampled, or of the response at its last",
        group=OBJECTIVE,
    )
    gauge: Gauge = option(
        "logprob", help="of the reward; logits is the paper's, and noisier", group=OBJECTIVE
    )
    terminal: Terminal = option(
        "zero", help="value of a state where a response was cut: zero, or π̂'s", group=OBJECTIVE
    )
    max_tokens: int = option(
        16, help="tokens after which a response is cut", group=RESPONSES, **COUNT
    )
    end_tokens: tuple[int, ...] | None = option(
        None,
        help="ids that end a response and belong to it; '' for none",
        may_be_empty=True,
        low=0,
        default_text="the tokenizer's own",
        group=RESPONSES,
    )
    missing_end: float = option(
        0.0,
        help="subtracted from the reward of a response that was cut, where there are end tokens",
        unit="reward units",
        low=0,
        group=RESPONSES,
    )
    prompts_per_step: int = option(
        512, help="prompts of a batch, each once where there are enough", group=RESPONSES, **COUNT
    )
    samples: int = option(2, help="responses to each prompt of a batch", group=RESPONSES, **COUNT)
    baseline: Literal["value", "group"] = option(
        "value",
        help="GAE on a value head, or the average return of the prompt's other samples",
        group=ADVANTAGES,
    )
    gae_lambda: float = option(
        1.0,
        help="λ of GAE; only at 1 the end of training does not depend on the gauge",
        low=0,
        high=1,
        group=ADVANTAGES,
    )
    whiten_rewards: bool = option(
        False,
        help="divide penalised rewards by their deviation in the batch: J in another unit",
        group=ADVANTAGES,
    )
    normalise_advantages: bool = option(
        False,
        help="shift and scale advantages to mean 0, deviation 1; at the optimum this would blow up "
        "what is left",
        group=ADVANTAGES,
    )
    clip: float | None = option(
        0.2, help="ratios of new to old probability count within 1 ± CLIP", group=UPDATES, **OFF
    )
    value_clip: float | None = option(
        None,
        help="new values count within that distance of the old; without it unclipped",
        unit="reward units",
        group=UPDATES,
        **OFF,
    )
    value_to_trunk: bool = option(
        False,
        help="let the value head's error change the model too, not the head alone",
        group=UPDATES,
    )
    epochs: int = option(2, help="passes over a batch", group=UPDATES, **COUNT)
    minibatch: int = option(
        256,
        help="responses in an optimiser step, of all processes together",
        group=UPDATES,
        **COUNT,
    )
    lr: float | None = option(
        None,
        help="learning rate of the model (Adam)",
        default_text=f"by the model's size, at most {LR:g}",
        group=UPDATES,
        above=0,
    )
    value_lr: float | None = option(
        None,
        help="learning rate of the value head, which starts at the first batch's mean return",
        default_text=f"{VALUE_LR:g}, or less: an update changes no value by more than about 1",
        above=0,
        group=UPDATES,
    )
    warmup: int = option(
        1,
        help="batches over which both learning rates rise: Adam's first steps are as long as any",
        group=UPDATES,
        **COUNT,
    )
    anneal: bool = option(
        True, help="let both learning rates fall linearly, to zero after STEPS", group=UPDATES
    )
    max_grad_norm: float | None = option(
        1.0, help="norm to which the model's gradient is clipped", group=UPDATES, **OFF
    )
    target_kl: float | None = option(
        None,
        help="KL(π_old‖π) above which a batch makes no more updates",
        unit="nats",
        group=UPDATES,
        **OFF,
    )
    stop_kl: float | None = option(
        5.0, help="KL(π‖π̂) above which the run stops", unit="nats a token", group=UPDATES, **OFF
    )
    steps: int = option(100, help="batches of the run", group=UPDATES, **COUNT)
    seed: int = shared.seed(help="of prompts, samples and minibatches", group=UPDATES)
    dtype: Literal["float32", "bfloat16"] = option(
        "float32",
        help="of products, and with adapters of frozen weights; trained weights and log-sum-exp "
        "stay float32",
        group=MACHINE,
    )
    lora: int | None = option(
        None,
        help="rank of adapters on all linear layers (peft), which alone are trained then",
        default_text="all weights",
        group=MACHINE,
        **COUNT,
    )
    microbatch: int | None = option(
        None,
        help="responses in a pass of the network; gradients add up",
        default_text="the whole minibatch",
        affects_results=False,
        group=MACHINE,
        **COUNT,
    )
    gradient_checkpointing: bool = option(
        False,
        help="compute activations twice instead of keeping them",
        affects_results=False,
        group=MACHINE,
    )
    shard: bool = option(
        False,
        help="split weights and optimiser over the processes (FSDP)",
        affects_results=False,
        group=MACHINE,
    )

    def check(self) -> None:
        """Refuse settings that contradict each other."""
        if self.shard and self.lora is not None:
            text = "means nothing with {lora}: adapters are small, each process has them whole"
            raise OptionError("shard", text)
        if self.adaptive_kl is not None and not self.beta:
            raise OptionError(
                "beta", "{adaptive_kl} multiplies it; start from a positive one", self.beta
            )
        if self.reward == "expected" and self.gauge == "logits":
            text = "{reward}=expected is that of every token, α log π̂; use {reward}=dense"
            raise OptionError("gauge", text, self.gauge)
        if self.gauge == "logprob" and self.terminal == "bootstrap":
            text = "the logprob gauge has no values to keep; use {gauge}=logits"
            raise OptionError("terminal", text, self.terminal)
        if self.baseline == "group" and self.samples < 2:
            text = "{baseline}=group compares samples of a prompt; use at least 2"
            raise OptionError("samples", text, self.samples)

    @property
    def reading(self) -> RewardReading:
        """Return how the reward that is maximised is read, the model's own or a teacher's.

        With ``alpha=0`` it is read at 1 and then left out.
        """
        return RewardReading(self.alpha or 1.0, self.gauge, self.terminal)


def learning_rate(n_parameters: int, lora: int | None = None) -> float:
    """Return the learning rate that a model of this size is trained with if none is given.

    A power law through 1e-5 for 124 M parameters and 1e-6 for 7 B, see `docs/ppo.md`; ten times as
    much for adapters.

    Args:
        n_parameters: number of parameters of the model.
        lora: rank of the adapters that are trained; `None` for all weights.

    Example:
        >>> learning_rate(10_000), learning_rate(124_000_000), learning_rate(7_000_000_000)
        (0.0002, 1e-05, 1e-06)
        >>> learning_rate(124_000_000, lora=8)
        0.0001

    """
    rate = 1e-5 * (1.24e8 / max(n_parameters, 1)) ** 0.57
    return min(LR, rounded(rate * (1 if lora is None else 10)))


def rounded(x: float) -> float:
    """Return a number with two digits: what is derived must not depend on the last bits.

    Example:
        >>> rounded(0.012345)
        0.012

    """
    return float(f"{x:.1e}")
