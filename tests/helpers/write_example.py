"""Write the example that ships with the package: a token MDP, and a model trained on its expert.

    python tests/helpers/write_example.py

It is `llm_bridge.check.exact.trained_group`'s model, narrower: 16,864 parameters, 70 kB.
"""

from pathlib import Path

from llm_bridge.models.cloned import train_on_demonstrations
from llm_bridge.models.load import save
from theory.mdp.token_mdp import TokenMDP
from theory.solve.soft import soft_optimal

ROOT = Path(__file__).parents[2]


def main():
    mdp = TokenMDP.random(4, 5, n_prompts=2, seed=0)
    mdp.save(ROOT / "theory" / "studies" / "letters.npz")
    expert = soft_optimal(mdp, 0.5).policy
    lm = train_on_demonstrations(expert, hidden=32, layers=1, seed=0)
    # a conversation is its letters: prompt and response with nothing between
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    save(lm, ROOT / "llm_bridge" / "models" / "letters")
    print(sum(parameter.numel() for parameter in lm.model.parameters()), "parameters")


if __name__ == "__main__":
    main()
