"""A tiny random model of every causal architecture that the installed ``transformers`` has.

`names` are the model types of ``AutoModelForCausalLM``. A config is shrunk field by field: what
`SMALL` says of a field of that name, and what `OVERRIDES` says of one architecture. Windows, chunks
and other thresholds are 8 positions, so that texts of twice that length cross them; each kind of
layer that the architecture mixes is there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
import zlib

import torch
import transformers

from llm_bridge.models.cloned import letter_tokenizer
from llm_bridge.models.load import CausalLM

TOKENS = 26
"""Letters ``a … z``; with the prompt letters ``A … N`` there are 40 tokens."""

VOCABULARY = 40
THRESHOLD = 8
POSITIONS = 64

SMALL = {
    # sizes
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "emb_dim": 32,
    "embedding_dim": 32,
    "embedding_size": 32,
    "intermediate_size": 32,
    "ffn_dim": 32,
    "d_inner": 32,
    "dff": 32,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": POSITIONS,
    "n_positions": POSITIONS,
    "n_ctx": POSITIONS,
    "max_seq_len": POSITIONS,
    "model_max_length": POSITIONS,
    # thresholds
    "sliding_window": THRESHOLD,
    "sliding_window_size": THRESHOLD,
    "attention_window_size": THRESHOLD,
    "attention_chunk_size": THRESHOLD,
    "local_attention": THRESHOLD,
    "window_size": THRESHOLD,
    "original_max_position_embeddings": THRESHOLD,
    "floor_scale": THRESHOLD,
    "log_scaling_n_floor": THRESHOLD,
    "max_window_layers": 1,
    # experts
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "n_group": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_experts_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "ffn_hidden_size": 32,
    "dense_intermediate_size": 32,
    "intermediate_size_mlp": 32,
    "moe_shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    # latent attention
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "o_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 4,
    # linear attention and state spaces
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "linear_num_heads": 4,
    "linear_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
    "mamba_dt_rank": 4,
    "state_size": 8,
    "time_step_rank": 4,
    "chunk_size": 4,
    # towers that a language model stands beside
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 32,
    # no token is special
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "decoder_start_token_id": None,
    "forced_eos_token_id": None,
    "sep_token_id": None,
    "cls_token_id": None,
    "is_decoder": True,
}
"""Value of a config field, wherever an architecture has a field of that name with a default."""

LAYERS = ("layer_types", "layers_block_type")
"""Fields that list the kinds of the layers: each kind once, twice if there is one."""

PAD_POSITIONS = {"pad_token_id": 1, "max_position_embeddings": POSITIONS + 2}
"""These models count positions from the padding token's id on, and want one."""

LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": THRESHOLD,
}

OVERRIDES: dict[str, dict] = {
    "bailing_hybrid": {
        "num_hidden_layers": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_hash_byte_group_vocab": 50,
        "local_attention_window_len": THRESHOLD,
        "cross_attn_k": 2,
    },
    "camembert": PAD_POSITIONS,
    "codegen": {"rotary_dim": 4},
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5},
    "cohere2_moe": {"logit_scale": 0.5},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "num_key_value_heads": 2,
    },
    "cpmant": {
        "dim_head": 8,
        "dim_ff": 32,
        "position_bias_num_buckets": 32,
        "position_bias_max_distance": 64,
        "prompt_length": 4,
        "prompt_types": 2,
    },
    "data2vec-text": PAD_POSITIONS,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0},
        "ffn_config": {
            "hidden_size": 32,
            "ffn_hidden_size": 32,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
    },
    "deepseek_v3": {"first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "fuyu": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granite": {
        "logits_scaling": 0.5,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
    },
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jetmoe": {"kv_channels": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"],
    },
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "ministral": {"head_dim": 8},
    "mixtral": {"sliding_window": THRESHOLD},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "phi3": {"rope_parameters": LONG_ROPE},
    "phi4_multimodal": {"rope_parameters": LONG_ROPE},
    "phimoe": {
        "rope_parameters": LONG_ROPE | {"short_mscale": 1.0, "long_mscale": 1.2},
        "sliding_window": None,
    },
    "prophetnet": {
        "pad_token_id": 0,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
    },
    "qwen4_exp": {},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 8],
        "attention_head_size": 8,
        "feed_forward_size": 32,
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": THRESHOLD,
        "lsh_attn_chunk_length": THRESHOLD,
        "num_buckets": 2,
        "hash_seed": 0,
    },
    "rembert": {"input_embedding_size": 32, "output_embedding_size": 32},
    "roberta": PAD_POSITIONS,
    "roberta-prelayernorm": PAD_POSITIONS,
    "roc_bert": {
        "pronunciation_embed_dim": 32,
        "pronunciation_vocab_size": VOCABULARY,
        "shape_embed_dim": 32,
        "shape_vocab_size": VOCABULARY,
    },
    "whisper": {"max_target_positions": POSITIONS, "max_source_positions": POSITIONS},
    "xglm": {"attention_heads": 4, "num_layers": 2},
    "xlm": {"causal": True, "is_encoder": False, "pad_token_id": 2, "pad_index": 2},
    "xlm-roberta": PAD_POSITIONS,
    "xlm-roberta-xl": PAD_POSITIONS,
    "xmod": PAD_POSITIONS | {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
    "zaya": {
        "num_experts_per_tok": 1,
        "router_hidden_size": 8,
        "layer_types": ["hybrid", "hybrid_sliding"],
        "sliding_window": THRESHOLD,
    },
}
"""What one architecture needs besides `SMALL`, or what makes more of its kinds of layer appear."""

UNBUILT: dict[str, str] = {}


def names() -> list[str]:
    """Return the model types of all causal architectures."""
    return list(transformers.AutoModelForCausalLM._model_mapping._model_mapping)


def shrunk(cls, changes):
    """Make a small config of this class."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    try:
        default = vars(cls())
    except ValueError:  # the class has no valid defaults
        default = {name: f.default for name, f in fields.items()}
    latent = "kv_lora_rank" in fields
    values = {}
    for name, field in fields.items():
        value = default.get(name)
        if isinstance(value, transformers.PreTrainedConfig):
            values[name] = shrunk(type(value), changes.get(name, {}))
        elif name in LAYERS and value:
            kinds = list(dict.fromkeys(value))
            values[name] = kinds * 2 if len(kinds) == 1 else kinds
        elif name.endswith("token_id") and name in SMALL:
            optional = "None" in str(field.type)
            values[name] = None if optional else VOCABULARY - 1
        elif latent and name in ("head_dim", "num_key_value_heads"):
            # every head has keys of its own, and only a part of each is rotated
            values[name] = SMALL["qk_rope_head_dim" if name == "head_dim" else "num_attention_heads"]
        elif name in SMALL and value is not None and not isinstance(value, list):
            values[name] = SMALL[name]
    for name in LAYERS:
        if name in values or name in changes:
            n = len(changes.get(name, values.get(name)))
            depth = ("num_hidden_layers", "n_layer", "num_layers")
            values |= {key: n for key in depth if key in values}
    values |= {
        name: value
        for name, value in changes.items()
        if not isinstance(values.get(name), transformers.PreTrainedConfig)
    }
    return cls(**values)


def config(name):
    cls = transformers.CONFIG_MAPPING[name]
    return shrunk(cls, OVERRIDES.get(name, {}))


@torch.no_grad()
def _randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)

    matrices = {
        id(module.weight)
        for module in model.modules()
        if isinstance(
            module, torch.nn.Linear | torch.nn.Embedding | torch.nn.Conv1d | torch.nn.Conv2d
        )
        or type(module).__name__ == "Conv1D"
        if getattr(module, "weight", None) is not None
    }
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    for name, p in model.named_parameters():
        if not p.is_floating_point():
            continue
        if id(p) in embeddings:
            p.copy_(0.5 * normal(p))
        elif id(p) in matrices or (p.ndim >= 2 and "A_log" not in name):
            fan = max(1, p[0].numel()) if id(p) in matrices else p.shape[-1]
            p.copy_(normal(p) * fan**-0.5)
        else:
            p.copy_(p.nan_to_num() + 0.2 * normal(p))
    for name, b in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.copy_(0.1 * normal(b))


@functools.cache
def _built(name):
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        seed = zlib.crc32(name.encode())
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config(name), dtype=torch.float32)
        model = model.eval()
        _randomise(model, seed)
    return model


def build(name, dtype=torch.float64):
    """Build the model of that name, in evaluation mode."""
    import copy

    model = copy.deepcopy(_built(name)).to(dtype)
    if dtype == torch.float64:  # the grouped product of experts takes no doubles
        model.set_experts_implementation("eager")
    return model


def text(ids) -> str:
    """Spell token ids."""
    return "".join(chr(ord("a") + i) if i < TOKENS else chr(ord("A") + i - TOKENS) for i in ids)


def family(name, dtype=torch.float32) -> CausalLM:
    """Build it with a tokenizer of letters."""
    return CausalLM(build(name, dtype), letter_tokenizer(TOKENS, VOCABULARY - TOKENS), name)
