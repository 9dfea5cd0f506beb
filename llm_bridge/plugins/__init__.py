"""The endogenous reward as a reward function of other libraries, none of which is imported.

Each module has what its library looks for, scoring with the model that the environment names, and a
``make_…`` that makes the same from a reward in hand. The environment is read in the process that
calls, on a cluster in every worker's:

    ENDORM_MODEL      folder or hub id of the model; the one variable without a default
    ENDORM_HOW        sum (default), mean or logprob, as in `EndogenousReward.aggregate`
    ENDORM_ALPHA      temperature, 1 by default
    ENDORM_GAUGE      logits (default) or logprob
    ENDORM_TERMINAL   zero (default) or bootstrap
    ENDORM_DTYPE      of the weights, float32 by default
    ENDORM_BITS       round the matrices of the layers to so many bits
    ENDORM_ADAPTER    LoRA adapter, folder or hub id, merged into the weights
    ENDORM_DEVICE     by default the GPU if there is one
    ENDORM_DEVICE_MAP "auto" spreads the model over several GPUs and the CPU

The same in all of them:

- Token ids are scored as the library hands them over, so model and policy need one tokenizer. Only
  where a library has nothing but text is it tokenised, prompt and response as the one text that
  they are (`llm_bridge.models.text`).
- A response counts up to and with its first end token, without the padding after it. Of several
  turns in one response that is the first: score them with ``EndogenousReward(…, end_tokens=())``.
- An empty response is scored as one that ends at once: its one token is the model's end of
  sequence. A reward of 0 would be the highest there is where rewards are log-probabilities.
- Threads wait for each other: the model is loaded once, and one pass runs at a time.
- What cannot be scored raises an error and never becomes a number.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from llm_bridge.models.chat import render
from llm_bridge.models.prompt_format import Prompt
from llm_bridge.models.spec import ModelSpec
from llm_bridge.models.text import encode_text
from llm_bridge.read.prefixes import Ids
from llm_bridge.read.reward import Aggregation, EndogenousReward, RewardReading, Score
from theory.commands.options import OptionError, Options, option

__all__ = [
    "Prompt",
    "Rewards",
    "encode_prompts",
    "from_environment",
    "id_rewards",
    "prompt_of_policy",
    "read_variables",
    "require_finite",
    "require_tokenizer",
    "score_rollouts",
]

T = TypeVar("T", bound=Options)

Rewards: TypeAlias = Callable[[Sequence[Ids], Sequence[Ids]], list[float]]
"""From the ids of prompts and of their responses to a reward for each response."""

PREFIX = "ENDORM_"
"""Before the name of every variable: option ``alpha`` is ``ENDORM_ALPHA``."""

_LOCK = threading.Lock()


@dataclass(frozen=True)
class Summary(Options):
    """Say which number is made of a response's rewards, see `EndogenousReward.aggregate`."""

    how: Literal["sum", "mean", "logprob"] = option("sum", help="number made of a response")


def from_environment() -> tuple[EndogenousReward, Aggregation]:
    """Return the reward and the aggregation that the ``ENDORM_…`` variables describe.

    The last model loaded is kept.

    Raises:
        OSError: there is no such model.
        ValueError: ``ENDORM_MODEL`` is not set, or a variable has a value that is not allowed;
            names variable, value and what to give instead.

    """
    if not os.environ.get(f"{PREFIX}MODEL"):
        raise ValueError(
            "ENDORM_MODEL is not set: give the scoring model's folder or hub id, in every worker"
        )
    how = read_variables(Summary).how
    with _LOCK:
        model = read_variables(ModelSpec, without=("temperature",))
        reward = _load(model, read_variables(RewardReading))
    return reward, how


def read_variables(options: type[T], without: Collection[str] = ()) -> T:
    """Return options read from the environment: a variable that is unset or empty is not given.

    Args:
        options: their names, ranges and meanings.
        without: options that have no variable.

    Raises:
        ValueError: a value is refused; names variable, value and what to give instead.

    Example:
        >>> os.environ["ENDORM_ALPHA"] = "0.5"
        >>> read_variables(RewardReading)
        RewardReading(alpha=0.5, gauge='logits', terminal='zero')
        >>> os.environ["ENDORM_GAUGE"] = "q"
        >>> read_variables(RewardReading)
        Traceback (most recent call last):
        ValueError: ENDORM_GAUGE=q: must be one of logits, logprob
        >>> del os.environ["ENDORM_ALPHA"], os.environ["ENDORM_GAUGE"]

    """
    variables = {name: PREFIX + name.upper() for name in options.declared() if name not in without}
    given = {name: words for name in variables if (words := os.environ.get(variables[name]))}
    try:
        return options(
            **{name: options.declared()[name].parse(words) for name, words in given.items()}
        )
    except OptionError as error:
        raise ValueError(error.spelled(variables, given.get(error.name, ""))) from None


@functools.lru_cache(maxsize=1)
def _load(model: ModelSpec, reading: RewardReading) -> EndogenousReward:
    return EndogenousReward(model.load(), reading=reading)


def id_rewards(reward: EndogenousReward, how: Aggregation = "sum") -> Rewards:
    """Make a function that scores token ids, one number for each response.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> log_probs = id_rewards(EndogenousReward(letter_lm(4), end_tokens=()), how="logprob")
        >>> found = log_probs([[2, 0]] * 4, [[0], [1], [2], [3]])
        >>> round(float(np.exp(found).sum()), 3)  # the four tokens that can follow
        1.0

    """
    reward.aggregate([], how)  # what is no aggregation fails here, not after the first rollout

    def rewards(prompt_ids: Sequence[Ids], response_ids: Sequence[Ids]) -> list[float]:
        found: list[float] = reward.aggregate(
            score_rollouts(reward, prompt_ids, response_ids), how
        ).tolist()
        require_finite(reward, found)
        return found

    return rewards


def score_rollouts(
    reward: EndogenousReward, prompt_ids: Sequence[Ids], response_ids: Sequence[Ids]
) -> list[Score]:
    """Score token ids from any thread; an empty response is scored as the end of sequence alone.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.tokenizer.eos_token = "d"
        >>> [score.ids.tolist() for score in score_rollouts(EndogenousReward(lm), [[0]], [[]])]
        [[3]]

    """
    answers = [ids if len(ids) else [_end_token(reward, i)] for i, ids in enumerate(response_ids)]
    with _LOCK:
        return reward.score_ids(prompt_ids, answers, progress=False)


def require_finite(reward: EndogenousReward, rewards: Sequence[Any]) -> None:
    """Raise `ValueError` for a response with a reward that is not finite: one would spoil the whole
    batch.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> require_finite(EndogenousReward(letter_lm(4)), [-1.5, -np.inf])
        Traceback (most recent call last):
        ValueError: responses[1]: reward -inf: letters rules one of its tokens out; ...

    """
    for i, found in enumerate(rewards):
        if not np.isfinite(found).all():
            why = f"{reward.lm.name} rules one of its tokens out; keep the policy from writing that"
            raise ValueError(f"responses[{i}]: reward {found}: {why}")


def _end_token(reward: EndogenousReward, index: int) -> int:
    for source in (reward.lm.tokenizer, getattr(reward.lm.model, "generation_config", None)):
        token = getattr(source, "eos_token_id", None)
        if token is not None:
            return int(token[0] if isinstance(token, list) else token)
    name = reward.lm.name
    raise ValueError(
        f"responses[{index}]: empty, and {name} has no end-of-sequence token to score instead; set "
        "one"
    )


def require_tokenizer(reward: EndogenousReward) -> Any:
    """Return the reward's tokenizer.

    Raises:
        ValueError: it was given none.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> require_tokenizer(EndogenousReward(letter_lm(4).model))
        Traceback (most recent call last):
        ValueError: reward: LlamaForCausalLM has no tokenizer to read texts with; ...

    """
    if reward.lm.tokenizer is None:
        raise ValueError(
            f"reward: {reward.lm.name} has no tokenizer to read texts with; give EndogenousReward "
            "one"
        )
    return reward.lm.tokenizer


def encode_prompts(
    reward: EndogenousReward, prompts: Sequence[Prompt], **template: Any
) -> list[list[int]]:
    """Return the ids of prompts before the policy's response, without special tokens at the end.

    Args:
        reward: has the tokenizer.
        prompts: texts, or conversations, in the chat template with the generation prompt. What the
            template makes of them is what the policy was given, and is taken as it is.
        template: further arguments of ``apply_chat_template``, such as ``tools`` or
            ``enable_thinking=False``.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> encode_prompts(EndogenousReward(letter_lm(4)), ["cab", "d"])
        [[2, 0, 1], [3]]

    """
    require_tokenizer(reward)
    encoded = []
    for i, prompt in enumerate(prompts):
        text, plain = prompt_of_policy(reward, prompt, f"prompts[{i}]", **template)
        encoded.append(encode_text(reward.lm, text, special=plain, name=f"prompts[{i}]"))
    return encoded


def prompt_of_policy(
    reward: EndogenousReward, prompt: Prompt, name: str, **template: Any
) -> tuple[str, bool]:
    """Return the text that a policy was given, and whether special tokens come before it.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> lm.tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
        >>> prompt_of_policy(EndogenousReward(lm), [{"role": "user", "content": "cab"}], "prompt")
        ('[cab]', False)

    """
    if isinstance(prompt, str):
        return prompt, True
    return render(reward.lm, prompt, generation=True, name=name, **template), False
