"""Train on a model's own reward with TRL's RLOO or GRPO, and print how near its optimum that ends.

    python docs/recipes/train_trl.py --model ../shared/models/add-fair --trainer rloo --out DIR

`docs/engines.md` goes through the options. For another model and task, `PROMPTS` and `LENGTH`
change, `load_policy` only loads, and what does not fit a token tree is measured by sampling.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM

from llm_bridge.improve.config import PPOConfig
from llm_bridge.improve.target import ExactTarget
from llm_bridge.models.load import CausalLM
from llm_bridge.models.spec import ModelSpec
from llm_bridge.plugins.trl import make_reward_func
from llm_bridge.read.reward import EndogenousReward
from llm_bridge.tasks.generated import addition

PROMPTS, LENGTH, SAMPLES = addition(32, seed=5).prompts, 4, 8


def load_policy(model: str, folder: Path) -> tuple[Any, Any]:
    """Load what is trained, with what TRL needs and the addition models lack: an end token, which
    is never written, and a position for the last token, whose logits nobody reads.
    """
    lm = ModelSpec(model).load()
    places = lm.model.transformer.wpe.weight.data
    lm.model.transformer.wpe = torch.nn.Embedding.from_pretrained(
        torch.cat([places, places[-1:]]), freeze=False
    )
    lm.model.config.n_positions += 1
    lm.model.save_pretrained(folder)  # the trainer reads its reference model from there
    lm.tokenizer.add_special_tokens({"eos_token": "<end>"})
    return AutoModelForCausalLM.from_pretrained(folder), lm.tokenizer


def main(model: str, trainer: str, beta: float, out: str, **more: Any) -> dict[str, float]:
    """Train, and return what `ExactTarget.measure` says of the policy, with the seconds taken."""
    anchor = ModelSpec(model).load()
    policy, tokenizer = load_policy(model, Path(out) / "start")
    options: dict[str, Any] = {"beta": beta, "logging_steps": 50}
    options |= {"num_generations": SAMPLES, "max_completion_length": LENGTH}
    options |= {"per_device_train_batch_size": len(PROMPTS) * SAMPLES, "disable_dropout": True}
    options |= {"bf16": False, "gradient_checkpointing": False}
    options |= {"output_dir": str(out), "save_strategy": "no", "report_to": "none"}
    if trainer == "grpo":  # its groups' mean counts the sample itself: (G − 1)/G of the reward
        options |= {"beta": beta * (SAMPLES - 1) / SAMPLES, "loss_type": "dr_grpo"}
        options |= {"scale_rewards": "none"}
    start = time.perf_counter()
    getattr(trl, f"{trainer.upper()}Trainer")(
        model=policy,
        processing_class=tokenizer,
        reward_funcs=make_reward_func(EndogenousReward(anchor)),
        args=getattr(trl, f"{trainer.upper()}Config")(**options | more),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    ).train()
    seconds = time.perf_counter() - start
    target = ExactTarget(anchor, PROMPTS, PPOConfig(beta=beta, max_tokens=LENGTH, end_tokens=()))
    trained = CausalLM(policy.eval(), anchor.tokenizer, "trained")
    return target.report(trained) | {"seconds": round(seconds, 1)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--trainer", choices=["rloo", "grpo"], default="rloo")
    for name, default in {"beta": 0.1, "max_steps": 400, "learning_rate": 5e-4, "seed": 0}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--out", required=True)
    print(json.dumps(main(**vars(parser.parse_args())), indent=1))
