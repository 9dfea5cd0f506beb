"""The token tree of a language model: its exact policy on every prefix, in place of samples.

Each prefix of up to ``H − 1`` tokens goes through the model once, and the logits at its last position become a row
of a `theory.policy.Policy`. From there on a language model is a tabular policy, and everything in `theory` applies.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.model import CausalLM, encode_prompt
from theory.arrays import require_memory, require_positive, soft_maximum
from theory.dynamics import Dynamics, Tree, require_tree_memory
from theory.policy import Policy

__all__ = ["TokenTree", "parse_tokens", "token_tree"]


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A language model's policy on the tree of a sub-vocabulary.

    Attributes:
        policy: the policy on `Tree` dynamics, with the sub-vocabulary's logits as its gauge. Token `a` of the policy
            is ``token_ids[a]`` of the model.
        token_ids: ``(V,)`` token ids of the model.
        left_out: probability of the tokens outside the sub-vocabulary, by layer: `H` arrays ``(n_h,)``.

    """

    policy: Policy
    token_ids: np.ndarray
    left_out: list[np.ndarray]

    @property
    def max_left_out(self) -> float:
        """Largest probability, over the states, of the tokens outside the sub-vocabulary."""
        return max(float(mass.max()) for mass in self.left_out)


def token_tree(
    lm: CausalLM,
    prompts: Sequence[str],
    horizon: int,
    *,
    tokens: Sequence[int] | None = None,
    temperature: float = 1.0,
    batch_size: int = 1024,
    terminal_layer: bool = False,
) -> TokenTree:
    """Read a model's policy on every prefix of a token tree.

    The logits of the sub-vocabulary, in double precision, are the policy's logits: outside tokens are forbidden, and
    `TokenTree.left_out` says how much probability that takes away. Prompts are equally likely.

    Args:
        lm: the model.
        prompts: `P` prompts, of any lengths.
        horizon: tokens `H` of a response.
        tokens: ids of the sub-vocabulary (`V` of them), in the order of the policy's tokens; `None` for all.
        temperature: temperature at which the model is sampled.
        batch_size: prefixes in one pass of the model.
        terminal_layer: also read the states after the last token, for ``terminal="bootstrap"`` of
            `theory.reward.endogenous_reward`. One more layer: `V` times as many prefixes.

    Raises:
        ValueError: an argument is out of range, a prompt does not fit, or the tree does not fit into memory.

    """
    require_integer("horizon", horizon)
    require_integer("batch_size", batch_size)
    temperature = float(require_positive("temperature", temperature))
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(f"prompts={prompts!r}: must be a sequence of at least one text, such as ['once upon a time']")
    token_ids = _check_tokens(lm, tokens)
    V, P, layers = len(token_ids), len(prompts), horizon + bool(terminal_layer)
    # a layer's logits, their copy in token-major order, and two temporaries of the softmax
    require_tree_memory(V, horizon, P, f"the token tree of {lm.name}", bytes_per_prefix=4 * 8)
    sizes = [P * V**h for h in range(layers)]
    rows = min(batch_size, sizes[-1])
    require_memory(3 * 8 * rows * lm.vocab_size, f"the logits of {rows:,} prefixes", "use a smaller batch_size")

    ids = [encode_prompt(lm, prompt, layers) for prompt in prompts]
    logits = [np.empty((n, V)) for n in sizes[:horizon]]
    left_out = [np.empty(n) for n in sizes[:horizon]]
    after = np.empty(sizes[-1])
    with tqdm(total=sum(sizes), desc=f"{lm.name}: prefixes", disable=None, leave=False) as bar:
        for h in range(layers):
            for states, inputs in _prefixes(ids, h, token_ids, batch_size):
                inside, outside = _split(_last_logits(lm.model, inputs), token_ids, temperature)
                if h < horizon:
                    logits[h][states], left_out[h][states] = inside, outside
                else:
                    after[states] = soft_maximum(inside / temperature, 1.0)
                bar.update(len(states))
    dynamics = Dynamics(V, tuple(sizes[:horizon]), Tree(), np.full(P, 1.0 / P), (None,) * horizon)
    policy = Policy.from_logits(dynamics, logits, temperature)
    if terminal_layer and policy.log_normalizers is not None:
        policy = replace(policy, log_normalizers=(*policy.log_normalizers, after))
    return TokenTree(policy, token_ids, left_out)


def parse_tokens(lm: CausalLM, text: str) -> list[int]:
    """Token ids from ``"1,2,3"`` (ids with commas between) or ``"abc"`` (each character is one token).

    Raises:
        ValueError: nothing is given, or a character is not a single token of the vocabulary; names it.

    """
    if not text:
        raise ValueError("tokens='': give ids such as 1,2,3 or characters such as abc")
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*,?\s*", text) and "," in text:
        return [int(part) for part in text.split(",") if part.strip()]
    found = {character: _token_of(lm.tokenizer, character) for character in text}
    bad = [character for character, token in found.items() if token is None]
    if bad:
        raise ValueError(f"tokens={text!r}: {bad[0]!r} is not a single token of {lm.name}; give ids such as 1,2,3")
    return [token for character in text if (token := found[character]) is not None]


def _token_of(tokenizer: Any, character: str) -> int | None:
    """The token that is `character` and nothing else: by its name, or else as it is encoded."""
    named = tokenizer.get_vocab().get(character)
    if named is not None:
        return int(named)
    try:
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
    except Exception:  # tokenizers raise a bare Exception for a word without an id
        return None
    return int(ids[0]) if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def require_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}={value!r}: must be an integer of at least 1")


def _check_tokens(lm: CausalLM, tokens: Sequence[int] | None) -> np.ndarray:
    token_ids = np.arange(lm.vocab_size) if tokens is None else np.asarray(list(tokens))
    if not token_ids.size or token_ids.ndim != 1 or not np.issubdtype(token_ids.dtype, np.integer):
        raise ValueError(f"tokens={tokens!r}: must be a sequence of at least one token id")
    outside = token_ids[(token_ids < 0) | (token_ids >= lm.vocab_size)]
    if outside.size:
        raise ValueError(f"tokens: {outside[0]} is not an id of {lm.name}; use ids from 0 to {lm.vocab_size - 1}")
    ids, counts = np.unique(token_ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"tokens: {ids[counts > 1][0]} is given twice; give each token once")
    return token_ids


def _prefixes(
    prompts: list[list[int]], h: int, token_ids: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The states of layer `h` and the ids of their prefixes, in batches: ``(n,)`` and ``(n, length)``.

    A batch holds prompts of one length only: no padding, which models treat differently.
    """
    V = len(token_ids)
    places = V ** np.arange(h - 1, -1, -1)
    for length in sorted({len(ids) for ids in prompts}):
        group = np.array([p for p, ids in enumerate(prompts) if len(ids) == length])
        texts = np.array([prompts[p] for p in group])
        for start in range(0, len(group) * V**h, batch_size):
            member, written = np.divmod(np.arange(start, min(start + batch_size, len(group) * V**h)), V**h)
            response = token_ids[written[:, None] // places % V]
            yield group[member] * V**h + written, np.concatenate([texts[member], response], axis=1)


def _last_logits(model: Any, inputs: np.ndarray) -> torch.Tensor:
    """Logits at the last position of each row, ``(n, vocabulary)``, in double precision on the CPU."""
    accepted = inspect.signature(model.forward).parameters
    ids = torch.from_numpy(inputs).to(model.device)
    options = {"attention_mask": torch.ones_like(ids), "use_cache": False, "logits_to_keep": 1}
    with torch.inference_mode():
        output = model(input_ids=ids, **{name: value for name, value in options.items() if name in accepted})
    last: torch.Tensor = output.logits[:, -1].cpu().double()
    return last


def _split(logits: torch.Tensor, token_ids: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the sub-vocabulary ``(n, V)``, and the probability of all other tokens ``(n,)``."""
    inside = torch.from_numpy(token_ids)
    if len(token_ids) == logits.shape[-1]:
        return logits[:, inside].numpy(), np.zeros(len(logits))
    # summed over the outside tokens themselves: one minus the inside would lose all digits of a small mass
    outside = torch.softmax(logits / temperature, dim=-1).index_fill_(-1, inside, 0.0).sum(dim=-1)
    return logits[:, inside].numpy(), outside.numpy()
