"""Read a language model's exact policy on every prefix of its token tree, in place of samples.

Each prefix of up to ``H − 1`` response tokens goes through the model once, continuing from the
key/value cache of its parent. The logits at its last position become a row of a
`theory.mdp.policy.Policy`: a language model is then a tabular policy, and all of `theory` applies.

If the whole tree is too large, some tokens of each state are kept and all others are merged into
one more token, the *rest*. It has their total probability; after it the response is over, and
nothing is rewarded. So each response is read up to its first token outside. Divergences (KL, Rényi,
total variation), entropies and ``ε_π`` are then lower bounds of those with all tokens (data
processing), and the mean of ``log π̂``, with it the return, is an upper bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.models.calls import evaluation
from llm_bridge.models.load import CausalLM
from llm_bridge.models.prompts import Prompt, encode_prompt
from llm_bridge.read.prefixes import (
    TreeReader,
    require_integer,
    require_prompts,
    require_token_ids,
)
from theory.arrays.namespace import require_positive
from theory.mdp.dynamics import Dynamics, Table, Tree, require_tree_memory
from theory.mdp.policy import Policy

__all__ = ["REST", "TokenTree", "parse_tokens", "token_tree"]

REST = -1
"""In place of a token id: all tokens that are not listed, merged into one."""

OWN = -2
"""In place of a token id: one of the most probable tokens of the state, different in each."""


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A language model's policy on its token tree.

    The dynamics are a `Tree` if every token leads to a further state. With a rest token or end
    tokens they are a `Table`: each layer after the first has one more state, its last, in which the
    response is over and a single token is allowed. All other states are numbered as in a tree of
    the `B` tokens that continue: ``s·B + b``.

    Attributes:
        policy: policy with the logits as its gauge; the rest token's logit is the log-sum-exp of
            those it merges.
        token_ids: model's id of each token of each state: `H` integer arrays ``(n_h, V)``, `REST`
            for the rest token. In states where the response is over they mean nothing.
        left_out: probability of the tokens that are not listed: `H` arrays ``(n_h,)``. It is that
            of the rest token; without one, the listed tokens share it in proportion.
        prompts: `P` texts or conversations.
        end_tokens: ids after which a response is over.

    """

    policy: Policy
    token_ids: tuple[np.ndarray, ...]
    left_out: list[np.ndarray]
    prompts: tuple[Prompt, ...]
    end_tokens: tuple[int, ...] = ()

    @property
    def rest(self) -> int | None:
        """The policy's rest token (its last token), or `None`."""
        ids = self.token_ids[0][0]
        return len(ids) - 1 if ids[-1] == REST else None

    @property
    def max_left_out(self) -> float:
        """Largest probability, over the states, of the tokens that are not listed."""
        return float(np.concatenate(self.left_out).max())  # NaN if one of them is


def token_tree(
    lm: CausalLM,
    prompts: Sequence[Prompt],
    horizon: int,
    *,
    tokens: Sequence[int] | None = None,
    rest: bool = False,
    top_k: int | None = None,
    end_tokens: Sequence[int] = (),
    like: TokenTree | None = None,
    temperature: float = 1.0,
    memory: int = 2**30,
    terminal_layer: bool = False,
) -> TokenTree:
    """Read a model's policy on every prefix of a token tree. Prompts are equally likely.

    The tree has all tokens of the model; or those of `tokens`, where the others are forbidden or,
    with `rest`, merged; or with `top_k` the most probable of each state; or those of another tree.

    Args:
        lm: model to read.
        prompts: `P` texts or conversations, of any lengths.
        horizon: tokens `H` of a response.
        tokens: ids of the sub-vocabulary, in the order of the policy's tokens; `None` for all.
        rest: merge the tokens outside the sub-vocabulary into the policy's last token, instead of
            forbidding them.
        top_k: list the `k` most probable tokens of each state that do not end a response (most
            probable first), then the end tokens, then the rest.
        end_tokens: ids after which a response is over.
        like: tree of another model, whose tokens, rest token and end tokens are used.
        temperature: temperature at which the model is sampled.
        memory: bytes for reading, besides the tree itself: caches from the prompt to the last
            layer, logits and (estimated) activations of one pass. The larger, the more prefixes go
            through the model at once.
        terminal_layer: also read the states after the last token, for ``terminal="bootstrap"`` of
            `theory.solve.reward.endogenous_reward`. That takes `B` times as many prefixes.

    Raises:
        ValueError: an argument is out of range, a prompt does not fit, a single prefix does not fit
            into `memory`, or the tree not into the machine.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> tree = token_tree(lm, ["a", "bc"], horizon=2)
        >>> [table.shape for table in tree.policy.log_probs]
        [(2, 4), (8, 4)]
        >>> token_tree(lm, ["a"], 2, tokens=[0, 1], rest=True).token_ids[0].tolist()
        [[0, 1, -1]]

    """
    require_integer("horizon", horizon)
    require_integer("memory", memory)
    temperature = float(require_positive("temperature", temperature))
    require_prompts(prompts)
    if like is None:
        layout = _layout(lm, tokens, rest, top_k, end_tokens)
    else:
        chosen = tokens is not None or rest or top_k is not None or bool(end_tokens)
        _require_same_tree(lm, like, prompts, horizon, chosen)
        layout = _Layout(like.token_ids[0][0], like.end_tokens)
    P = len(prompts)
    B = len(layout.goes_on)
    layers = horizon + bool(terminal_layer)
    _require_tree(lm, layout, P, horizon, terminal_layer)
    ids = [encode_prompt(lm, prompt, layers) for prompt in prompts]
    reader = TreeReader(lm, layers, B, memory)
    reader.at_once(ids)  # raises before the tree is allocated

    if like is None or terminal_layer:
        dynamics = layout.dynamics(P, horizon, layers)
    else:  # the same object, not an equal one: comparing trees takes time
        dynamics = like.policy.dynamics
    tables = _Tables(layout, dynamics.layer_sizes, P * B**horizon if terminal_layer else 0, like)
    total = P * sum(B**h for h in range(layers))
    with (
        evaluation(lm.model),
        tqdm(total=total, desc=f"{lm.name}: prefixes", disable=None, leave=False) as bar,
    ):
        for h, states, logits in reader.read(ids, tables.id_of):
            tables.fill(h, states, logits.div_(temperature))
            bar.update(len(states))
    policy = Policy.from_logits(dynamics, tables.logits)
    if terminal_layer and policy.log_normalizers is not None:
        policy = replace(policy, log_normalizers=(*policy.log_normalizers, tables.after))
    return TokenTree(policy, tables.token_ids, tables.left_out, tuple(prompts), layout.end_tokens)


def parse_tokens(lm: CausalLM, text: str) -> list[int]:
    """Parse token ids from ``"1,2,3"`` (ids) or ``"abc"`` (each character is one token).

    Raises:
        ValueError: the text is empty, or a character is not a single token of the vocabulary.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> lm = letter_lm(4)
        >>> parse_tokens(lm, "ab"), parse_tokens(lm, "2,3")
        ([0, 1], [2, 3])

    """
    if not text:
        raise ValueError("tokens='': give ids such as 1,2,3 or characters such as abc")
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*,?\s*", text) and "," in text:
        return [int(part) for part in text.split(",") if part.strip()]
    return [_token_of(lm, character, text) for character in text]


def _token_of(lm: CausalLM, character: str, text: str) -> int:
    """Find the token for exactly `character`: by its name in the vocabulary, else by encoding."""
    named = lm.tokenizer.get_vocab().get(character)
    if named is not None:
        return int(named)
    with suppress(Exception):  # tokenizers raise a bare one for a word without an id
        ids = lm.tokenizer(character, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != lm.tokenizer.unk_token_id:
            return int(ids[0])
    raise ValueError(
        f"tokens={text!r}: {character!r} is not a single token of {lm.name}; give ids such as 1,2,3"
    )


@dataclass(frozen=True, eq=False)
class _Layout:
    """Tokens of every state.

    Attributes:
        ids: ``(V,)`` token ids, with `OWN` where each state has another and `REST` for the rest.
        end_tokens: those after which the response is over.

    """

    ids: np.ndarray
    end_tokens: tuple[int, ...]

    @cached_property
    def goes_on(self) -> np.ndarray:
        """``(B,)`` positions in `ids` of the tokens that lead to a further state."""
        return np.flatnonzero((self.ids != REST) & ~np.isin(self.ids, self.end_tokens))

    @property
    def stops(self) -> bool:
        """Whether a response can be over before it has `H` tokens."""
        return len(self.goes_on) < len(self.ids)

    @property
    def has_rest(self) -> bool:
        """Whether the last token is the rest."""
        return bool(self.ids[-1] == REST)

    @cached_property
    def over(self) -> np.ndarray:
        """``(V,)`` mask of the one token allowed once a response is over."""
        tokens = np.arange(len(self.ids))
        return np.asarray(tokens == np.setdiff1d(tokens, self.goes_on)[-1])

    def dynamics(self, n_prompts: int, horizon: int, layers: int) -> Dynamics:
        """Return the dynamics of the tree; with ``H + 1`` layers the last token's too."""
        V = len(self.ids)
        B = len(self.goes_on)
        weights = np.full(n_prompts, 1.0 / n_prompts)
        going = [n_prompts * B**h for h in range(layers)]
        if not self.stops:
            return Dynamics(V, tuple(going[:horizon]), Tree(), weights, (None,) * horizon)
        sizes = [n + (h > 0) for h, n in enumerate(going)]
        next_states: list[np.ndarray] = []
        for h, following in enumerate(going[1:]):
            table = np.full((sizes[h], V), following)  # by default to where the response is over
            table[: going[h], self.goes_on] = np.arange(following).reshape(going[h], B)
            next_states.append(table)
        allowed: list[np.ndarray | None] = [None]
        for n in sizes[1:horizon]:
            mask = np.ones((n, V), dtype=bool)
            mask[-1] = self.over
            allowed.append(mask)
        eos = int(np.argmax(self.over)) if B == V - 1 else None
        return Dynamics(
            V, tuple(sizes[:horizon]), Table(tuple(next_states)), weights, tuple(allowed), eos
        )


class _Tables:
    """Tables of a tree, filled layer by layer.

    Attributes:
        logits: ``(n_h, V)`` of each layer.
        token_ids: ``(n_h, V)`` of each layer.
        left_out: ``(n_h,)`` of each layer, see `TokenTree`.
        after: log-sum-exps in the states after the last token, of which `n_after` are not over.

    """

    def __init__(
        self, layout: _Layout, sizes: Sequence[int], n_after: int, like: TokenTree | None
    ) -> None:
        self.layout = layout
        self.own = layout.ids == OWN
        self.logits = [np.full((n, len(layout.ids)), -np.inf) for n in sizes]
        self.left_out = [np.zeros(n) for n in sizes]
        self.after = np.zeros(n_after + layout.stops)
        if layout.stops:
            for table in self.logits[1:]:
                table[-1, layout.over] = 0.0
        ids = [np.broadcast_to(layout.ids, table.shape) for table in self.logits]
        if self.own.any():
            ids = [np.where(each == OWN, REST, each) for each in ids]
        self.token_ids = tuple(ids) if like is None else like.token_ids

    def id_of(self, h: int, states: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the id ``(n,)`` of the `b`-th token that continues from states already filled."""
        ids: np.ndarray = self.token_ids[h][states, self.layout.goes_on[b]]
        return ids

    def fill(self, h: int, states: np.ndarray, logits: torch.Tensor) -> None:
        """Enter states ``(n,)`` of a layer from their logits ``(n, vocabulary)``."""
        if h == len(self.logits):
            inside = logits if self.layout.has_rest else logits[:, self.layout.ids]
            self.after[states] = inside.logsumexp(dim=-1).numpy()
            return
        if self.own.any():
            others = np.setdiff1d(np.arange(logits.shape[-1]), self.layout.end_tokens)
            chosen = logits[:, others].topk(int(self.own.sum())).indices.numpy()
            self.token_ids[h][np.ix_(states, self.own)] = others[chosen]
        self.logits[h][states], self.left_out[h][states] = self._split(
            logits, self.token_ids[h][states]
        )

    def _split(self, logits: torch.Tensor, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits ``(n, V)`` of the listed tokens, and the others' probability ``(n,)``."""
        index = torch.from_numpy(ids[:, : ids.shape[-1] - self.layout.has_rest])
        inside = logits.gather(-1, index)
        if index.shape[-1] == logits.shape[-1]:
            return inside.numpy(), np.zeros(len(inside))
        # summed over the outside itself: one minus the inside has no digits of a small mass
        outside = logits.scatter(-1, index, -torch.inf).logsumexp(dim=-1)
        left_out = torch.exp(outside - torch.logaddexp(inside.logsumexp(dim=-1), outside))
        if self.layout.has_rest:
            inside = torch.cat([inside, outside[:, None]], dim=-1)
        return inside.numpy(), left_out.numpy()


def _layout(
    lm: CausalLM,
    tokens: Sequence[int] | None,
    rest: bool,
    top_k: int | None,
    end_tokens: Sequence[int],
) -> _Layout:
    V = lm.vocab_size
    ends = require_token_ids(lm, "end_tokens", end_tokens)
    ids = np.arange(V)
    if tokens is not None:
        ids = require_token_ids(lm, "tokens", tokens)
        if not len(ids):
            raise ValueError(f"tokens={tokens!r}: must be a sequence of at least one token id")
    if top_k is not None:
        require_integer("top_k", top_k)
        most = V - len(ends) - 1
        if tokens is not None:
            raise ValueError(f"top_k={top_k} and tokens={tokens!r}: give one of them")
        if top_k > most:
            raise ValueError(
                f"top_k={top_k}: leaves no token for the rest; give at most {most}, or none for "
                "all tokens"
            )
        ids = np.concatenate([np.full(top_k, OWN), ends])
    elif rest and len(ids) == V:
        raise ValueError(f"rest=True: no token of {lm.name} is left; give tokens=, fewer than {V}")
    if rest or top_k is not None:
        ids = np.append(ids, REST)
    return _Layout(ids, tuple(ends.tolist()))


def _require_tree(
    lm: CausalLM, layout: _Layout, n_prompts: int, horizon: int, terminal_layer: bool
) -> None:
    B = max(len(layout.goes_on), 1)
    # logits, log-probabilities and two temporaries; successors, ids and mask of a `Table`; the
    # states after the last token
    per_token = 32 + 24 * layout.stops + 16 * terminal_layer
    per_prefix = math.ceil(per_token * len(layout.ids) / B)
    remedy = (
        "use a smaller horizon, tokens or top_k, or fewer prompts; or draw responses (endorm "
        "check --sampled N)"
    )
    require_tree_memory(B, horizon, n_prompts, f"the token tree of {lm.name}", per_prefix, remedy)


def _require_same_tree(
    lm: CausalLM, like: TokenTree, prompts: Sequence[Prompt], horizon: int, own_tokens: bool
) -> None:
    if own_tokens:
        raise ValueError(
            "like: has tokens of its own; leave out tokens, rest, top_k and end_tokens"
        )
    if tuple(prompts) != like.prompts or horizon != like.policy.horizon:
        own = f"{len(like.prompts)} prompts, horizon {like.policy.horizon}"
        raise ValueError(f"like: a tree of other prompts or another horizon ({own}); give the same")
    largest = max(int(ids.max()) for ids in like.token_ids)
    if largest >= lm.vocab_size:
        raise ValueError(
            f"like: {largest} is not an id of {lm.name}; compare models that share a tokenizer"
        )
