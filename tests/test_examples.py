"""Every public function says what it does, and has an example that runs."""

import importlib
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("theory", "llm_bridge")
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.py")
)

ON_A_GPU = "needs Triton, and is what torch_kernels calls on a GPU"
FROM_ENVIRONMENT = "reads its model from the environment of a trainer"

WITHOUT = {
    "theory.arrays.triton_kernels.expectation": ON_A_GPU,
    "theory.arrays.triton_kernels.soft_backup": ON_A_GPU,
    "llm_bridge.check.exact.trained_group": "trains a model for several seconds",
    "llm_bridge.check.exact.model_group": "loads two models from folders",
    "llm_bridge.models.gguf.converted": "needs a GGUF file",
    "llm_bridge.models.gguf.read_tokenizer": "needs a GGUF file",
    "llm_bridge.plugins.from_environment": FROM_ENVIRONMENT,
    "llm_bridge.plugins.openrlhf.reward_func": FROM_ENVIRONMENT,
    "llm_bridge.plugins.skyrl.token_rewards": FROM_ENVIRONMENT,
    "llm_bridge.plugins.trl.endogenous_reward": FROM_ENVIRONMENT,
    "llm_bridge.plugins.verl.compute_score": FROM_ENVIRONMENT,
    "llm_bridge.preferences.rows.hub_rows": "loads from the hub",
}
"""Public functions without an example that runs, and why."""


def require_packages(name):
    """Skip the test of a module whose packages are not installed."""
    if name.startswith("llm_bridge"):
        pytest.importorskip("transformers")
    for package in ("torch", "triton"):
        if name == f"theory.arrays.{package}_kernels":
            pytest.importorskip(package)


def is_record(thing):
    """Whether a class only holds what a function returns, is an error, or is a type of others."""
    return inspect.isclass(thing) and (
        is_dataclass(thing)
        or issubclass(thing, tuple | Exception)
        or getattr(thing, "_is_protocol", False)
    )


def without_example(module):
    """The public functions and classes of a module whose docstring has no `>>>`."""
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        own = callable(thing) and thing.__module__ == module.__name__
        if own and not is_record(thing) and ">>>" not in (inspect.getdoc(thing) or ""):
            yield f"{module.__name__}.{name}"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_has_an_example(name):
    require_packages(name)
    lacking = set(without_example(importlib.import_module(name)))
    assert lacking == {path for path in WITHOUT if path.rpartition(".")[0] == name}


NO_VERB = re.compile(
    r"(?:The|An?|Whether|What|Which|How|Each|Every|For|Of|One|Where|Share|Ids|Indices|`.*)\b"
)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_function_does_begins_with_a_verb(name):
    require_packages(name)
    module = importlib.import_module(name)
    functions = [getattr(module, x) for x in getattr(module, "__all__", ())]
    functions = [x for x in functions if inspect.isfunction(x)]
    assert not [x.__name__ for x in functions if NO_VERB.match(inspect.getdoc(x) or "The")]
