"""Read log-probabilities of a model that a server has, over HTTP.

A server of the OpenAI completions API is given token ids and says how probable they are::

    echo    one request for a text: the server repeats it, with ``log π`` of every token (vLLM)
    forced  one request for each token: a bias makes the server write it, and the server says how
            probable it was without the bias (llama.cpp)

`connect` tries them on a few tokens. Neither is used that gives another ``log π`` than the server
itself when it writes, that calls the token ids by other texts than the tokenizer here, or that
says it reads more tokens than it is sent.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple
from urllib.parse import urldefrag, urlsplit

import numpy as np

from llm_bridge.models.calls import first_line
from llm_bridge.models.gate import ModelReader
from llm_bridge.models.head import TokenStatistics
from llm_bridge.models.load import CausalLM
from theory.storage.files import parsed_json

__all__ = ["NO_LOGITS", "ServedLM", "Server", "connect"]

NO_LOGITS = "a server shows log-probabilities of tokens, no logits"
"""Why a served model is refused wherever soft values or whole distributions are read."""

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a request that failed is sent again."""

TIMEOUT = 600.0
"""Seconds that one answer may take."""

PARALLEL = 8
"""Requests at a time, where a text is one of them."""

PROBE = 16
"""Tokens of the text on which a server is tried."""

AGREE = 0.1
"""Nats by which two readings of one token may differ: quantised kernels and batches round."""

LEAST = -9000.0
"""Nats below which a number stands for one that the server could not hold."""

BIAS = 100
"""Added to the logit of a token that is to be written; the largest that the API has."""

KEY = "ENDORM_API_KEY"
"""Environment variable with the key of a server that wants one."""

Way = Literal["echo", "forced"]


class _Token(NamedTuple):
    """What a server says of one token.

    Attributes:
        text: the token as text.
        log_prob: ``log π``, nats; `None` for the first token of a text.
        top: the most probable tokens there, by text.
        id: its id; `None` where the server does not say it.

    """

    text: str
    log_prob: float | None
    top: dict[str, float]
    id: int | None = None


@dataclass(frozen=True, eq=False)
class Server:
    """A server of the OpenAI completions API and the model that it has.

    Attributes:
        url: where the API is, without a slash at the end.
        name: what the server calls the model.
        room: most tokens of a prompt and what is written after it; `None` if it does not say.
        generation_config: has the end tokens, as that of a ``transformers`` model.
        way: how tokens are read.
        waits: seconds before a request that failed is sent again.

    Example::

        server = connect("http://127.0.0.1:8000/v1", tokenizer).model
        server.read([5, 7, 11], start=1)  # log π of the tokens 7 and 11, and whether each is greedy

    """

    url: str
    name: str
    room: int | None
    generation_config: Any = None
    way: Way = "echo"
    waits: Sequence[float] = ()

    def read(self, ids: Sequence[int], start: int) -> list[tuple[float, bool]]:
        """Return ``log π``, nats, of each token from `start` on, after all that is before it, and
        whether it is a most probable one.

        Raises:
            OSError: the server is gone, or answers otherwise than it did.
            ValueError: it refuses these tokens.

        """
        found = self.tokens(ids, start)
        for token, told in zip(ids[start:], found, strict=True):
            if told.log_prob is None or not LEAST < told.log_prob < math.inf:
                raise ValueError(
                    f"{self.name}: the server says {told.log_prob} of token {token}, which is no "
                    "log-probability"
                )
        return [
            (token.log_prob, token.log_prob >= max(token.top.values(), default=math.inf))
            for token in found
            if token.log_prob is not None
        ]

    def tokens(self, ids: Sequence[int], start: int) -> list[_Token]:
        """Return what the server says of each token from `start` on."""
        if self.way == "echo":
            # some servers write without end for max_tokens=0: one token, which is left out here
            found = self.complete(ids, echo=True)
            if len(found) != len(ids) + 1:  # some leave out tokens of their own choice
                count = f"{len(found)} tokens of {len(ids)} and one more"
                raise _Failed(self.url, f"the server repeats {count}")
            return found[start : len(ids)]
        told = []
        for at in range(start, len(ids)):
            found = self.complete(ids[:at], logit_bias={str(ids[at]): BIAS})
            if [token.id for token in found] != [ids[at]]:
                raise ValueError(f"{self.name}: the server does not write token {ids[at]}")
            told += found
        return told

    def complete(self, ids: Sequence[int], top: int = 1, **options: Any) -> list[_Token]:
        """Let the server write one token, and return those that it tells of."""
        asked = {"model": self.name, "prompt": [int(token) for token in ids], "max_tokens": 1}
        asked |= {"temperature": 1, "logprobs": top} | options
        answer = _request(f"{self.url}/completions", asked, self.waits)
        try:
            read = (answer.get("usage") or {}).get("prompt_tokens", len(ids))
            if read != len(ids):  # such as one with a token of its own before them
                raise _Failed(self.url, f"the server reads {read} tokens where {len(ids)} are sent")
            return _parsed(answer["choices"][0]["logprobs"])
        except (KeyError, IndexError, TypeError, AttributeError):
            raise _Failed(self.url, "the server gives no log-probabilities") from None


@dataclass(frozen=True, eq=False)
class ServedLM(CausalLM):
    """A causal language model behind a server, made by `connect`: ``log π`` of given tokens.

    All that reads logits raises `ValueError`. `model` is a `Server`.
    """

    model: Server

    @property
    def reader(self) -> ModelReader:
        """Refuse to read logits."""
        raise ValueError(f"{self.name}: {NO_LOGITS}; give the model's folder, GGUF file or hub id")

    @property
    def findings(self) -> tuple[str, ...]:
        """What a reader of its numbers should know: how it is read, and the texts it was given."""
        how = {
            "echo": "its server repeats each text with log-probabilities",
            "forced": "its server is made to write each response, one token at a time",
        }
        served = f"{self.name}: {how[self.model.way]}; that it is causal is not checked"
        return (served, *self.text_notes.sentences())

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the tokenizer has."""
        return int(max(self.tokenizer.get_vocab().values())) + 1

    @property
    def context(self) -> int | None:
        """Number of positions; the last token of a text and one that the server writes need two
        more, which a model that is read here does not.
        """
        return None if self.model.room is None else self.model.room - 2

    @property
    def identity(self) -> str:
        """What tells the model from others: name, server and vocabulary."""
        vocabulary = repr(sorted(self.tokenizer.get_vocab().items())).encode(errors="replace")
        digest = hashlib.sha256(vocabulary).hexdigest()
        return f"{self.name} at {self.model.url}, vocabulary {digest[:16]}"

    def read(
        self, rows: Sequence[np.ndarray], states: Sequence[np.ndarray], tokens: Sequence[np.ndarray]
    ) -> list[TokenStatistics]:
        """Read `tokens` at positions `states` of each row, without normalizers (NaN).

        At each position but the last, the token is the one that the row goes on with.

        Raises:
            OSError: the server is gone, or answers otherwise than it did.
            ValueError: it refuses a row.

        """
        jobs: list[tuple[int, list[int], int]] = []
        for i, (row, at, wanted) in enumerate(zip(rows, states, tokens, strict=True)):
            ends = wanted[at == len(row) - 1].tolist()
            # the first text also has the tokens within the row
            starts = [int(at[0]) + 1] + [len(row)] * (len(ends) - 1)
            jobs += [(i, [*row.tolist(), end], n) for end, n in zip(ends, starts, strict=True)]
        pool = ThreadPoolExecutor(PARALLEL if self.model.way == "echo" else 1)
        try:
            found = list(pool.map(lambda job: self.model.read(job[1], job[2]), jobs))
        finally:
            pool.shutdown(cancel_futures=True)
        told: list[list[tuple[float, bool]]] = [[] for _ in rows]
        for (i, _, _), pairs in zip(jobs, found, strict=True):
            told[i] += pairs
        return [
            TokenStatistics(
                np.array([log_prob for log_prob, _ in pairs], dtype=np.float32),
                np.full(len(pairs), np.nan, dtype=np.float32),
                np.array([greedy for _, greedy in pairs], dtype=bool),
            )
            for pairs in told
        ]


def connect(url: str, tokenizer: Any, generation_config: Any = None) -> ServedLM:
    """Connect to a server of the OpenAI completions API, and find out how it is read.

    Args:
        url: where the API is, usually ending in ``/v1``; ``#NAME`` chooses one of several models.
        tokenizer: that of the served model.
        generation_config: has the end tokens of the model.

    Raises:
        OSError: there is no such server, or it answers no more.
        ValueError: it does not give log-probabilities of tokens that are given, or it has another
            vocabulary.

    Example:
        >>> from llm_bridge.models.cloned import letter_tokenizer
        >>> connect("http://user:secret@127.0.0.1/v1", letter_tokenizer(4))
        Traceback (most recent call last):
        ValueError: http://…@127.0.0.1/v1: a key in the URL would be noted; give it in ...

    """
    url, chosen = urldefrag(url)
    url = url.rstrip("/")
    if "@" in urlsplit(url).netloc:
        shown = url.replace(urlsplit(url).netloc.rpartition("@")[0], "…")
        raise ValueError(f"{shown}: a key in the URL would be noted; give it in {KEY}")
    try:
        models = {str(one["id"]): one for one in _request(f"{url}/models")["data"]}
    except (KeyError, TypeError, ValueError, _Failed) as error:
        reason = error.reason if isinstance(error, _Failed) else first_line(error)
        raise ValueError(f"{url}: has no list of models ({reason}); {GIVE_API}") from None
    if chosen not in models and (chosen or len(models) != 1):
        names = ", ".join(models)
        raise ValueError(
            f"{url}: has the models {names or 'none'}; give {url}#NAME with one of them"
        )
    name = chosen or next(iter(models))
    server = Server(url, name, _room(models[name]), generation_config)
    refused = []
    for way in ("echo", "forced"):
        found = Server(url, name, server.room, generation_config, way)
        try:
            _try(found, tokenizer)
        except (ValueError, _Failed) as error:
            reason = error.reason if isinstance(error, _Failed) else first_line(error)
            refused.append(f"{way}: {reason.removeprefix(f'{name}: ')}")
        else:
            return ServedLM(replace(found, waits=WAITS), tokenizer, name)
    raise ValueError(
        f"{url}: gives no log-probabilities of tokens that it is given ({'; '.join(refused)}); "
        "docs/scoring.md has servers that do"
    )


def _room(described: dict[str, Any]) -> int | None:
    """Return how many tokens fit, where a server says it: vLLM, then llama.cpp."""
    meta = described.get("meta")
    found = described.get("max_model_len") or (meta or {}).get("n_ctx")
    return None if found is None else int(found)


def _try(server: Server, tokenizer: Any) -> None:
    """Raise `ValueError` unless a way to read gives what the server says when it writes."""
    texts = _texts(tokenizer)
    ids = _probe(texts)
    told = server.tokens(ids, 1)
    for token, found in zip(ids[1:], told, strict=True):
        if found.text.strip() != texts[token].strip():
            raise ValueError(
                f"token {token} is {found.text!r} there and {texts[token]!r} in the tokenizer"
            )
    written = server.complete(ids, top=5)[-1]
    # with and without a space before it, which not all servers write
    known: dict[str, list[int]] = {}
    for token, text in texts.items():
        known.setdefault(text.strip(), []).append(token)
    tried = 0
    for text, log_prob in sorted(written.top.items(), key=lambda item: -item[1]):
        tokens = known.get(text.strip(), [])[:4] if text.strip() else []
        read = [server.tokens([*ids, token], len(ids))[0] for token in tokens]
        logs = [found.log_prob for found in read if found.log_prob is not None]
        if not tokens:
            continue
        if not any(abs(log - log_prob) <= AGREE for log in logs):
            shown = ", ".join(f"{log:.3f}" for log in logs)
            raise ValueError(
                f"log π of {text!r} is {shown}, and {log_prob:.3f} where it is written"
            )
        tried += log_prob < math.log(0.6)  # a bias that counted would make it almost 0
    if not tried:
        raise ValueError("no token that it would write is one of the tokenizer")


def _texts(tokenizer: Any) -> dict[int, str]:
    """Return the texts of tokens that are plain words, by id."""
    special = set(tokenizer.all_special_ids)
    ids = sorted(token for token in tokenizer.get_vocab().values() if token not in special)
    spelled = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    pairs = zip(ids, spelled, strict=True)
    return {token: text for token, text in pairs if text.isascii() and text.strip().isprintable()}


def _probe(texts: dict[int, str]) -> list[int]:
    """Return tokens from all parts of a vocabulary."""
    words = [token for token, text in texts.items() if text.strip().isalnum()]
    if not words:
        raise ValueError("the tokenizer has no token that is a word")
    return [words[(2 * n + 1) * len(words) // (2 * PROBE)] for n in range(PROBE)]


def _parsed(found: dict[str, Any]) -> list[_Token]:
    """Read the two forms in which servers tell of tokens."""
    if "content" in found:  # that of chats, which llama.cpp has everywhere
        return [
            _Token(
                each["token"],
                each["logprob"],
                {top["token"]: top["logprob"] for top in each["top_logprobs"]},
                each.get("id"),
            )
            for each in found["content"]
        ]
    tops = found.get("top_logprobs") or [None] * len(found["tokens"])
    return [
        _Token(text, log_prob, top or {})
        for text, log_prob, top in zip(found["tokens"], found["token_logprobs"], tops, strict=True)
    ]


# --- HTTP -----------------------------------------------------------------------------------------


GIVE_API = "give the URL of an OpenAI completions API, which usually ends in /v1"


AGAIN = "and give the same command again: nothing is scored twice"


class _Failed(OSError):
    """The server is there, and says that it is at fault."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}; see what the server wrote, {AGAIN}")
        self.reason = reason


def _request(url: str, body: dict[str, Any] | None = None, waits: Sequence[float] = ()) -> Any:
    """Return what a server answers.

    Args:
        url: of the request.
        body: posted as JSON; nothing for a GET.
        waits: seconds before it is asked again, where it is gone or busy.

    Raises:
        OSError: no answer, or one that says that the server is at fault.
        ValueError: an answer that says that the request is.

    """
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, headers)
    gone = OSError()
    for wait in (0.0, *waits):
        time.sleep(wait)
        try:
            with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
                return parsed_json(answer.read())
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {_message(error)}"
            if error.code in (401, 403):
                raise OSError(f"{url}: refused ({reason}); give its key in {KEY}") from None
            if error.code in (400, 413, 422):  # what was asked is at fault
                raise ValueError(f"the server answers {reason}") from None
            gone = _Failed(url, f"the server answers {reason}")
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = first_line(cause) if isinstance(cause, Exception) else str(cause)
            start = f"start the server (docs/scoring.md), {AGAIN}"
            gone = OSError(f"{url}: no answer ({reason}); {start}")
        except ValueError:
            raise OSError(f"{url}: answers no JSON; {GIVE_API}") from None
    raise gone from None


def _message(error: urllib.error.HTTPError) -> str:
    """Return the message of an error as servers write it, one line."""
    try:
        with error:
            text = error.read().decode(errors="replace")
        found: Any = parsed_json(text)
        for name in ("error", "message", "detail"):
            found = found.get(name, found) if isinstance(found, dict) else found
        text = found if isinstance(found, str) else text
    except (OSError, ValueError, http.client.HTTPException):
        text = error.reason
    return " ".join(str(text).split())[:120]
