"""Small tokenizers of every kind that models have, and chat templates that do what templates do."""

import json

import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from llm_bridge.models.load import CausalLM

CORPUS = [
    "once upon a time there was a little girl\n\nshe was little\n\n\nonce more, upon a time",
    "    def f(x):\n        return x\n\n    the end.  Über 你好 你们好 😀😀",
] * 4

SPECIAL = ["<s>", "</s>", "<u>", "<a>", "<y>"]


def wrapped(backend, *, around="<s> $A", **names):
    ids = [(token, backend.token_to_id(token)) for token in SPECIAL[:2]]
    if around:
        backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[2:],
        **names,
    )


def byte_level(*, trim=False, prefix_space=False, **options):
    """As GPT-2's: two new lines before a word are two tokens, and one elsewhere."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=prefix_space, trim_offsets=trim
    )
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return wrapped(backend, **options)


def sentence_piece(*, legacy=True, **options):
    """As Llama's: a space before every text, and bytes for characters without a token."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=100, special_tokens=["<unk>", *SPECIAL], show_progress=False
    )
    ascii_only = [text.encode("ascii", "ignore").decode() for text in CORPUS]
    backend.train_from_iterator(ascii_only, trainer)
    trained = json.loads(backend.to_str())["model"]
    ids = trained["vocab"]
    ids |= {f"<0x{n:02X}>": len(ids) + n for n in range(256)}
    merges = [tuple(pair) for pair in trained["merges"]]
    backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True))
    backend.add_special_tokens(["<unk>", *SPECIAL])
    backend.normalizer = normalizer
    if not legacy:
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(backend, unk_token="<unk>", **options)


def lower_case(**options):
    """A byte-level vocabulary that knows no capitals."""
    tokenizer = byte_level(**options)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()]
    )
    return tokenizer


def without_unknown(letters="abc "):
    """Characters, and none for those that are not there."""
    names = [*SPECIAL, *letters]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<none>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return wrapped(backend)


class Slow(transformers.PythonBackend):
    """A tokenizer in Python, without offsets: characters, with ``ab`` and ``\\n\\n`` as tokens."""

    names = (*SPECIAL, "ab", "\n\n", *"abcdeé \n")

    def __init__(self, **options):
        self.ids = {name: i for i, name in enumerate(self.names)}
        super().__init__(bos_token="<s>", eos_token="</s>", **options)
        self.special_tokens_pattern = "bos_eos"

    @property
    def vocab_size(self):
        return len(self.names)

    def get_vocab(self):
        return dict(self.ids)

    def _tokenize(self, text, **_):
        found = []
        while text:
            found.append(text[:2] if text[:2] in self.ids else text[0])
            text = text[len(found[-1]) :]
        return found

    def _convert_token_to_id(self, token):
        return self.ids[token]

    def _convert_id_to_token(self, index):
        return self.names[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


TOKENIZERS = {
    "byte level": byte_level(),
    "byte level, trimmed offsets": byte_level(trim=True),
    "byte level, end appended": byte_level(around="<s> $A </s>"),
    "byte level, only the end": byte_level(around="$A </s>"),
    "byte level, nothing around": byte_level(around=""),
    "sentence piece": sentence_piece(),
    "sentence piece, end appended": sentence_piece(around="<s> $A </s>"),
    "metaspace": sentence_piece(legacy=False),
}
"""All of them write every text."""


def lm_of(tokenizer, template=None, **format):
    """A model that only has a tokenizer."""
    from llm_bridge.models.prompt_format import PromptFormat

    if template is not None:
        tokenizer.chat_template = template
    return CausalLM(None, tokenizer, "pretended", PromptFormat(**format))
