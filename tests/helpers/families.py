"""A tiny random model of every causal architecture that the installed ``transformers`` has.

`names` are the model types of ``AutoModelForCausalLM``. A config is shrunk field by field: what
`SMALL` says of a field of that name, and what `OVERRIDES` says of one architecture. Windows, chunks
and other thresholds are 8 positions, so that texts of twice that length cross them; each kind of
layer that the architecture mixes is there.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
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
    "index_n_heads": 16,  # where all of few heads give 0, ties are broken by the length
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
    "ssm_state_size": 8,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "time_step_rank": 4,
    "chunk_size": 4,
    # towers that a language model stands beside
    "encoder_layers": 2,
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

LATENT = {"head_dim": 4, "num_key_value_heads": 4}
"""Of latent attention: every head has keys of its own, and only a part of each is rotated."""

LAYERS = {"layer_types", "layers_block_type"}
"""Fields that list the kinds of the layers: each kind once, twice if there is one."""

DEPTHS = {"num_hidden_layers", "n_layer", "num_layers"}
"""Fields that count the layers."""

PAD_POSITIONS = {"pad_token_id": 1, "max_position_embeddings": POSITIONS + 2}
"""These models count positions from the padding token's id on, and want one."""

LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": THRESHOLD,
}

SLIDING = {
    "layer_types": ["full_attention", "sliding_attention"],
    "use_sliding_window": True,
    "sliding_window": THRESHOLD,
}

DOTS3 = {
    "layer_types": ["indexed_attention", "sliding_attention"],
    "mlp_layer_types": ["dense", "sparse"],
    "sliding_window": THRESHOLD,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 12,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}

SHARED_KEYS = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "pad_token_id": VOCABULARY - 1,
}
"""The last two layers have no keys of their own."""

GEMMA4 = SHARED_KEYS | {"global_head_dim": 8}

GEMMA3N = SHARED_KEYS | {
    "intermediate_size": [32] * 4,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
}

QWEN4 = {
    "hc_count": 2,
    "hc_lowrank": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

OVERRIDES: dict[str, dict] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_hash_byte_group_vocab": 50,
        "local_attention_window_len": THRESHOLD,
        "cross_attn_k": 2,
        "encoder_config": {"hidden_size_global": 64, "num_key_value_heads": 4},
        "decoder_config": {"hidden_size_global": 64, "num_key_value_heads": 4},
        "global_config": {"hidden_size": 64, "num_key_value_heads": 4},
        "patcher_config": {"num_key_value_heads": 4},
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
        "prompt_length": 4,
    },
    "data2vec-text": PAD_POSITIONS,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {
            "hidden_size": 32,
            "ffn_hidden_size": 32,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": THRESHOLD,
    },
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {
            "mlp_layer_types": ["dense", "sparse"],
            "adapter_in_dim": 32,
            "adapter_out_dim": 32,
        },
        "audio_config": {
            "adapter_input_size": 32,
            "adapter_out_dim": 32,
            "downsample_hidden_size": 8,
        },
    },
    "dots3_note_text": DOTS3,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": GEMMA3N,
    "gemma4": {"text_config": GEMMA4},
    "gemma4_text": GEMMA4,
    "gemma4_unified": {"text_config": {"pad_token_id": VOCABULARY - 1, "global_head_dim": 8}},
    "gemma4_unified_text": {"pad_token_id": VOCABULARY - 1, "global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "granite": {
        "logits_scaling": 0.5,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
        "embedding_multiplier": 2.0,
    },
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "shared_intermediate_size": 16,
    },
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "inkling2_text": {
        "d_rel": 8,
        "rel_extent": 16,
        "route_scale": 1.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "unpadded_vocab_size": VOCABULARY,
    },
    "inkling_text": {
        "logits_mup_width_multiplier": 1.0,
        "d_rel": 8,
        "rel_extent": 16,
        "route_scale": 1.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {"kv_channels": 8},
    "laguna": SLIDING,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"],
    },
    "llama4": {"text_config": {"no_rope_layers": [1, 0]}},
    "llama4_text": {"no_rope_layers": [1, 0]},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 8},
    "mellum": SLIDING,
    "minicpm3": {"scale_emb": 2, "dim_model_base": 16},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "rotary_dim": 4,
        "index_n_heads": 2,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "ministral": SLIDING | {"head_dim": 8},
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
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 8],
        "attention_head_size": 8,
        "feed_forward_size": 32,
        "attn_layers": ["local", "local"],
        "local_attn_chunk_length": THRESHOLD,
        "lsh_attn_chunk_length": THRESHOLD,
        "num_buckets": 2,
        "hash_seed": 0,
        "pad_token_id": VOCABULARY - 1,
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
    "xlm": {"causal": True, "pad_token_id": VOCABULARY - 1, "pad_index": VOCABULARY - 1},
    "xlm-roberta": PAD_POSITIONS,
    "xlm-roberta-xl": PAD_POSITIONS,
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},  # states are rounded up to 64
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

VARIANTS: dict[str, tuple[str, dict]] = {
    "bart-short-encoder": ("bart", {"encoder_layers": 1}),
    "bert-encoder": ("bert", {"is_decoder": False}),
    "falcon-alibi": ("falcon", {"alibi": True}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gemma3_text-bidirectional": ("gemma3_text", {"use_bidirectional_attention": True}),
    "inkling2_text-padded": ("inkling2_text", {"unpadded_vocab_size": VOCABULARY - 4}),
    "llama-not-causal": ("llama", {"is_causal": False}),
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "qwen2-window": ("qwen2", SLIDING),
    "qwen3-window": ("qwen3", SLIDING),
    "reformer-lsh": ("reformer", {"attn_layers": ["lsh", "lsh"]}),
    "xlm-not-causal": ("xlm", {"causal": False}),
    "xlnet-causal": ("xlnet", {"attn_type": "uni"}),
}
"""Further configs of an architecture: its model type, and what is changed besides `OVERRIDES`."""

ORACLES = {"reformer-lsh": torch.float32}
"""Precision in which to ask for the truth, if not double: random hashes differ in doubles."""

UNBUILT: dict[str, str] = {
    "gemma3n": "its vision tower needs the package timm",
    "gemma4_assistant": "reads hidden states and keys of another model, not tokens",
    "gemma4_unified_assistant": "reads hidden states and keys of another model, not tokens",
    "musicgen": "predicts audio codes; the auto class gives it a config it does not take",
    "musicgen_melody": "predicts audio codes; the auto class gives it a config it does not take",
}
"""Why an architecture is not built here."""


def names() -> list[str]:
    """Return the model types of all causal architectures that are built, and the variants."""
    known = set(transformers.AutoModelForCausalLM._model_mapping._model_mapping)
    return sorted((known | set(VARIANTS)) - set(UNBUILT))


def shrunk(cls: type, changes: dict) -> transformers.PreTrainedConfig:
    """Make a small config of this class, and of the configs inside; `changes` come last."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    try:
        default = vars(cls())
    except ValueError:  # the class has no valid defaults
        default = {name: field.default for name, field in fields.items()}
    values: dict = {}
    for name, field in fields.items():
        value = default.get(cls.attribute_map.get(name, name))
        if isinstance(value, transformers.PreTrainedConfig):
            values[name] = shrunk(type(value), changes.get(name, {}))
        elif name in LAYERS and value:
            kinds = list(dict.fromkeys(value))
            values[name] = kinds * 2 if len(kinds) == 1 else kinds
        elif name.endswith("token_id") and name in SMALL:
            values[name] = None if "None" in str(field.type) else VOCABULARY - 1
        elif name in LATENT and "kv_lora_rank" in fields:
            values[name] = LATENT[name]
        elif name in SMALL and value is not None and not isinstance(value, list):
            values[name] = SMALL[name]
    for name in LAYERS & (values.keys() | changes.keys()):
        layers = len(changes.get(name, values.get(name)))
        values |= dict.fromkeys(DEPTHS & values.keys(), layers)
    inner = {name for name, x in values.items() if isinstance(x, transformers.PreTrainedConfig)}
    return cls(**values | {name: x for name, x in changes.items() if name not in inner})


def config(name: str) -> transformers.PreTrainedConfig:
    """Return the small config of that name."""
    kind, changes = VARIANTS.get(name, (name, {}))
    return shrunk(transformers.CONFIG_MAPPING[kind], OVERRIDES.get(kind, {}) | changes)


@torch.no_grad()
def _randomise(model, seed):
    """Give every parameter numbers that matter, biases and norms too: logits about a nat apart."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.double).to(like.dtype)

    owners: dict = {}  # a tied weight is the embedding's
    for module in model.modules():
        owners.setdefault(id(getattr(module, "weight", None)), module)
    for name, parameter in model.named_parameters():
        owner = owners.get(id(parameter))
        if isinstance(owner, torch.nn.Embedding):
            parameter.copy_(0.5 * normal(parameter))
        elif parameter.ndim < 2 or "A_log" in name:  # about where the model would start
            parameter.copy_(parameter.nan_to_num() + 0.2 * normal(parameter))
        else:
            convolution = isinstance(owner, torch.nn.Conv1d | torch.nn.Conv2d)
            fan = parameter[0].numel() if convolution else parameter.shape[-1]
            parameter.copy_(normal(parameter) * fan**-0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.1 * normal(buffer))
    bias = getattr(model.get_output_embeddings(), "bias", None)
    padding = getattr(model.config, "pad_token_id", None)
    if padding is not None and bias is not None:
        bias[padding] = -30  # never sampled: where it stands, other positions change


def made(config: transformers.PreTrainedConfig, seed: int) -> torch.nn.Module:
    """Make the model of a config, in single precision and evaluation mode."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _randomise(model, seed)
    return model.eval()


@functools.lru_cache(maxsize=4)
def _built(name):
    return made(config(name), zlib.crc32(name.encode()))


def build(name: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """Return a model of that name, in evaluation mode: the same weights in every precision."""
    return cast(copy.deepcopy(_built(name)), dtype)


def cast(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """Cast a model, so that it can be called in double precision too."""
    model = model.to(dtype)
    if dtype == torch.float64:  # the grouped product of experts takes no doubles
        model.set_experts_implementation("eager")
        for module in model.modules():
            if type(module).__name__ == "Inkling2TopKRouter":  # casts its input to floats
                module.float()
    return model


@contextlib.contextmanager
def precision(model):
    """Make numbers without a dtype as precise as the model: `xglm` puts its lowest into a float."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def text(ids) -> str:
    """Spell token ids."""
    return "".join(chr(ord("a") + i) if i < TOKENS else chr(ord("A") + i - TOKENS) for i in ids)


def family(name: str, dtype: torch.dtype = torch.float32) -> CausalLM:
    """Return a model of that name with a tokenizer of letters."""
    return CausalLM(build(name, dtype), letter_tokenizer(TOKENS, VOCABULARY - TOKENS), name)
