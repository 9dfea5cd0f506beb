"""The token tree of a language model: its exact policy on every prefix, in place of samples.

Each prefix of up to ``H − 1`` tokens goes through the model once, continuing from the key/value
cache of its parent, and the logits at its last position become a row of a
`theory.mdp.policy.Policy`. From there on a language model is a tabular policy, and everything in
`theory` applies.

Where the whole tree is too large, some tokens of a state are kept and all others together become
one token more, the *rest*. Its probability is theirs, the response is over after it, and nothing is
rewarded there. That reads each response up to its first token outside, so divergences (KL, Rényi,
total variation) and entropies are lower bounds of those with all tokens (data processing), and so
is ``ε_π``; the mean of ``log π̂``, with it the return, is an upper one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from llm_bridge.models.head import evaluation
from llm_bridge.models.load import CausalLM, encode_prompt
from llm_bridge.read.prefixes import PrefixReader, require_integer, require_token_ids, select
from theory.arrays.namespace import require_positive
from theory.mdp.dynamics import Dynamics, Table, Tree, require_tree_memory
from theory.mdp.policy import Policy

__all__ = ["REST", "TokenTree", "parse_tokens", "token_tree"]

REST, OWN = -1, -2
"""In the place of an id: all tokens that have no place of their own; one of a state's most probable
tokens.
"""


@dataclass(frozen=True, eq=False)
class TokenTree:
    """A language model's policy on its token tree.

    The dynamics are a `Tree` where every token has a state after it. With a rest token or end
    tokens they are a `Table`: each layer after the first has one more state, its last, in which the
    response is over; a single token is allowed there. All other states are numbered as in a tree of
    the `B` tokens that go on: ``s·B + b``.

    Attributes:
        policy: the policy, with the logits as its gauge (that of the rest token is the log-sum-exp
            of its tokens').
        token_ids: the model's id of each token of each state: `H` integer arrays ``(n_h, V)``,
            `REST` for the rest token. Where a response is over they mean nothing.
        left_out: probability of the tokens without a place of their own, by layer: `H` arrays
            ``(n_h,)``. The rest token has it, and without a rest token the others share it in
            proportion.
        prompts: the `P` texts.
        end_tokens: ids after which a response is over.

    """

    policy: Policy
    token_ids: tuple[np.ndarray, ...]
    left_out: list[np.ndarray]
    prompts: tuple[str, ...]
    end_tokens: tuple[int, ...] = ()

    @property
    def rest(self) -> int | None:
        """The policy's rest token (the last one), or `None`."""
        ids = self.token_ids[0][0]
        return len(ids) - 1 if ids[-1] == REST else None

    @property
    def max_left_out(self) -> float:
        """Largest probability, over the states, of the tokens without a place of their own."""
        return float(np.concatenate(self.left_out).max())  # NaN, where one of them is


def token_tree(
    lm: CausalLM,
    prompts: Sequence[str],
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

    The tree has all tokens; or `tokens`, all others forbidden or, with `rest`, together as one; or
    with `top_k` the most probable of each state; or the tokens of another tree.

    Args:
        lm: the model.
        prompts: `P` prompts, of any lengths.
        horizon: tokens `H` of a response.
        tokens: ids of the sub-vocabulary, in the order of the policy's tokens; `None` for all.
        rest: the tokens outside the sub-vocabulary are not forbidden: they are the policy's last
            token.
        top_k: the tokens of a state are its `k` most probable ones that go on (most probable
            first), the end tokens, and the rest.
        end_tokens: ids after which a response is over.
        like: the tree of another model, whose tokens, rest token and end tokens are read from this
            one too.
        temperature: temperature at which the model is sampled.
        memory: bytes that reading may hold besides the tree itself: caches from the prompt to the
            last layer, the logits and (estimated) activations of one pass. More prefixes go through
            the model in one pass if larger.
        terminal_layer: also read the states after the last token, for ``terminal="bootstrap"`` of
            `theory.solve.reward.endogenous_reward`. One more layer: `B` times as many prefixes.

    Raises:
        ValueError: an argument is out of range, a prompt does not fit, the tree does not fit into
            the machine's memory, or a single prefix not into `memory`.

    """
    require_integer("horizon", horizon)
    require_integer("memory", memory)
    temperature = float(require_positive("temperature", temperature))
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError(
            f"prompts={prompts!r}: must be a sequence of at least one text, such as ['once upon a "
            "time']"
        )
    if like is None:
        layout = _layout(lm, tokens, rest, top_k, end_tokens)
    else:
        _require_same_tree(
            lm,
            like,
            prompts,
            horizon,
            tokens is not None or rest or top_k is not None or end_tokens,
        )
        layout = _Layout(like.token_ids[0][0], like.end_tokens)
    P, B, layers = len(prompts), len(layout.goes_on), horizon + bool(terminal_layer)
    _require_tree(lm, layout, P, horizon, terminal_layer)
    ids = [encode_prompt(lm, prompt, layers) for prompt in prompts]
    reader = _TreeReader(lm, layers, B, memory)
    reader.at_once(ids)

    # a tree read again has the same dynamics, not equal ones: comparing those takes time
    known = None if like is None or terminal_layer else like.policy.dynamics
    dynamics = layout.dynamics(P, horizon, layers) if known is None else known
    tables = _Tables(layout, dynamics.layer_sizes, P * B**horizon if terminal_layer else 0, like)
    total = P * sum(B**h for h in range(layers))
    with (
        evaluation(lm.model),
        tqdm(total=total, desc=f"{lm.name}: prefixes", disable=None, leave=False) as bar,
    ):
        for h, states, logits in reader.read(ids, tables.id_of):
            tables.write(h, states, logits.div_(temperature))
            bar.update(len(states))
    policy = Policy.from_logits(dynamics, tables.logits)
    if terminal_layer and policy.log_normalizers is not None:
        policy = replace(policy, log_normalizers=(*policy.log_normalizers, tables.after))
    return TokenTree(policy, tables.token_ids, tables.left_out, tuple(prompts), layout.end_tokens)


def parse_tokens(lm: CausalLM, text: str) -> list[int]:
    """Token ids from ``"1,2,3"`` (ids with commas between) or ``"abc"`` (each character is one
    token).

    Raises:
        ValueError: nothing is given, or a character is not a single token of the vocabulary; names
            it.

    """
    if not text:
        raise ValueError("tokens='': give ids such as 1,2,3 or characters such as abc")
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*,?\s*", text) and "," in text:
        return [int(part) for part in text.split(",") if part.strip()]
    found = {character: _token_of(lm.tokenizer, character) for character in text}
    bad = [character for character, token in found.items() if token is None]
    if bad:
        raise ValueError(
            f"tokens={text!r}: {bad[0]!r} is not a single token of {lm.name}; give ids such as "
            "1,2,3"
        )
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


@dataclass(frozen=True, eq=False)
class _Layout:
    """The tokens of every state: `ids` ``(V,)``, with `OWN` where each state has its own; some end
    the response.
    """

    ids: np.ndarray
    end_tokens: tuple[int, ...]

    @cached_property
    def goes_on(self) -> np.ndarray:
        """``(B,)`` tokens with a state after them."""
        return np.flatnonzero((self.ids != REST) & ~np.isin(self.ids, self.end_tokens))

    @property
    def stops(self) -> bool:
        """Whether a response can be over before its last token."""
        return len(self.goes_on) < len(self.ids)

    @property
    def has_rest(self) -> bool:
        """Whether the last token is the rest."""
        return bool(self.ids[-1] == REST)

    @cached_property
    def over(self) -> np.ndarray:
        """``(V,)`` mask of the one token where a response is over: the rest token, or else the last
        end token.
        """
        tokens = np.arange(len(self.ids))
        return np.asarray(tokens == np.setdiff1d(tokens, self.goes_on)[-1])

    def dynamics(self, n_prompts: int, horizon: int, layers: int) -> Dynamics:
        """Where each token leads; with ``H + 1`` layers also the last one."""
        V, B, weights = len(self.ids), len(self.goes_on), np.full(n_prompts, 1.0 / n_prompts)
        going = [n_prompts * B**h for h in range(layers)]
        if not self.stops:
            return Dynamics(V, tuple(going[:horizon]), Tree(), weights, (None,) * horizon)
        sizes = [n + (h > 0) for h, n in enumerate(going)]
        next_states: list[np.ndarray] = []
        for h, following in enumerate(going[1:]):
            table = np.full((sizes[h], V), following)  # the last state, where the response is over
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
    """What is read of each layer: logits ``(n_h, V)``, ids likewise, probability left out
    ``(n_h,)``.

    `after` ``(n_H,)`` are the log-sum-exps in the states after the last token (`n_after` of them go
    on).
    """

    def __init__(
        self, layout: _Layout, sizes: Sequence[int], n_after: int, like: TokenTree | None
    ) -> None:
        self.layout, self.own = layout, layout.ids == OWN
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
        """Id of the `b`-th token that goes on from a state that has been written, elementwise:
        ``(n,)``.
        """
        ids: np.ndarray = self.token_ids[h][states, self.layout.goes_on[b]]
        return ids

    def write(self, h: int, states: np.ndarray, logits: torch.Tensor) -> None:
        """Write what the logits ``(n, vocabulary)`` of these states say, the temperature divided
        out.
        """
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
        """Logits of the tokens ``(n, V)``, and the probability of those without a place of their
        own ``(n,)``.
        """
        index = torch.from_numpy(ids[:, : ids.shape[-1] - self.layout.has_rest])
        inside = logits.gather(-1, index)
        if index.shape[-1] == logits.shape[-1]:
            return inside.numpy(), np.zeros(len(inside))
        # summed over the outside tokens themselves: one minus the inside would lose all digits of a
        # small mass
        outside = logits.scatter(-1, index, -torch.inf).logsumexp(dim=-1)
        left_out = torch.exp(outside - torch.logaddexp(inside.logsumexp(dim=-1), outside))
        if self.layout.has_rest:
            inside = torch.cat([inside, outside[:, None]], dim=-1)
        return inside.numpy(), left_out.numpy()


@dataclass(frozen=True, eq=False)
class _Siblings:
    """Prefixes of layer `h` that are still to be read, from the `start`-th on: the prompts, or
    children of `states`.

    `prefixes` ``(n, length)`` and the `cache` belong to `states` ``(n,)`` of the layer above (of
    the prompts, there).
    """

    h: int
    states: np.ndarray
    prefixes: np.ndarray
    cache: Any = None
    start: int = 0


IdOf = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


class _TreeReader(PrefixReader):
    """The logits after every prefix of a tree, each read once.

    Blocks of prefixes are read depth first, so that the caches of one branch exist at a time. A
    child's cache is a copy of its parent's row; the parent keeps its own for the children in the
    next block.

    Args:
        lm: the model.
        layers: layers of the tree.
        branching: children `B` of a prefix.
        memory: bytes, see `token_tree`.

    """

    def __init__(self, lm: CausalLM, layers: int, branching: int, memory: int) -> None:
        super().__init__(lm, layers, memory)
        self.branching = branching

    def at_once(self, prompts: Sequence[Sequence[int]]) -> int:
        """Prefixes in one pass, for prompts up to the longest of these; see `rows`."""
        length = max(map(len, prompts))
        # each layer above keeps its cache for children still to come; an only child needs its
        # parent's alone
        several = self.branching > 1
        cached = (
            sum(length + h for h in range(self.layers))
            if several
            else 2 * (length + self.layers - 1)
        )
        return self.rows(length, cached, len(prompts) * max(1, self.branching ** (self.layers - 1)))

    def read(
        self, prompts: list[list[int]], id_of: IdOf
    ) -> Iterator[tuple[int, np.ndarray, torch.Tensor]]:
        """Layer, states ``(n,)`` and logits ``(n, vocabulary)`` of one block after another.

        `id_of` says which id the `b`-th child of a state of a layer appends, once the state has
        been read. A block holds prompts of one length only: no padding, which models treat
        differently. The longest come first: what does not fit shows at once.
        """
        for length in sorted({len(ids) for ids in prompts}, reverse=True):
            group = [p for p, ids in enumerate(prompts) if len(ids) == length]
            texts = [prompts[p] for p in group]
            rows, shares = self.at_once(texts), self.shares_cache(np.array(texts[:1]))
            waiting = [_Siblings(0, np.array(group), np.array(texts))]
            while waiting:
                h, states, prefixes, cache = self._next_block(waiting, rows, id_of)
                logits, cache = self.logits(prefixes, cache, shares)
                if h + 1 < self.layers and self.branching:
                    waiting.append(_Siblings(h + 1, states, prefixes, cache))
                del cache  # else the next block's would stand beside it
                yield h, states, logits

    def _next_block(
        self, waiting: list[_Siblings], rows: int, id_of: IdOf
    ) -> tuple[int, np.ndarray, np.ndarray, Any]:
        """Layer, states, prefixes and cache of up to `rows` prefixes, taken from the end of
        `waiting`.
        """
        group = waiting.pop()
        B = self.branching if group.h else 1
        stop = min(group.start + rows, len(group.states) * B)
        if stop < len(group.states) * B:
            waiting.append(replace(group, start=stop))
        parents, b = np.divmod(np.arange(group.start, stop), B)
        states, prefixes = group.states[parents], group.prefixes[parents]
        if not group.h:
            return 0, states, prefixes, None
        prefixes = np.concatenate([prefixes, id_of(group.h - 1, states, b)[:, None]], axis=1)
        cache = None if group.cache is None else select(group.cache, parents)
        return group.h, states * B + b, prefixes, cache


def _layout(
    lm: CausalLM,
    tokens: Sequence[int] | None,
    rest: bool,
    top_k: int | None,
    end_tokens: Sequence[int],
) -> _Layout:
    ends = require_token_ids(lm, "end_tokens", end_tokens)
    ids, V = np.arange(lm.vocab_size), lm.vocab_size
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
    # logits, log-probabilities, two temporaries; successors, ids and mask of a table; what follows
    # the last token
    per_prefix, B = 32 + 24 * layout.stops + 16 * terminal_layer, max(len(layout.goes_on), 1)
    per_prefix = math.ceil(per_prefix * len(layout.ids) / B)
    remedy = (
        "use a smaller horizon, tokens or top_k, or fewer prompts; or draw responses (endorm "
        "check --sampled N)"
    )
    require_tree_memory(B, horizon, n_prompts, f"the token tree of {lm.name}", per_prefix, remedy)


def _require_same_tree(
    lm: CausalLM, like: TokenTree, prompts: Sequence[str], horizon: int, own_tokens: object
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
