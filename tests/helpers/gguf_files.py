"""Small GGUF files, and a second reader of such files that shares no code with the first: tensors
by the package ``gguf``, texts merged byte by byte, the transformer written out in float64.
"""

import itertools
from functools import cached_property

import gguf
import numpy as np
import regex
import torch
from gguf import GGMLQuantizationType as Kind

BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))
"""Bytes that byte-level vocabularies write as the characters they are; others follow from 256."""

MERGES = [
    "Ġ Ġ",
    "ĠĠ ĠĠ",
    "Ġ t",
    "h e",
    "Ġt he",
    "1 2",
    "Ġ 1",
    "Ċ Ċ",
    "Â ²",
    "Ġ Â",
    "Ã ©",
    "i n",
    "( in",
]

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WIDTH, INNER, LAYERS, HEADS, KEYS, CONTEXT = 64, 96, 2, 4, 2, 64


def letters():
    """The character of each byte."""
    others = itertools.count(256)
    return [chr(b if b in BYTES else next(others)) for b in range(256)]


def vocabulary():
    """Tokens and their types: the special ones, the bytes, and whatever is merged."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*special, *letters(), *merged, "Ġwe", "<think>"]  # no merges lead to Ġwe
    return tokens, [3] * 3 + [1] * (len(tokens) - 4) + [4]


def byte_level(pre="smollm", **more):
    tokens, types = vocabulary()
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": types,
        "merges": MERGES,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "padding_token_id": 2,
        "add_bos_token": False,
    } | more


def settings(**changes):
    found = {
        "block_count": LAYERS,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KEYS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5000.0,
        "rope.dimension_count": WIDTH // HEADS,
    }
    return found | {key.replace("__", "."): value for key, value in changes.items()}


def tensors(rows, biases=False, tied=True, seed=0):
    """Random weights of a Llama with two layers, as GGUF names them; as llama.cpp wants them, rows
    of queries and keys that turn together lie side by side.
    """
    draw = np.random.default_rng(seed)
    head = WIDTH // HEADS

    def matrix(outputs, inputs):
        return draw.normal(scale=1.5 / np.sqrt(inputs), size=(outputs, inputs)).astype("f4")

    def norm():
        return (1 + 0.1 * draw.normal(size=WIDTH)).astype("f4")

    found = {"token_embd.weight": matrix(rows, WIDTH) * 4, "output_norm.weight": norm()}
    if not tied:
        found["output.weight"] = matrix(rows, WIDTH) * 2
    for layer in range(LAYERS):
        sizes = {
            "attn_q": (WIDTH, WIDTH),
            "attn_k": (KEYS * head, WIDTH),
            "attn_v": (KEYS * head, WIDTH),
            "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (INNER, WIDTH),
            "ffn_up": (INNER, WIDTH),
            "ffn_down": (WIDTH, INNER),
        }
        found |= {f"blk.{layer}.{name}.weight": matrix(*size) for name, size in sizes.items()}
        found |= {f"blk.{layer}.{name}_norm.weight": norm() for name in ("attn", "ffn")}
        if biases:
            found |= {
                f"blk.{layer}.{name}.bias": matrix(1, sizes[name][0])[0]
                for name in ("attn_q", "attn_k", "attn_v")
            }
    return found


def write(
    path,
    kind=Kind.F32,
    words=None,
    stated=None,
    weights=None,
    architecture="llama",
    chat=CHAT,
    general=None,
):
    """Write a GGUF file, its matrices quantised, and return its path."""
    words = byte_level() if words is None else words
    stated = settings() if stated is None else stated
    weights = tensors(len(words.get("tokens", vocabulary()[0]))) if weights is None else weights
    writer = gguf.GGUFWriter(path, architecture)
    groups = (
        ("general.", general or {"name": "tiny"}),
        (f"{architecture}.", stated),
        ("tokenizer.ggml.", words),
        ("tokenizer.", {} if chat is None else {"chat_template": chat}),
    )
    for start, group in groups:
        for key, value in group.items():
            _add(writer, start + key, value)
    for name, weight in weights.items():
        its = kind if weight.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quantize(weight, its), raw_dtype=its)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, key, value):
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


class SecondReader:
    """A GGUF file of a Llama, read by the package ``gguf``."""

    def __init__(self, path):
        self.file = gguf.GGUFReader(path)

    def value(self, key):
        field = self.file.fields.get(key)
        return None if field is None else field.contents()

    def setting(self, key):
        return self.value(f"{self.value('general.architecture')}.{key}")

    @cached_property
    def weights(self):
        """Arrays of float32 by GGUF's names."""
        return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in self.file.tensors}

    @cached_property
    def _exact(self):
        return {name: torch.from_numpy(x.copy()).double() for name, x in self.weights.items()}

    def restored(self):
        """The same by the names of ``transformers``, whose queries and keys turn in halves."""
        names = {
            "attn_q": "self_attn.q_proj",
            "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
            "attn_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
        }
        outside = {
            "token_embd.weight": "model.embed_tokens.weight",
            "output_norm.weight": "model.norm.weight",
            "output.weight": "lm_head.weight",
        }
        llama = self.value("general.architecture") == "llama"
        size = self.setting("embedding_length") // self.setting("attention.head_count")
        found = {}
        for name, weight in self.weights.items():
            if name in outside:
                found[outside[name]] = weight
                continue
            _, layer, part, what = name.split(".")
            if llama and part in ("attn_q", "attn_k"):
                # row 2i + j of a head stands where transformers has row i + j·size/2
                order = [
                    first + 2 * (row % (size // 2)) + row // (size // 2)
                    for first in range(0, len(weight), size)
                    for row in range(size)
                ]
                weight = weight[order]
            found[f"model.layers.{layer}.{names[part]}.{what}"] = weight
        return found

    def log_probs(self, ids):
        """``log π(ids[t+1] | ids[:t+1])`` of a row of tokens, in float64, by GGUF's own layout:
        neighbouring numbers of queries and keys turn together.
        """
        w = self._exact
        heads, keys = self.setting("attention.head_count"), self.setting("attention.head_count_kv")
        eps, base = (
            self.setting("attention.layer_norm_rms_epsilon"),
            self.setting("rope.freq_base"),
        )
        T, size = len(ids), self.setting("embedding_length") // heads
        angle = torch.arange(T)[:, None] * base ** (-torch.arange(0, size, 2).double() / size)
        turn = torch.polar(torch.ones_like(angle), angle)

        def norm(x, name):
            return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"]

        def turned(x, n):
            pairs = torch.view_as_complex(x.view(T, n, size // 2, 2))
            return torch.view_as_real(pairs * turn[:, None]).reshape(T, n, size)

        x = w["token_embd.weight"][ids]
        later = torch.ones(T, T).triu(1).bool()
        for layer in range(self.setting("block_count")):
            b = f"blk.{layer}"
            y = norm(x, f"{b}.attn_norm")
            q, k, v = (y @ w[f"{b}.attn_{name}.weight"].T for name in "qkv")
            q, k, v = turned(q, heads), turned(k, keys), v.view(T, keys, size)
            k, v = (z.repeat_interleave(heads // keys, dim=1) for z in (k, v))
            scores = torch.einsum("ihd,jhd->hij", q, k) / size**0.5
            seen = scores.masked_fill(later, -torch.inf).softmax(-1)
            mixed = torch.einsum("hij,jhd->ihd", seen, v).reshape(T, -1)
            x = x + mixed @ w[f"{b}.attn_output.weight"].T
            y = norm(x, f"{b}.ffn_norm")
            gate = torch.nn.functional.silu(y @ w[f"{b}.ffn_gate.weight"].T)
            x = x + (gate * (y @ w[f"{b}.ffn_up.weight"].T)) @ w[f"{b}.ffn_down.weight"].T
        head = w.get("output.weight", w["token_embd.weight"])
        logits = norm(x, "output_norm") @ head.T
        return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]

    def ids(self, text):
        """Byte-level BPE of a text without special tokens, as llama.cpp splits it: each pattern
        splits what the one before has left whole, matched or not.
        """
        tokens = {token: i for i, token in enumerate(self.value("tokenizer.ggml.tokens"))}
        ranks = {tuple(m.split(" ")): i for i, m in enumerate(self.value("tokenizer.ggml.merges"))}
        pre = self.value("tokenizer.ggml.pre")
        pieces = [text]
        for pattern in PATTERNS[pre]:
            pieces = [part for piece in pieces for part in _split(pattern, piece)]
        spelling, found = letters(), []
        for piece in pieces:
            symbols = [spelling[byte] for byte in piece.encode()]
            if pre == "llama-bpe" and "".join(symbols) in tokens:
                symbols = ["".join(symbols)]
            while True:
                pairs = [ranks.get(pair, np.inf) for pair in itertools.pairwise(symbols)]
                if not pairs or min(pairs) == np.inf:
                    break
                at = pairs.index(min(pairs))
                symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
            found += [tokens[symbol] for symbol in symbols]
        return found


def _split(pattern, text):
    at = 0
    for match in regex.finditer(pattern, text):
        if match.start() > at:
            yield text[at : match.start()]
        if match.group():
            yield match.group()
        at = match.end()
    if at < len(text):
        yield text[at:]


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SHORT = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "qwen2": [SHORT % ""],
    "llama-bpe": [SHORT % "{1,3}"],
}
"""As llama.cpp has them."""

TEXTS = [
    "Once upon a time, there was a little girl.",
    "x  = 12;  y = 3.14159\n\n\n  if x:\n        return 12_345\n",
    '\tfor (int i = 0; i < 10; ++i) {\r\n\t\tprintf("%d\\n", a[i]); f(in);\r\n\t}',
    "  two before, two after  ",
    "   12 and 007, 1,000,000 and 1e-5",
    "I'll say: they've, IT'S, we'd; don’t",
    "café, naïve, Ångström, e\u0301, ﬁ",
    "日本語のテキスト、123 と ２０２４年 ٣٤ ² ³ ½ x² + y²",
    "🙂👩‍👩‍👧 ‍ \u00a0 \u3000\u2003.",
    "a\n\n 1\n\n\t2   \n",
    "",
    " ",
    "\n",
]
"""Code, digits, white space and Unicode."""
