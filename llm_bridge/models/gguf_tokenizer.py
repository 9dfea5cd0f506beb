"""Build a tokenizer from the vocabulary in a GGUF file.

Two kinds of vocabulary are read, and whatever else a file names is refused:

    gpt2    byte-level BPE: a text is split by rules, which `tokenizer.ggml.pre` names, and the
            bytes of each piece are merged in the order of the file's merges
    llama   SentencePiece: spaces are written ▁, and whatever has the best score is merged first

``transformers`` converts such vocabularies too, but takes GPT-2's rules for all that it does not
know: SmolLM2, whose digits stand alone, would read ``x  = 1`` and indented code as other tokens
than it was trained on, and its numbers would look right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from llm_bridge.models.gguf_header import Header

__all__ = ["build_tokenizer"]

GPT2: list[PreTokenizer] = [ByteLevel(add_prefix_space=False, use_regex=True)]
"""The rules of GPT-2, which `tokenizers` has by themselves."""

DIGITS: list[PreTokenizer] = [Digits(individual_digits=True), *GPT2]
"""Each digit by itself, then the rules of GPT-2."""


def _rules(pattern: str) -> list[PreTokenizer]:
    return [Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]


QWEN2 = _rules(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = _rules(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: dict[str, list[PreTokenizer]] = {
    "gpt-2": GPT2,
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "llama-bpe": LLAMA3,
}
"""How a text is split before bytes are merged, by what `tokenizer.ggml.pre` says."""

WHOLE = ("llama3", "llama-v3", "llama-bpe")
"""Vocabularies whose pieces are tokens wherever they can be, whether merges lead there or not; and
they begin with a BOS token where the file does not say."""

NORMALISED = ("qwen2", "deepseek-r1-qwen")
"""Vocabularies that read a text in Unicode's normal form C."""

CONTROL = 3
USER = 4
"""Types of tokens that no text is merged to: they are found in it as they are."""

REMEDY = "give the model's folder in the layout of transformers"


def build_tokenizer(header: Header) -> Any:
    """Build the tokenizer that a GGUF file describes.

    Args:
        header: of the file.

    Returns:
        A ``transformers`` tokenizer with special tokens and chat template.

    Raises:
        ValueError: the file has no vocabulary, or one of which it is not known how it splits texts.

    Example:
        >>> from pathlib import Path
        >>> found = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"]}
        >>> metadata = {f"tokenizer.ggml.{key}": value for key, value in found.items()}
        >>> build_tokenizer(Header(Path("a.gguf"), metadata, (), 0))("abb")["input_ids"]
        [2, 1]

    """
    vocabulary = header.vocabulary
    tokens = vocabulary.get("tokens")
    if not tokens:
        raise ValueError(f"it has no tokenizer (no tokenizer.ggml.tokens); {REMEDY}")
    if len(set(tokens)) < len(tokens):
        raise ValueError(f"its vocabulary has a token twice; {REMEDY}")
    kind = vocabulary.get("model")
    if kind == "gpt2":
        backend = _byte_level(vocabulary)
    elif kind == "llama" and header.architecture == "llama":
        backend = _sentencepiece(vocabulary)
    else:
        raise ValueError(
            f"its tokenizer is of the kind {kind!r} of {header.architecture}, of which it is not "
            f"known here how it reads a text; {REMEDY}"
        )
    types = vocabulary.get("token_type") or [1] * len(tokens)
    for type_, special in ((CONTROL, True), (USER, False)):
        added = [
            AddedToken(token, special=special, normalized=False)
            for token, its_type in zip(tokens, types, strict=True)
            if its_type == type_
        ]
        backend.add_tokens(added)
    named = {
        f"{name}_token": _token(tokens, vocabulary.get(f"{key}_token_id"))
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    backend.post_processor = _around(vocabulary, tokens)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **named
    )
    tokenizer.chat_template = header.metadata.get("tokenizer.chat_template")
    return tokenizer


def _byte_level(vocabulary: dict[str, Any]) -> Tokenizer:
    rules = vocabulary.get("pre")
    if rules not in SPLITS:
        named = "does not say" if rules is None else f"says {rules!r}, which is not known here,"
        raise ValueError(
            f"it {named} how its vocabulary splits a text (tokenizer.ggml.pre; known: "
            f"{', '.join(SPLITS)}); {REMEDY}"
        )
    if "merges" not in vocabulary:
        raise ValueError(f"its vocabulary has no merges (tokenizer.ggml.merges); {REMEDY}")
    merges = [tuple(merge.split(" ", 1)) for merge in vocabulary["merges"]]
    ids = {token: i for i, token in enumerate(vocabulary["tokens"])}
    backend = Tokenizer(models.BPE(ids, merges, ignore_merges=rules in WHOLE))
    if rules in NORMALISED:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = Sequence(SPLITS[rules])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(vocabulary: dict[str, Any]) -> Tokenizer:
    tokens = vocabulary["tokens"]
    scores = vocabulary.get("scores")
    if not scores or len(scores) != len(tokens):
        raise ValueError(f"its vocabulary has no scores (tokenizer.ggml.scores); {REMEDY}")
    ids = {token: i for i, token in enumerate(tokens)}
    types = vocabulary.get("token_type") or [1] * len(tokens)
    merges = [
        (-scores[i], ids[token[:cut]], ids[token[cut:]], token[:cut], token[cut:])
        for i, token in enumerate(tokens)
        if types[i] == 1
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    unknown = _token(tokens, vocabulary.get("unknown_token_id", 0))
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    backend = Tokenizer(
        models.BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = vocabulary.get("add_space_prefix", True)
    spaces = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", left=1)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def _around(vocabulary: dict[str, Any], tokens: list[str]) -> Any:
    """The special tokens that stand before and after a text."""
    before = vocabulary.get("model") == "llama" or vocabulary.get("pre") in WHOLE
    found = []
    for name, default in (("bos", before), ("eos", False)):
        if vocabulary.get(f"add_{name}_token", default):
            token = _token(tokens, vocabulary.get(f"{name}_token_id"))
            if token is None:
                raise ValueError(
                    f"it puts a {name.upper()} token to every text and does not say which "
                    f"(tokenizer.ggml.{name}_token_id); {REMEDY}"
                )
            found.append((name, token))
    special = [(token, tokens.index(token)) for _, token in found]
    begins: Iterable[str] = (token for name, token in found if name == "bos")
    ends: Iterable[str] = (token for name, token in found if name == "eos")
    return processors.TemplateProcessing(
        single=[*begins, "$A", *ends], pair=None, special_tokens=special
    )


def _token(tokens: list[str], i: int | None) -> str | None:
    if i is None:
        return None
    if not 0 <= i < len(tokens):
        raise ValueError(f"a special token has the id {i}, the vocabulary {len(tokens)} tokens")
    return tokens[i]
