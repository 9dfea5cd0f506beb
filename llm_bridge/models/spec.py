"""A model's identity: which weights, how they are loaded, at which temperature it is sampled.

torch is imported when a model is loaded, not when its options are listed.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from llm_bridge.models.names import SERVERS, looks_like_path
from theory.commands.options import OptionError, Options, option

if TYPE_CHECKING:
    from llm_bridge.models.load import CausalLM

__all__ = ["Dtype", "ModelSpec"]

Dtype = Literal["float16", "bfloat16", "float32", "float64"]


@dataclass(frozen=True)
class ModelSpec(Options):
    """Which model, and how it is read. Two specifications of one model can be an expert and its
    imperfect copy.

    `model` may also be a `Path`. A checkpoint that is quantised on disk is loaded as its
    configuration says; `bits` rounds further, see `llm_bridge.models.weights.quantise`.

    Raises:
        ValueError: a value is out of range; names it.

    Example:
        >>> str(ModelSpec("gpt2", temperature=0.8, bits=4))
        'float32, temperature 0.8, weights of 4 bits'

    """

    model: str = option(
        help="causal language model: folder, GGUF file, hub id, smollm2, or letters (a tiny one)",
        metavar="M",
        main=True,
    )
    temperature: float = option(1.0, help="at which the model is sampled", above=0, metavar="T")
    dtype: Dtype = option("float32", help="of the weights")
    bits: int | None = option(
        None, help="round the matrices of the layers", unit="bits", low=2, high=16, metavar="B"
    )
    adapter: str | None = option(
        None, help="LoRA adapter, folder or hub id, merged into the weights", metavar="DIR"
    )
    device: str | None = option(
        None,
        help="torch device",
        metavar="DEVICE",
        default_text="the GPU if there is one, of each process its own",
        affects_results=False,
    )
    device_map: str | None = option(
        None,
        help="'auto' spreads the model over several GPUs and the CPU",
        metavar="MAP",
        affects_results=False,
    )

    def __post_init__(self) -> None:
        """Take a path as the text that it is, and check all values."""
        if isinstance(self.model, os.PathLike):
            object.__setattr__(self, "model", os.fspath(self.model))
        super().__post_init__()

    @classmethod
    def read(cls, namespace: argparse.Namespace, prefix: str = "", **defaults: Any) -> Self:
        """Read the options of the command line; a folder that is not there is refused at once.

        Raises:
            OSError: model or adapter looks like a path, and there is nothing.
            ValueError: a value is out of range.

        """
        spec = super().read(namespace, prefix, **defaults)
        for path in (spec.model, spec.adapter):
            if path is None or path.startswith(SERVERS) or not looks_like_path(path):
                continue
            if not os.path.exists(os.path.expanduser(path)):
                raise OSError(
                    f"{path}: no model there; give a folder with a config.json or a GGUF file, or "
                    "a hub id"
                )
        return spec

    def check(self) -> None:
        """Refuse an empty name, and two ways to place the model."""
        for name in ("model", "adapter"):
            if getattr(self, name) == "":
                raise OptionError(name, "must name a folder or a hub id", "")
        if self.device is not None and self.device_map is not None:
            raise OptionError("device", "and {device_map}: give one of them")

    def unread(self) -> dict[str, str]:
        """A server has its model already."""
        if not self.served:
            return {}
        own = self.declared().keys() - {"model", "temperature"}
        return dict.fromkeys(own, "is not read with {model} at a server, which says it")

    @property
    def served(self) -> bool:
        """Whether the model is at a server: `model` is the URL of its API."""
        return self.model.startswith(SERVERS)

    def __str__(self) -> str:
        """How it is read, for reports that name the model themselves."""
        parts = [self.dtype, f"temperature {self.temperature:g}"]
        parts += [] if self.bits is None else [f"weights of {self.bits} bits"]
        parts += [] if self.adapter is None else [f"adapter {Path(self.adapter).name}"]
        return ", ".join(parts)

    def load(self, *, reward_model: bool = False) -> CausalLM:
        """Load the causal language model, merge the adapter, round the weights.

        Args:
            reward_model: load an explicit reward model instead, a sequence classifier with one
                label.

        Raises:
            OSError: the model or the adapter cannot be loaded.
            ValueError: it is no such model, its checkpoint is incomplete, the adapter or the
                tokenizer is another model's, there is nothing to round, or the model is at a
                server (`llm_bridge.models.served.connect`).

        """
        if self.served:
            raise ValueError(
                f"{self.model}: logits are read here, and a server shows log-probabilities of "
                "tokens only, which endorm score reads; give the model's folder, GGUF file or hub "
                "id"
            )
        from llm_bridge.models.load import load_checkpoint
        from llm_bridge.models.weights import merge_adapter, quantise

        lm = load_checkpoint(self, reward_model=reward_model)
        if self.adapter is not None:
            lm = merge_adapter(lm, self.adapter)
        if self.bits is not None:
            quantise(lm, self.bits)
        return lm

    def load_pair(self, expert: ModelSpec) -> tuple[CausalLM, CausalLM]:
        """Load this model and its expert; the same object twice where only the temperature differs.

        Raises:
            OSError: a model cannot be loaded.
            ValueError: see `load`; or the vocabularies differ.

        """
        from llm_bridge.models.load import require_same_vocabulary

        lm = self.load()
        same = replace(expert, temperature=self.temperature) == self
        teacher = lm if same else expert.load()
        require_same_vocabulary(lm, teacher)
        return lm, teacher

    def default_expert(self) -> ModelSpec:
        """The expert where none is named: the same model, colder where the model itself is sampled
        at temperature 1.

        >>> ModelSpec("gpt2").default_expert().temperature
        0.9
        """
        return replace(self, temperature=0.9 if self.temperature == 1.0 else 1.0)
