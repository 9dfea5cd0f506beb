"""Everything that `theory` and `llm_bridge` offer, under one name.

``import endorm`` needs no torch; a name loads its module when it is first asked for.

Example:
    >>> import endorm
    >>> mdp = endorm.TokenMDP.tree([[[0.0, 1.0]]])
    >>> endorm.soft_optimal(mdp, alpha=1.0).values[0].round(4).tolist()
    [1.3133]
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return the name of that package which has it."""
    from endorm.ours import require_ours

    require_ours()
    import llm_bridge
    import theory

    if name == "__all__":
        return [*theory.__all__, *llm_bridge.__all__]
    if name == "__version__":
        return theory.__version__
    for package in (theory, llm_bridge):
        if name in package.__all__:
            return getattr(package, name)
    raise AttributeError(f"module 'endorm' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return [*__getattr__("__all__"), "__version__"]
