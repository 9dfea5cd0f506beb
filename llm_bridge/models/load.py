"""Causal language models: loading one, and telling it from others."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import huggingface_hub
import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError

from llm_bridge.models.calls import first_line
from llm_bridge.models.gate import ModelReader, context_of, inspect
from llm_bridge.models.gguf import converted, find_gguf, read_tokenizer
from llm_bridge.models.hub import cache_without_hub
from llm_bridge.models.names import looks_like_path
from llm_bridge.models.prompt_format import PromptFormat
from llm_bridge.models.text_notes import TextNotes
from theory.storage.files import parsed_json

if TYPE_CHECKING:
    from llm_bridge.models.spec import ModelSpec

__all__ = [
    "CausalLM",
    "fingerprint",
    "first_line",
    "load_checkpoint",
    "load_tokenizer",
    "require_same_tokenizer",
    "require_same_vocabulary",
    "save",
]


@dataclass(frozen=True, eq=False)
class CausalLM:
    """A causal language model and its tokenizer.

    Attributes:
        model: a ``transformers`` model with a language-model head, in evaluation mode.
        tokenizer: its tokenizer.
        name: what messages and reports call it.
        format: how prompts and responses are put to it.
        text_notes: what was found about the texts that it was given.

    """

    model: Any
    tokenizer: Any
    name: str
    format: PromptFormat = PromptFormat()  # noqa: RUF009  # frozen
    text_notes: TextNotes = field(default_factory=TextNotes, repr=False)

    @cached_property
    def reader(self) -> ModelReader:
        """How its distributions are read: checked once, when they are first needed.

        Raises:
            ValueError: the model is refused, see `llm_bridge.models.gate.inspect`.

        """
        return inspect(self.model, self.name)

    @property
    def findings(self) -> tuple[str, ...]:
        """What a reader of its numbers should know: how it is read, and the texts it was given."""
        reader = vars(self).get("reader")
        read = () if reader is None else tuple(f"{self.name}: {found}" for found in reader.findings)
        return read + self.text_notes.sentences()

    def read_as(self, other: CausalLM) -> CausalLM:
        """Return this model, given the token ids of `other`: by its tokenizer and format.

        Models that are compared have one vocabulary, but a base model has no chat template, or
        another. What was found of this model is kept, so that it is not checked again.
        """
        found = other
        if other.model is not self.model:
            found = replace(
                self, tokenizer=other.tokenizer, format=other.format, text_notes=other.text_notes
            )
        if "reader" in vars(self):
            vars(found).setdefault("reader", self.reader)
        return found

    @property
    def vocab_size(self) -> int:
        """Number of logits at a position (the tokenizer may name fewer tokens)."""
        return self.reader.vocab_size

    @property
    def context(self) -> int | None:
        """Number of positions the model was built for; `None` where it has no such number."""
        return context_of(self.model)

    def require_room(self, what: str, positions: int) -> None:
        """Raise `ValueError` unless the model has that many positions."""
        if self.context is not None and positions > self.context:
            raise ValueError(
                f"{what} need {positions} positions, {self.name} has {self.context}; shorten them"
            )


EXAMPLE = Path(__file__).parent / "letters"
"""A model of 16,864 parameters that comes with this package, under the name ``letters``: trained on
what the expert of ``theory/studies/letters.npz`` writes after the prompts A and B.
"""


def load_checkpoint(spec: ModelSpec, *, reward_model: bool) -> CausalLM:
    """Load model and tokenizer from a local folder, a GGUF file or the hub, as `ModelSpec.load`
    does before it changes the weights.

    Args:
        spec: which model, its dtype, and where it is placed. What looks like a path never asks the
            hub. Of several processes each takes its own GPU.
        reward_model: whether it is a sequence classifier with one label, not a causal model.

    Raises:
        OSError: there is no such folder, or the model can be neither found on disk nor downloaded.
        ValueError: not such a model; an incomplete checkpoint; another's tokenizer; no such device.

    Example:
        >>> import tempfile
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.models.spec import ModelSpec
        >>> folder = tempfile.mkdtemp()
        >>> save(letter_lm(4), folder)
        >>> load_checkpoint(ModelSpec(folder), reward_model=False).vocab_size
        4
        >>> load_checkpoint(ModelSpec("./missing"), reward_model=False)
        Traceback (most recent call last):
        OSError: ./missing: no model there; give a folder with a config.json or a GGUF file, or ...

    """
    kind = REWARD_MODEL if reward_model else CAUSAL
    name = _on_disk(spec.model)
    file = find_gguf(name)
    local = file is not None or looks_like_path(name)
    with _quiet(), cache_without_hub(local=local):
        folder = name if file is None else str(_from_gguf(file, kind))
        if local and not os.path.isfile(os.path.join(folder, "config.json")):
            raise OSError(
                f"{name}: no model there; give a folder with a config.json or a GGUF file, or a "
                "hub id"
            )
        try:
            model, report, tokenizer = _from_pretrained(folder, kind, spec)
        except (OSError, SafetensorError) as error:
            remedy = (
                "give a complete model folder"
                if local
                else "download it first or give a local folder"
            )
            raise OSError(f"{name}: cannot be loaded ({first_line(error)}); {remedy}") from None
        except Exception as error:  # of what a damaged file holds, transformers raises anything
            raise ValueError(
                f"{name}: not a {kind.name} that can be used here ({first_line(error)}); give "
                "another model"
            ) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"{name}: the checkpoint lacks {len(missing)} weights of a {type(model).__name__} "
            f"({missing[0]}, …); give a checkpoint of a {kind.name}"
        )
    if report["unexpected_keys"]:
        unused = sorted(report["unexpected_keys"])
        count = f"{len(unused)} weights of the checkpoint are not used ({unused[0]}, …)"
        warnings.warn(f"{name}: {count}: it is not of this {type(model).__name__}", stacklevel=3)
    shown = Path(name).name if local else name
    lm = CausalLM(model.eval(), tokenizer, shown if file is None else file.stem)
    if spec.device_map is None:
        _place(model, spec.device)
    rows = model.config.get_text_config().vocab_size if reward_model else lm.vocab_size
    _require_own_tokenizer(lm, rows)
    return lm


def load_tokenizer(name: str) -> tuple[Any, Any]:
    """Load the tokenizer and generation configuration of a model, and no weights.

    Args:
        name: folder, GGUF file or hub id.

    Raises:
        OSError: there is no such folder or file, or it is damaged.
        ValueError: it has no tokenizer that is known here.

    Example:
        >>> import tempfile
        >>> from llm_bridge.models.cloned import letter_lm
        >>> folder = tempfile.mkdtemp()
        >>> save(letter_lm(4), folder)
        >>> load_tokenizer(folder)[0]("cab")["input_ids"]
        [2, 0, 1]

    """
    name = _on_disk(name)
    file = find_gguf(name)
    if file is not None:
        tokenizer, ends = read_tokenizer(file)
        return tokenizer, transformers.GenerationConfig(eos_token_id=ends or None)
    with _quiet(), cache_without_hub(local=looks_like_path(name)):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            _require_generation_config(name)
        except Exception as error:  # of what a damaged file holds, transformers raises anything
            raise OSError(
                f"{name}: no tokenizer there ({first_line(error)}); give a model's folder, GGUF "
                "file or hub id"
            ) from None
        try:
            return tokenizer, transformers.GenerationConfig.from_pretrained(name)
        except OSError:  # the model's configuration says it, if there is one
            pass
        try:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError):
            return tokenizer, transformers.GenerationConfig()
    return tokenizer, transformers.GenerationConfig.from_model_config(config)


def _on_disk(name: str) -> str:
    """Return the path that a name stands for; a hub id stays one."""
    if name == EXAMPLE.name and not os.path.exists(name):
        return str(EXAMPLE)
    return os.path.expanduser(name)


def _from_gguf(file: Path, kind: _Kind) -> Path:
    if kind is REWARD_MODEL:
        raise ValueError(f"{file}: a GGUF file holds no {kind.name}; give its folder or hub id")
    return converted(file)


def _from_pretrained(name: str, kind: _Kind, spec: ModelSpec) -> tuple[Any, Any, Any]:
    """Model, report on its weights, and tokenizer."""
    kind.require(transformers.AutoConfig.from_pretrained(name, trust_remote_code=False))
    model, report = kind.auto.from_pretrained(
        name,
        dtype=getattr(torch, spec.dtype),
        output_loading_info=True,
        device_map=spec.device_map,
        trust_remote_code=False,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    _require_generation_config(name)
    return model, report, tokenizer


def _place(model: Any, device: str | None) -> None:
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device!r}: {first_line(error)}; give another device") from None


def _require_generation_config(name: str) -> None:
    """Raise `OSError` for a damaged one: without a word, ``transformers`` goes on with other end
    tokens.
    """
    file = "generation_config.json"
    path = os.path.join(name, file) if os.path.isdir(name) else try_to_load_from_cache(name, file)
    if isinstance(path, str) and os.path.isfile(path):
        try:
            parsed_json(Path(path).read_bytes())
        except ValueError as error:
            raise OSError(f"{file}: {error}") from None


def _require_own_tokenizer(lm: CausalLM, rows: int) -> None:
    """Models often have more rows than their tokenizer has tokens, never fewer, and never twice as
    many.
    """
    tokens = max(lm.tokenizer.get_vocab().values(), default=-1) + 1
    if not rows / 2 <= tokens <= rows:
        sizes = f"its tokenizer has {tokens} tokens, the model {rows}"
        raise ValueError(
            f"{lm.name}: {sizes}, so they do not belong together; give the model's own tokenizer"
        )


def save(lm: CausalLM, folder: str | Path, weights: dict[str, Any] | None = None) -> None:
    """Write model (these weights, or its own) and tokenizer to `folder`, from which
    `ModelSpec.load` reads them back.

    Example:
        >>> import tempfile
        >>> from llm_bridge.models.cloned import letter_lm
        >>> from llm_bridge.models.spec import ModelSpec
        >>> lm, folder = letter_lm(4), tempfile.mkdtemp()
        >>> save(lm, folder)
        >>> fingerprint(ModelSpec(folder).load()) == fingerprint(lm)
        True

    """
    with _quiet():
        lm.model.save_pretrained(folder, state_dict=weights)
        lm.tokenizer.save_pretrained(folder)


def require_same_vocabulary(model: CausalLM, expert: CausalLM) -> None:
    """Raise `ValueError`, with the first difference, unless token ids mean the same in both
    models.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> require_same_vocabulary(letter_lm(4), letter_lm(5))
        Traceback (most recent call last):
        ValueError: letters and letters: different vocabularies (4 against 5 tokens); compare ...

    """
    if model.vocab_size != expert.vocab_size:
        sizes = f"{model.vocab_size} against {expert.vocab_size} tokens"
        raise ValueError(f"{_different(model, expert)} ({sizes}); {SHARE}")
    require_same_tokenizer(model, expert)


def require_same_tokenizer(model: CausalLM, other: CausalLM) -> None:
    """Raise `ValueError` unless both tokenizers map tokens to the same ids; one of the models may
    have more logits than tokens.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> require_same_tokenizer(letter_lm(4), letter_lm(5))
        Traceback (most recent call last):
        ValueError: letters and letters: different vocabularies (token 'e' has id None against 4...

    """
    one = model.tokenizer.get_vocab()
    two = other.tokenizer.get_vocab()
    if one != two:
        token = min(
            (t for t in one.keys() | two.keys() if one.get(t) != two.get(t)),
            key=lambda t: (len(t), t),
        )
        ids = f"token {token!r} has id {one.get(token)} against {two.get(token)}"
        raise ValueError(f"{_different(model, other)} ({ids}); {SHARE}")


SHARE = "compare models that share a tokenizer"


def _different(one: CausalLM, two: CausalLM) -> str:
    return f"{one.name} and {two.name}: different vocabularies"


def fingerprint(lm: CausalLM) -> str:
    """Return a hash of the vocabulary and some entries of every weight: another checkpoint of that
    name has another one.

    Example:
        >>> from llm_bridge.models.cloned import letter_lm
        >>> one, same, other = letter_lm(4), letter_lm(4), letter_lm(4, seed=1)
        >>> fingerprint(one) == fingerprint(same), fingerprint(one) == fingerprint(other)
        (True, False)

    """
    found = hashlib.sha256(repr(sorted(lm.tokenizer.get_vocab().items())).encode(errors="replace"))
    for name, weight in lm.model.named_parameters():
        if weight.device.type != "meta":
            flat = weight.detach().flatten()
            found.update(
                name.encode()
                + flat[:: max(1, len(flat) // 64)][:64].double().cpu().numpy().tobytes()
            )
    return found.hexdigest()


def _architectures(config: Any) -> list[str]:
    return getattr(config, "architectures", None) or [type(config).__name__]


def _require_causal(config: Any) -> None:
    architectures = _architectures(config)
    # A masked language model would load (the auto class has a causal head for it) and predict the
    # wrong thing.
    masked = any(architecture.endswith("ForMaskedLM") for architecture in architectures)
    if masked or type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise ValueError(f"a {architectures[0]} does not predict the next token")


def _require_one_label(config: Any) -> None:
    architectures = _architectures(config)
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise ValueError(f"a {architectures[0]} is not a sequence classifier")
    if config.num_labels != 1:
        raise ValueError(f"it has {config.num_labels} labels, a reward model has one")


class _Kind(NamedTuple):
    """A kind of model: what messages call it, what loads it, and what its configuration must be."""

    name: str
    auto: Any
    require: Callable[[Any], None]


CAUSAL = _Kind("causal language model", transformers.AutoModelForCausalLM, _require_causal)
REWARD_MODEL = _Kind(
    "reward model", transformers.AutoModelForSequenceClassification, _require_one_label
)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and warnings of ``transformers``: what matters of them is raised as
    an error.
    """
    logging = transformers.utils.logging
    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    hub = huggingface_hub.utils.logging
    hub_verbosity = hub.get_verbosity()
    logging.set_verbosity_error()
    hub.set_verbosity(logging.ERROR)  # it tells of every try
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
