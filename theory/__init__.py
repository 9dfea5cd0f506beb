"""Token MDPs solved exactly: endogenous rewards, the theorems about them, and their worst cases.

Axis convention of the whole package
------------------------------------
A response is `H` tokens out of a vocabulary of `V`; layer ``h = 0 … H−1`` holds the ``n_h`` states
in which token `h` is chosen, and the ``n_0 = P`` states of layer 0 are the prompts. Axes come in
the order *batch, states of one layer, tokens*:

- a *table* has one number for each state and token of a layer, ``(*batch, n_h, V)``;
- a *value* has one number for each state of a layer, ``(*batch, n_h)``;
- a sequence of tables or values has one entry for each layer, so its length is `H`;
- `alpha`, `epsilon`, `beta` and the like are scalars or of shape ``batch``.

A batch is many problems on the same dynamics, solved by one array program; axes broadcast. Arrays
are NumPy arrays, torch tensors or enclosures, see `theory.arrays.namespace`.

Example:
    >>> from theory import TokenMDP, endogenous_reward, soft_optimal
    >>> mdp = TokenMDP.tree([[[0.0, 1.0]], [[0.5, 0.2], [1.0, 0.0]]])  # H = 2, V = 2, one prompt
    >>> policy, values = soft_optimal(mdp, alpha=0.5)
    >>> [value.round(3).tolist() for value in values]
    [[2.096], [0.719, 1.063]]
    >>> endogenous_reward(policy, alpha=0.5).rewards[1].round(3).tolist()  # the reward comes back
    [[0.5, 0.2], [1.0, 0.0]]
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
