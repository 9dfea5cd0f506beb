"""Log-probabilities and soft values of a large vocabulary: time, memory and error, against the
usual ways.

    python benchmarks/scoring.py [--dtype float32 bfloat16] [--threads 2] [--device cpu]
    python benchmarks/scoring.py --head 152064 3584 8192 --dtype bfloat16 --device cuda

A randomly initialised Qwen2 with 151,936 tokens, hidden size 512, 4 layers, on 4 sequences of 256
tokens. Each contender runs in a process of its own, `--turns` times in turn with the others, and is
judged by its best run. Memory is the process's greatest beyond what it holds before (resident set;
on a GPU what torch allocates). TRL takes part where it is installed. With `--head`, the head alone:
vocabulary, hidden size and tokens, against the matrix product.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
}
SHAPE |= {"num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 512}
BATCH, TIME = 4, 256
MIB = 2**20


def naive(model, ids):
    """All logits in float32, log-softmax and log-sum-exp of them."""
    import torch

    logits = model(ids[:, :-1]).logits.float()
    values = torch.logsumexp(logits, -1)
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0], values


def trl(model, ids):
    """TRL's `selective_log_softmax`, and a log-sum-exp of the same logits."""
    import torch
    from trl.trainer.utils import selective_log_softmax

    logits = model(ids[:, :-1]).logits
    return selective_log_softmax(logits, ids[:, 1:]), torch.logsumexp(logits, -1)


def chunked_loss(model, ids):
    """`torch.nn.functional.linear_cross_entropy` in chunks; the soft value is chosen logit minus
    log-probability.
    """
    import torch

    hidden, head, chosen = (
        model.model(ids[:, :-1])[0].flatten(0, 1),
        model.lm_head.weight,
        ids[:, 1:].flatten(),
    )
    options = torch.nn.LinearCrossEntropyOptions()
    log_probs = -torch.nn.functional.linear_cross_entropy(
        hidden, head, chosen, reduction="none", options=options
    )
    return log_probs, (hidden * head[chosen]).float().sum(-1) - log_probs


def ours(reward, ids):
    """`EndogenousReward`."""
    scores = reward.score_ids(ids[:, :1].tolist(), ids[:, 1:].tolist(), progress=False)
    return np.stack([s.log_probs for s in scores]), np.stack([s.soft_values for s in scores])


CONTENDERS = {
    "`model(…).logits.float()`, log-softmax": naive,
    "TRL `selective_log_softmax` + logsumexp": trl,
    "`linear_cross_entropy`, chunked": chunked_loss,
    "`EndogenousReward` (ours)": ours,
}


def measure(name, dtype, device):
    """One process, one contender: seconds of each of three runs, MiB beyond what was there, and the
    error of V.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**SHAPE, tie_word_embeddings=False)
    )
    model = model.eval().to(device, getattr(torch, dtype))
    ids = torch.randint(SHAPE["vocab_size"], (BATCH, TIME + 1), device=device)
    subject = model
    if CONTENDERS[name] is ours:
        from llm_bridge.read.reward import EndogenousReward

        subject = EndogenousReward(model, end_tokens=())
    seconds = []
    before = held(device)
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            _, values = CONTENDERS[name](subject, ids)
            if device != "cpu":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        extra = peak(device) - before
        values = torch.as_tensor(
            np.asarray(values.float().cpu() if torch.is_tensor(values) else values, dtype=float)
        ).flatten()
        hidden = model.model(ids[:, :-1])[0].flatten(0, 1)[::16].double()
        exact = torch.cat(
            [torch.logsumexp(h @ model.lm_head.weight.double().T, -1) for h in hidden.split(16)]
        )
    return {
        "seconds": seconds,
        "extra": extra / MIB,
        "error": float((values[::16] - exact.cpu()).abs().max()),
    }


def measure_head(vocabulary, width, tokens, dtype, device):
    """The head alone, against its matrix product in the same blocks: best seconds of each, MiB
    beyond the weights.
    """
    import torch

    from llm_bridge.models import head as module

    torch.manual_seed(0)
    place = {"dtype": getattr(torch, dtype), "device": device}
    linear = torch.nn.Linear(width, vocabulary, bias=False, **place)
    hidden, chosen = (
        torch.randn(tokens, width, **place),
        torch.randint(vocabulary, (tokens,), device=device),
    )
    head = module.Head(linear, vocabulary)

    def product():
        for start in range(0, vocabulary, module.CHUNK):
            torch.mm(hidden, linear.weight[start : start + module.CHUNK].T)

    def statistics():
        return module.token_statistics(head.blocks(hidden), chosen, hidden)

    seconds = {"product": [], "head": []}
    with torch.inference_mode():
        for run in (product, statistics):
            run()
        before = held(device)
        for _ in range(5):
            for name, run in (("product", product), ("head", statistics)):
                start = time.perf_counter()
                run()
                if device != "cpu":
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - start)
        extra = (peak(device) - before) / MIB
    best = {name: min(runs) for name, runs in seconds.items()}
    flops = 2 * vocabulary * width * tokens
    print(f"## Head alone, V={vocabulary:,}, d={width:,}, {tokens:,} tokens, {dtype}, {device}\n")
    print(
        f"- matrix product {best['product']:.4f} s ({flops / best['product'] / 1e12:.2f} TFLOP/s)"
    )
    print(
        f"- both statistics {best['head']:.4f} s, {best['head'] / best['product']:.2f} times the "
        "product"
    )
    print(f"- extra memory, both: {extra:,.0f} MiB")


def held(device):
    """Bytes held now; forgets earlier peaks."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak(device):
    """Greatest number of bytes held since `held`."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return status("VmHWM")


def status(field):
    """A field of this process's memory, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def main():
    """Run all contenders in turn and print a table for each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--head", nargs=3, type=int, metavar=("V", "D", "TOKENS"))
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(measure(arguments.contender, arguments.dtype[0], arguments.device)))
        return
    if arguments.head:
        for dtype in arguments.dtype:
            measure_head(*arguments.head, dtype, arguments.device)
        return
    sys.path.insert(0, str(Path(__file__).parent))
    from solver import cpu_model

    print(
        f"# Scoring {BATCH} x {TIME} tokens, V={SHAPE['vocab_size']:,}, on {arguments.device}: "
        f"{cpu_model()}"
    )
    names = [
        name
        for name in CONTENDERS
        if CONTENDERS[name] is not trl or importlib.util.find_spec("trl")
    ]
    for dtype in arguments.dtype:
        runs = {name: [] for name in names}
        for _ in range(arguments.turns):
            for name in names:
                command = [
                    sys.executable,
                    __file__,
                    "--contender",
                    name,
                    "--dtype",
                    dtype,
                    "--device",
                    arguments.device,
                ]
                environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
                done = subprocess.run(
                    command, capture_output=True, text=True, env=environment, check=True
                )
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
        report(dtype, runs)


def report(dtype, runs):
    """A table of best times, memory and errors, and what they are to be."""
    print(
        f"\n## {dtype}\n\n| | s, best | s, median | extra MiB | error of V "
        "|\n|---|---:|---:|---:|---:|"
    )
    best = {}
    for name, found in runs.items():
        seconds = [s for one in found for s in one["seconds"]]
        best[name] = min(seconds)
        extra, error = max(one["extra"] for one in found), max(one["error"] for one in found)
        print(
            f"| {name} | {best[name]:.2f} | {np.median(seconds):.2f} | {extra:,.0f} | {error:.1e} |"
        )
    (first, *_, last), limit = runs, {"float32": 150, "bfloat16": 100}.get(dtype)
    extra, error = (max(one[what] for one in runs[last]) for what in ("extra", "error"))
    ratio = best[last] / best[first]
    print(
        f"\n- time over the usual way: {ratio:.2f}, not above 1: "
        f"{'met' if ratio <= 1 else 'MISSED'}"
    )
    if limit is not None:
        print(
            f"- extra memory {extra:,.0f} MiB, at most {limit}: "
            f"{'met' if extra <= limit else 'MISSED'}"
        )
    if dtype == "float32":
        print(f"- error of V {error:.1e}, at most 1e-05: {'met' if error <= 1e-5 else 'MISSED'}")


if __name__ == "__main__":
    main()
