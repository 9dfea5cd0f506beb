"""Check a model before any number is read from it.

A causal language model has one distribution of the next token after each row of tokens. It is
defined by reading the row alone, and it can be read in other ways that cost less:

    all prefixes at once   one pass over a row gives the distribution after each of its prefixes
    in a batch             rows of different lengths, padded on the right
    from a cache           token by token, each row going on from its keys and values, or its state

In a sound model all of them agree. `inspect` tries them on a few tokens: a later token must not
change what comes before it, and each way must give what the row gives alone. A model that is not
causal is refused. Other ways that disagree are not used: the model is then read more slowly, and
the `findings` of its `ModelReader` say so. Lengths at which a configuration changes the rules
(sliding windows, chunks, scaled positions) are tried when a row first becomes that long.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch

from llm_bridge.models.calls import (
    call,
    device_of,
    evaluation,
    first_line,
    require_distribution,
)
from llm_bridge.models.head import Head

__all__ = [
    "NO_HEAD",
    "Decoding",
    "ModelReader",
    "aligned",
    "context_of",
    "disagreement",
    "inspect",
    "rounding",
]

PROBE = 12
"""Tokens of the rows that are tried when a model is first read."""

ERRORS = (AttributeError, AssertionError, IndexError, KeyError, TypeError, ValueError, RuntimeError)
"""What models raise that cannot be read in some way."""

CACHES = ("past_key_values", "cache_params", "state", "mems")
"""Names under which models take and return what they keep of the tokens before."""

THRESHOLDS = ("window", "chunk", "original_max_position", "local", "block_size", "topk")
"""Parts of the names of configuration fields that hold a length at which the rules change."""

FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier", "logits_scaling")
"""Config fields that multiply or divide the logits."""

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Config fields that cap the logits by ``cap·tanh(f/cap)``."""

ROUNDING = {
    torch.float64: 1e-6,  # some layers compute in float32 whatever the weights are
    torch.float32: 2e-5,
    torch.float16: 2.5e-3,
    torch.bfloat16: 2e-2,
}
"""Nats by which rounding may move a log-probability, for each nat that the logits are in size. Two
ways to read SmolLM2-135M, 30 layers, differ by a tenth of it in float32 and a third in bfloat16."""

LIVE = 30.0
"""Nats below the most probable token at which a token counts; masks are often just very small."""


NO_HEAD = (
    "no hidden states and head give its logits, which are read as they are, one response at a time"
)
"""Finding of a model whose logits come from no decoder and head."""


class Decoding(NamedTuple):
    """How the distribution after a growing row is read.

    Attributes:
        how: ``"padded"``, from a cache, prompts of different lengths padded on the left;
            ``"equal"``, from a cache, prompts of one length at a time; ``"whole"``, by reading the
            whole row again for each token.
        repeats: whether the cache of a prompt can be repeated for several responses; else the
            prompt is read once for each of them.

    """

    how: Literal["padded", "equal", "whole"]
    repeats: bool


WAYS = (
    Decoding("padded", True),
    Decoding("padded", False),
    Decoding("equal", True),
    Decoding("equal", False),
)
"""Ways to decode, the fastest first; ``whole`` is left where none of them agrees."""


def rounding(model: Any) -> float:
    """Return what rounding may do in a model of this precision, see `ROUNDING`.

    Example:
        >>> rounding(torch.nn.Linear(2, 2)), rounding(torch.nn.Linear(2, 2).bfloat16())
        (2e-05, 0.02)

    """
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.backends.cuda.matmul.fp32_precision == "tf32" and torch.cuda.is_available():
        dtypes.add(torch.float16)  # as many digits
    return max((ROUNDING.get(dtype, ROUNDING[torch.bfloat16]) for dtype in dtypes), default=0.0)


def disagreement(
    found: torch.Tensor, expected: torch.Tensor, tokens: torch.Tensor | None = None
) -> float:
    """Return how far apart two readings of distributions are, for each nat that logits are in size.

    The largest over the rows of the root mean square difference of the log-probabilities, once over
    all tokens within `LIVE` nats of the most probable one and once weighted by probability; and a
    quarter of the difference at one token of each row, which is not averaged out by a large
    vocabulary. The size of logits is at least 5.

    Args:
        found: ``(n, V)`` logits.
        expected: ``(n, V)`` logits.
        tokens: ``(n,)`` a token of each row that matters by itself.

    Example:
        >>> one = torch.tensor([[0.0, 1.0]])
        >>> disagreement(one + 3, one), round(disagreement(-one, one), 3)
        (0.0, 0.2)

    """
    pair = [torch.log_softmax(x.detach().double().cpu(), dim=-1) for x in (found, expected)]
    one, two = (torch.where(x > x.amax(dim=-1, keepdim=True) - LIVE, x, -torch.inf) for x in pair)
    if any(x.isnan().any() for x in pair):
        return math.inf
    live = (one > -torch.inf) | (two > -torch.inf)
    apart = torch.where(live, pair[0] - pair[1], 0.0)
    apart = torch.where((pair[0] == pair[1]) | ~live, 0.0, apart).abs()
    plain = (apart.square().sum(dim=-1) / live.sum(dim=-1)).sqrt()
    weights = (one.exp() + two.exp()) / 2
    weighted = (weights * torch.where(apart.isinf(), 0.0, apart).square()).sum(dim=-1).sqrt()
    largest = torch.maximum(plain, weighted)
    if tokens is not None:
        at = apart.gather(-1, tokens[:, None].cpu())[:, 0]
        largest = torch.maximum(largest, at / 4)
    raw = expected.detach().double().cpu()
    size = torch.where(two > -torch.inf, raw, 0.0).abs().amax(dim=-1).clamp(min=5.0)
    return float((largest / size).max())


def context_of(model: Any) -> int | None:
    """Return the number of positions a model was built for; `None` where it has no such number.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> context_of(letter_lm(4, context=16).model)
        16

    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None or positions < 1 else int(positions)


def aligned(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the tokens of each row to its beginning, so that padding only follows them.

    Args:
        ids: ``(n, K)`` token ids.
        mask: ``(n, K)`` whether there is a token; those of a row are neighbours.

    Returns:
        ``(n, k)`` ids with `k` the length of the longest row, and ``(n,)`` the columns at which the
        rows began.

    Example:
        >>> ids, mask = torch.tensor([[0, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
        >>> aligned(ids, mask.bool())
        (tensor([[5, 6, 6],
                [7, 8, 9]]), tensor([1, 0]))

    """
    first = mask.long().argmax(dim=1)
    columns = torch.arange(int(mask.sum(dim=1).max()), device=ids.device) + first[:, None]
    return ids.gather(1, columns.clamp(max=ids.shape[1] - 1)), first


class ModelReader:
    """How the distributions of a causal language model are read; made by `inspect`.

    Attributes:
        name: what messages call the model.
        model: the model.
        decoder: gives the last hidden states; `None` where no decoder and head give the logits.
        head: maps them to logits; `None` with `decoder`.
        vocab_size: number of logits at a position.
        batches: whether rows can share a pass.
        switches: lengths beyond which earlier distributions would change, in order.
        findings: what a reader of its numbers should know, one sentence each.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> reader = inspect(letter_lm(4).model, "letters")
        >>> reader.vocab_size, reader.findings, reader.decoding(8)
        (4, [], Decoding(how='padded', repeats=True))

    """

    def __init__(
        self, name: str, model: Any, decoder: Any, head: Head | None, vocab_size: int
    ) -> None:
        self.name = name
        self.model = model
        self.decoder = decoder
        self.head = head
        self.vocab_size = vocab_size
        self.batches = True
        self.switches: list[int] = []
        self.findings: list[str] = []
        self._lengths = _thresholds(model)
        self._crossed = 0
        self._known = PROBE
        self._agrees: dict[tuple[Decoding, int], bool] = {}

    def note(self, finding: str) -> None:
        """Add a finding, once, and warn of it."""
        if finding not in self.findings:
            self.findings.append(finding)
            warnings.warn(f"{self.name}: {finding}", stacklevel=4)

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what the head reads after each token: ``(n, k, width)``, or logits without a head.

        Args:
            ids: ``(n, k)`` token ids; rows are padded on the right, with anything.

        """
        if not self.batches and len(ids) > 1:
            return torch.cat([self.states(row[None]) for row in ids])
        parts: list[torch.Tensor] = []
        start = 0
        for stop in (*self.switches, ids.shape[1]):
            if start < min(stop, ids.shape[1]):
                parts.append(self._pass(ids[:, :stop])[:, start:])
                start = stop
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _pass(self, ids: torch.Tensor) -> torch.Tensor:
        if self.decoder is None:
            found: torch.Tensor = call(self.model, ids).logits
        else:
            found = call(self.decoder, ids)[0]
        return found

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits ``(…, V)`` of what `states` returned."""
        return states if self.head is None else self.head.logits(states)

    def next(
        self, ids: torch.Tensor, mask: torch.Tensor, cache: Any, how: str
    ) -> tuple[torch.Tensor, Any]:
        """Return the state after the last token of each row, and the cache of all of them.

        Args:
            ids: ``(n, K)`` token ids.
            mask: ``(n, K)`` whether there is a token.
            cache: cache of all columns but the last; `None` for none.
            how: see `Decoding`.

        Returns:
            ``(n, width)``, undefined for rows whose last column has no token; and the cache, `None`
            where the rows are read again each time.

        """
        if how == "whole":
            rows, _ = aligned(ids, mask)
            last = (mask.sum(dim=1) - 1)[:, None, None]
            states = self.states(rows)
            return states.gather(1, last.expand(-1, 1, states.shape[-1]))[:, 0], None
        options: dict[str, Any] = {"use_cache": True, "attention_mask": None}
        new = ids if cache is None else ids[:, -1:]
        if how == "padded":
            # positions are given to the model: left to itself, it may count the padding
            positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
            options |= {"attention_mask": mask.long()}
            options |= {"position_ids": positions[:, -new.shape[1] :]}
        if cache is not None:
            name, kept = cache
            options[name] = kept
        output = call(self.decoder, new, **options)
        found = [(name, getattr(output, name, None)) for name in CACHES]
        kept = next((each for each in found if each[1] is not None), None)
        return output[0][:, -1], kept

    def prepare(self, length: int) -> None:
        """Check the lengths up to `length` at which the rules change, and that length itself.

        Raises:
            ValueError: in rows of that length the model is not causal, or a row has several
                distributions.

        """
        context = context_of(self.model)
        length = length if context is None else min(length, context)
        for threshold in self._lengths:
            if self._crossed < threshold < length:
                with evaluation(self.model):
                    self._cross(threshold)
                self._crossed = threshold
        # every length of short rows, where a pass is cheap
        if length > self._known and (length <= 64 or length > 1.25 * self._known):
            with evaluation(self.model):
                places = {length // 3, length // 2, 2 * length // 3 | 1, length - 2}
                self._check_row(length, sorted(places), (length // 2 | 1, 2 * length // 3))
            self._known = length

    def decoding(self, length: int) -> Decoding:
        """Return the fastest way to decode rows up to `length` that agrees with reading them whole.

        Raises:
            ValueError: see `prepare`.

        """
        self.prepare(length)
        if any(switch < length for switch in self.switches):  # a cache holds what came before it
            return self._whole()
        # prompts up to a threshold, which responses cross, and prompts beyond it
        lengths = [PROBE // 2, *(n + more for n in self._lengths for more in (0, 2))]
        starts = [n for n in lengths if n < max(length, PROBE // 2 + 1)]
        way = next((way for way in WAYS if all(self._tried(way, n) for n in starts)), None)
        return self._whole() if way is None else way

    def _whole(self) -> Decoding:
        self.note("its cache gives other distributions: every token is written by reading the row")
        return Decoding("whole", repeats=False)

    def _tried(self, way: Decoding, start: int) -> bool:
        if (way, start) not in self._agrees:
            with evaluation(self.model):
                self._agrees[way, start] = self._writes(way, start)
        return self._agrees[way, start]

    def _cross(self, threshold: int) -> None:
        """Look for a switch at this length."""
        context = context_of(self.model)
        n = threshold + 2 if context is None else min(threshold + 2, context)
        if n < 3 or n <= threshold:
            return
        row = _tokens(self.model, self.vocab_size, n)
        at = [threshold // 2, threshold - 1, threshold]
        whole = self._at(row, at)
        before = [k for k in at if k < n - 1]
        self._require_causal(row, whole[: len(before)], before)
        short = self._at(row[:, :threshold], at[:2])
        long = self._at(row[:, : threshold + 1], at)
        if not self._agree(long, whole):
            raise ValueError(
                f"{self.name}: beyond {threshold} tokens its distributions change with each token "
                f"that follows; give rows of at most {threshold} tokens"
            )
        if not self._agree(short, whole[:2]):
            self.switches.append(threshold)
            self.note(
                f"its distributions change once a row has more than {threshold} tokens: longer "
                "rows are read in two passes"
            )

    def _at(self, ids: torch.Tensor, positions: list[int]) -> torch.Tensor:
        """Return the logits ``(k, V)`` of a row ``(1, n)`` alone, after some of its tokens."""
        try:
            found = self._after(self._pass(ids)[0], positions)
        except torch.OutOfMemoryError:
            raise
        except ERRORS as error:
            raise ValueError(
                f"{self.name}: cannot read a row of {ids.shape[1]} tokens ({first_line(error)}); "
                "give another model"
            ) from None
        require_distribution(self.name, found, lambda k: ids[0, : positions[k] + 1].tolist())
        return found

    def _after(self, states: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
        """Return the logits ``(k, V)``, on the CPU, of some states ``(n, width)`` of a row."""
        return self.logits(states[torch.tensor(positions, device=states.device)]).cpu()

    def _agree(
        self, found: torch.Tensor, expected: torch.Tensor, tokens: torch.Tensor | None = None
    ) -> bool:
        return disagreement(found, expected, tokens) <= rounding(self.model)

    def _require_causal(
        self, row: torch.Tensor, expected: torch.Tensor, positions: list[int]
    ) -> None:
        changed = row.clone()
        changed[0, -1] = (row[0, -1] + 1) % _readable(self.model, self.vocab_size)
        found = self._at(changed, positions)
        if not self._agree(found, expected, row[0, [k + 1 for k in positions]]):
            raise ValueError(
                f"{self.name}: not causal, its last of {row.shape[1]} tokens changes the "
                f"distributions before it by {_nats(found, expected)}; give a model of the next "
                "token"
            )

    def _require_one_distribution(self, found: torch.Tensor, row: torch.Tensor, k: int) -> None:
        """Raise unless the first `k` tokens of a row, read alone, give what was found in it."""
        alone = self._at(row[:, :k], [k - 1])
        if not self._agree(found, alone, row[0, [k]]):
            raise ValueError(
                f"{self.name}: gives another distribution after {k} tokens than after the same "
                f"tokens in a row of {row.shape[1]}, by {_nats(found, alone)}; give "
                "another model"
            )

    def check(self) -> None:
        """Check causality, prefixes and batches on a few tokens.

        Raises:
            ValueError: the model is not causal, or one row has several distributions.

        """
        n = min([PROBE, context_of(self.model) or PROBE, *self._lengths])
        if n >= 2:
            self._check_row(n, list(range(n - 1)), (1, n // 2))

    def _check_row(self, n: int, positions: list[int], prefixes: Sequence[int]) -> None:
        """Check a row of `n` tokens: causality, prefixes that are read alone, and batches.

        Args:
            n: tokens of the row.
            positions: after which tokens the last one must change nothing.
            prefixes: numbers of tokens that are read alone.

        """
        row = _tokens(self.model, self.vocab_size, n)
        at = sorted({*positions, *(k - 1 for k in prefixes)})
        whole = self._after(self.states(row)[0], at)
        require_distribution(self.name, whole, lambda k: row[0, : at[k] + 1].tolist())
        if not self.switches:
            kept = [k in positions for k in at]
            self._require_causal(row, whole[kept], positions)
        for k in prefixes:
            self._require_one_distribution(whole[[at.index(k - 1)]], row, k)
        if self.batches and not self._share_a_pass(row, at, whole):
            self.batches = False
            self.note("rows of a batch change each other: each is read alone")

    def _share_a_pass(self, row: torch.Tensor, at: list[int], whole: torch.Tensor) -> bool:
        """Return whether a row and shorter ones, read together, are read as each alone."""
        n = row.shape[1] // 2
        short = row.flip(dims=(1,))
        one = row.flip(dims=(1,)) // 2
        short[:, n:] = one[:, 1:] = 0  # padding
        try:
            states = self.states(torch.cat([row, short, one]))
        except torch.OutOfMemoryError:
            raise
        except ERRORS:
            return False
        pairs = [
            (self._after(states[0], at), whole),
            (self._after(states[1], [n - 1]), self._at(short[:, :n], [n - 1])),
            (self._after(states[2], [0]), self._at(one[:, :1], [0])),
        ]
        return all(self._agree(found, alone) for found, alone in pairs)

    def _writes(self, way: Decoding, start: int) -> bool:
        """Return whether decoding from prompts of `start` tokens agrees with reading whole rows."""
        if self.decoder is None:
            return False
        context = context_of(self.model)
        start = start if context is None else max(1, min(start, context - 3))
        steps = 3 if context is None else min(3, context - start)
        samples = 2
        rows = _tokens(self.model, self.vocab_size, 2 * (start + steps)).view(2, -1)
        rows = rows.to(device_of(self.model))
        lengths = [start, max(1, start // 2) if way.how == "padded" else start]
        rows = rows.repeat_interleave(samples, dim=0)
        # the responses to one prompt differ
        rows[1::2, start:] = rows[1::2, start:].flip(dims=(1,))
        first = torch.tensor([start - n for n in lengths], device=rows.device)
        first = first.repeat_interleave(samples)
        mask = torch.arange(start + steps, device=rows.device) >= first[:, None]
        expected = self.states(aligned(rows, mask)[0])
        try:
            cache: Any = None
            for k in range(steps + 1):
                stop = start + k
                if k == 0 and way.repeats:
                    hidden, cache = self.next(rows[::2, :stop], mask[::2, :stop], None, way.how)
                    hidden = hidden.repeat_interleave(samples, dim=0)
                    cache[1].batch_repeat_interleave(samples)
                else:
                    hidden, cache = self.next(rows[:, :stop], mask[:, :stop], cache, way.how)
                if cache is None:
                    return False
                at = (stop - 1 - first)[:, None, None].expand(-1, 1, expected.shape[-1])
                alone = expected.gather(1, at)[:, 0]
                if not self._agree(self.logits(hidden), self.logits(alone)):
                    return False
        except torch.OutOfMemoryError:
            raise
        except ERRORS:
            return False
        return True


def inspect(model: Any, name: str) -> ModelReader:
    """Check a causal language model, and return how it is read.

    Some forward passes of a dozen tokens, without gradients and in evaluation mode.

    Args:
        model: a ``transformers`` model with a language-model head.
        name: what messages call it.

    Raises:
        ValueError: the model is an encoder-decoder, is not causal, has several
            distributions after one row, has logits
            without a softmax, or predicts tokens that it cannot read; one line with the remedy.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> inspect(letter_lm(4).model, "letters").switches
        []

    """
    training = model.training
    with evaluation(model):
        reader = ModelReader(name, model, *_decoder_and_head(model, name))
        rows = _embeddings(model)
        if rows is not None and rows < reader.vocab_size:
            raise ValueError(
                f"{name}: has logits for {reader.vocab_size} tokens and embeddings for {rows}, so "
                "it cannot read all that it writes; resize its embeddings "
                "(resize_token_embeddings)"
            )
        declared = getattr(model.config.get_text_config(), "vocab_size", reader.vocab_size)
        if declared != reader.vocab_size:
            reader.note(
                f"has {reader.vocab_size} logits, its configuration says {declared}: all count"
            )
        if reader.decoder is None:
            reader.findings.append(NO_HEAD)
        reader.check()
    if training:
        reader.note("was in training mode: it is read in evaluation mode, without dropout")
    return reader


def _decoder_and_head(model: Any, name: str) -> tuple[Any, Head | None, int]:
    """Find the decoder and the head that together reproduce the model's own logits.

    Candidates are tried on a few tokens: some models ignore a scale that their configuration
    declares, or use its inverse.

    Returns:
        Decoder, head, and number of logits. Decoder and head are `None` where nothing fits.

    """
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name}: an encoder-decoder does not continue its prompt; give a decoder")
    declared = getattr(config, "vocab_size", None) or 1
    probe = _tokens(model, declared, min(4, context_of(model) or 4))
    try:
        own = call(model, probe).logits[0]
    except torch.OutOfMemoryError:
        raise
    except ERRORS as error:
        raise ValueError(
            f"{name}: gives no logits for a row of tokens ({first_line(error)}); give a causal "
            "language model"
        ) from None
    V = own.shape[-1]
    limit = max(1e-4, 4 * torch.finfo(own.dtype).eps)
    floor = own.amax(dim=-1, keepdim=True) - LIVE  # masks are often just very small
    size = torch.where(own > floor, own, 0.0).abs().max()
    decoders = [model.get_decoder()] if hasattr(model, "get_decoder") else []
    decoders += [getattr(model, name) for name in ("base_model", "model") if hasattr(model, name)]
    own_head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    # a head of several layers, of which only the last counts as output embeddings
    modules = [own_head, *(part for part in model.children() if part not in decoders)]
    factors = [getattr(config, name, None) for name in FACTORS]
    scales = [
        scale for x in factors if isinstance(x, int | float) and x for scale in (float(x), 1 / x)
    ]
    caps = [float(x) for name in CAPS if (x := getattr(config, name, None))]
    for decoder, module, cap, scale in itertools.product(
        decoders, filter(None, modules), (*caps, None), (*scales, 1.0)
    ):
        head = Head(module, V, scale, cap)
        found = torch.full_like(own, torch.nan, dtype=torch.double)
        try:
            for rows, start, logits in head.blocks(call(decoder, probe)[0][0]):
                found[rows, start : start + logits.shape[-1]] = logits
            if (
                torch.equal(found > floor, own > floor)
                and (found - own)[own > floor].abs().max() <= limit * size
            ):
                return decoder, head, V
        except ERRORS:
            continue  # not a decoder with this head
    require_distribution(name, own, lambda row: probe[0, : row + 1].tolist())
    return None, None, V


def _nats(found: torch.Tensor, expected: torch.Tensor) -> str:
    """Return the largest difference of the log-probabilities of tokens that count, in words."""
    one, two = (torch.log_softmax(x.detach().double(), dim=-1) for x in (found, expected))
    live = two > two.amax(dim=-1, keepdim=True) - LIVE
    return f"up to {float(torch.where(live, one - two, 0.0).abs().max()):.2g} nats"


def _embeddings(model: Any) -> int | None:
    """Return how many tokens the model can read; `None` where it does not say."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except ERRORS:
        return None


def _readable(model: Any, vocab_size: int) -> int:
    return min(vocab_size, _embeddings(model) or vocab_size)


def _tokens(model: Any, vocab_size: int, n: int) -> torch.Tensor:
    """Return a row ``(1, n)`` of tokens that hardly repeat."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(_readable(model, vocab_size), (1, n), generator=generator)


def _thresholds(model: Any) -> list[int]:
    """Return the lengths, in order, at which a field of the configuration changes the rules."""
    context = context_of(model) or 2**20

    def numbers(fields: Any, wanted: bool) -> Iterator[int]:
        if isinstance(fields, dict):
            for name, value in fields.items():
                named = any(part in str(name) for part in THRESHOLDS) and "expert" not in str(name)
                yield from numbers(value, wanted or named)
        elif wanted and type(fields) is int and 3 < fields < context:
            yield fields

    return sorted(set(numbers(model.config.get_text_config().to_dict(), False)))
