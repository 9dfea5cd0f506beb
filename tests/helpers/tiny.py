"""Small random models over bytes: every text has an id for each of its bytes, ``<s>`` 256 before
it, ``</s>`` 257.
"""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from llm_bridge.models.load import CausalLM, save

ROWS = 264
"""Logits of a model: six more than its tokenizer has tokens."""

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def byte_tokenizer(chat=False):
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate([*pieces, "<s>", "</s>"])}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def tiny(kind="ForCausalLM", *, chat=False, context=512, seed=0, pad=None, **changes):
    """A random Llama with two layers, its logits about a nat apart."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=ROWS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=pad,
        **changes,
    )
    model = getattr(transformers, f"Llama{kind}")(config).eval()
    return CausalLM(model, byte_tokenizer(chat), f"tiny-{seed}")


def saved(folder, **options):
    """The folder, with such a model in it."""
    save(tiny(**options), folder)
    return folder
