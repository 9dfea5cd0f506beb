"""Token trees of real models: sharing the cache against encoding every prefix again; time and
memory of large trees.

    python benchmarks/trees.py MODELS [--quick]

`MODELS` is the folder that holds ``add-teacher`` and ``stories260K``. One core. The two readers
take turns in one run and are judged by their best times. A large tree is read in a process of its
own: memory is its greatest resident set beyond what it holds with the model loaded.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[pool] = "1"

import numpy as np
from scoring import MIB, held, peak
from solver import cpu_model, run_times

TARGET = 3
LARGE = {
    "all 512 tokens, H=2": {"horizon": 2},
    "20 most probable and rest, H=4": {"horizon": 4, "top_k": 20},
}


def encoded_again(lm, prompts, horizon, batch_size=1024):
    """Logits ``(P·V^h, V)`` of every layer; each prefix goes through the model from its first token
    on.
    """
    import torch

    from llm_bridge.models.prompts import encode_prompt

    V, ids = lm.vocab_size, [encode_prompt(lm, prompt, horizon) for prompt in prompts]
    layers = [np.empty((len(prompts) * V**h, V)) for h in range(horizon)]
    for h, layer in enumerate(layers):
        places = V ** np.arange(h - 1, -1, -1)
        for length in sorted({len(row) for row in ids}):
            group = np.array([p for p, row in enumerate(ids) if len(row) == length])
            texts = np.array([ids[p] for p in group])
            for start in range(0, len(group) * V**h, batch_size):
                index = np.arange(start, min(start + batch_size, len(group) * V**h))
                member, written = np.divmod(index, V**h)
                inputs = torch.from_numpy(
                    np.concatenate([texts[member], written[:, None] // places % V], axis=1)
                )
                with torch.inference_mode():
                    found = lm.model(inputs, use_cache=False, logits_to_keep=1).logits
                layer[group[member] * V**h + written] = found[:, -1].double().numpy()
    return layers


def benchmark_sharing(models, rounds):
    """`token_tree` against encoding again, on random sums."""
    from llm_bridge.models.spec import ModelSpec
    from llm_bridge.read.tree import token_tree

    lm, rng = ModelSpec(models / "add-teacher").load(), np.random.default_rng(0)
    prompts = ["".join(map(str, rng.integers(0, 10, 6))) for _ in range(20)]
    contenders = {
        "every prefix from its first token, 1024 at a time": lambda: encoded_again(lm, prompts, 4),
        "the same, 128 at a time": lambda: encoded_again(lm, prompts, 4, 128),
        "`token_tree` (ours)": lambda: token_tree(lm, prompts, 4),
        "`token_tree`, 64 MiB": lambda: token_tree(lm, prompts, 4, memory=2**26),
    }
    logits, tree = encoded_again(lm, prompts, 4), token_tree(lm, prompts, 4)
    error = 0.0
    for table, log_probs in zip(logits, tree.policy.log_probs, strict=True):
        probs = np.exp(table - table.max(axis=-1, keepdims=True))
        error = max(
            error, np.abs(probs / probs.sum(axis=-1, keepdims=True) - np.exp(log_probs)).max()
        )
    times = run_times(contenders, rounds, turn_seconds=0.0)
    best = {name: min(runs) for name, runs in times.items()}
    prefixes = sum(len(table) for table in logits)
    print(f"\n## add-teacher, V=10, H=4, 20 prompts of 6 tokens: {prefixes:,} prefixes\n")
    print("| reader | s, best | s, median | µs a prefix |\n|---|---:|---:|---:|")
    for name, runs in times.items():
        print(
            f"| {name} | {min(runs) / 1e3:.2f} | {np.median(runs) / 1e3:.2f} | "
            f"{1e3 * min(runs) / prefixes:.0f} |"
        )
    again, ours = min(list(best.values())[:2]), best["`token_tree` (ours)"]
    print(f"\n- largest difference of a probability: {error:.1e}")
    print(f"- encoding again over ours: {again / ours:.1f}, at least {TARGET}: ", end="")
    print("met" if again / ours >= TARGET else "MISSED")


def measure(models, name, n_prompts):
    """One process, one large tree: seconds, MiB beyond the loaded model, MiB of its tables, states,
    mass left out.
    """
    from llm_bridge.models.spec import ModelSpec
    from llm_bridge.read.tree import token_tree

    lm = ModelSpec(models / "stories260K").load()
    names = ("Lily", "Tom", "the dog", "a big red ball", "Mom and Dad")
    starts = (
        "Once upon a time",
        "One day",
        "It was a sunny day and",
        "They said that",
        "Far away in the forest",
    )
    ends = ("was", "went to the park and", "saw", "had a very good friend who")
    prompts = [f"{start} {who} {end}" for start in starts for who in names for end in ends][
        :n_prompts
    ]
    token_tree(lm, prompts[:1], 1)
    before, start = held("cpu"), time.perf_counter()
    tree = token_tree(lm, prompts, **LARGE[name])
    seconds = time.perf_counter() - start
    extra, policy = peak("cpu") - before, tree.policy
    return {
        "seconds": seconds,
        "peak": extra / MIB,
        "tables": sum(table.nbytes for table in policy.log_probs) / MIB,
        "prefixes": sum(policy.dynamics.layer_sizes),
        "lengths": len({len(lm.tokenizer(prompt)["input_ids"]) for prompt in prompts}),
        "left_out": tree.max_left_out,
    }


def benchmark_large(models, n_prompts):
    """Time and memory of trees of many prompts."""
    print(f"\n## stories260K, {n_prompts} prompts, 1 GiB for reading\n")
    print(
        "| tree | prefixes | s | µs a prefix | peak MiB | of which log-probabilities | left out, "
        "at most |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in LARGE:
        command = [
            sys.executable,
            __file__,
            str(models),
            "--tree",
            name,
            "--prompts",
            str(n_prompts),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        each = 1e6 * found["seconds"] / found["prefixes"]
        print(
            f"| {name} | {found['prefixes']:,} | {found['seconds']:.1f} | {each:.0f} | "
            f"{found['peak']:,.0f} ",
            end="",
        )
        print(f"| {found['tables']:,.0f} | {found['left_out']:.2f} |")
    print(f"\n- prompts of {found['lengths']} lengths")


def main():
    """Run both benchmarks and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and prompts")
    parser.add_argument("--tree", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if arguments.tree:
        print(json.dumps(measure(arguments.models, arguments.tree, arguments.prompts)))
        return
    print(
        f"{cpu_model()}, one core of {os.cpu_count()}; Python {platform.python_version()}, torch "
        f"{torch.__version__}"
    )
    benchmark_sharing(arguments.models, 2 if arguments.quick else 5)
    benchmark_large(arguments.models, 5 if arguments.quick else arguments.prompts)


if __name__ == "__main__":
    main()
