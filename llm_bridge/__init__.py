"""Endogenous rewards of real causal language models, and the statements about them.

Names are loaded when they are first asked for, so that ``import llm_bridge`` needs no torch.

Example::

    from llm_bridge import EndogenousReward, ModelSpec

    reward = EndogenousReward(ModelSpec("HuggingFaceTB/SmolLM2-135M-Instruct").load())
    four, five = reward.score(["2 + 2 ="] * 2, [" 4", " 5"])
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
