"""Maximiser of the concave objectives of `theory.fit.objectives`.

L-BFGS on variables scaled by their curvature, and then Newton steps by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import Bounds, minimize

from theory.fit.objectives import MaxEntDual, SoftQObjective

__all__ = ["maximise"]

MAX_NEWTON = 500
"""Newton steps after L-BFGS."""

MAX_CONJUGATE = 200
"""Conjugate gradients in each Newton step."""

FLAT = 1e-15
"""Gradient or curvature that counts as rounding, on variables scaled to curvatures near one."""


def maximise(
    problem: MaxEntDual | SoftQObjective, tolerance: float, max_iterations: int
) -> tuple[np.ndarray, int, bool]:
    """Maximise by L-BFGS from zero, then Newton steps until one is below `tolerance`.

    Values are known to about 1e-16 and so locate a maximum to 1e-8 at best, and a rare state's
    worse; gradients are relatively exact in every state. So the last digits come from steps that
    read the gradient only. None is longer than a nat, within which the quadratic model of a soft
    maximum is good.

    Returns:
        The maximiser, the number of iterations, and whether it converged.

    Example:
        >>> from theory import TokenMDP
        >>> from theory.fit.demonstrations import Demonstrations
        >>> data = Demonstrations(TokenMDP.tree([[[0, 0]]]).dynamics, (np.array([[3, 1]]),))
        >>> theta, _, converged = maximise(MaxEntDual(data, 1.0, 0.0, None), 1e-9, 100)
        >>> round(float(theta[0] - theta[1]), 6), converged  # log 3
        (1.098612, True)
    """
    theta = np.zeros(problem.n_variables)
    alpha = problem.alpha
    scale = problem.scale(theta)

    def descend(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(scale * y)
        return -value / alpha, -scale * gradient / alpha

    options = {
        "maxiter": max_iterations,
        "maxfun": 2 * max_iterations,
        "maxcor": 20,
        "ftol": 1e-9,
        "gtol": 1e-5,
    }
    bounds = Bounds(-problem.reach / scale, problem.reach / scale)
    found = minimize(descend, theta, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    theta = scale * found.x
    before = np.inf
    for steps in range(1, MAX_NEWTON + 1):
        scale = problem.scale(theta)
        gradient = scale * problem.value_and_gradient(theta)[1] / alpha

        def curvature(y: np.ndarray, at: np.ndarray = theta, scale: np.ndarray = scale) -> Any:
            return scale * problem.curvature(at, scale * y) / alpha

        step = scale * _conjugate_gradients(curvature, gradient)
        size = problem.size(step)
        theta = theta + problem.shortened(step)
        if size <= tolerance:
            return theta, int(found.nit) + steps, True
        if before <= size < 0.1:  # steps no longer shrink: they are rounding
            break
        before = size
    return theta, int(found.nit) + steps, False


def _conjugate_gradients(
    curvature: Callable[[np.ndarray], np.ndarray], b: np.ndarray
) -> np.ndarray:
    """Solve ``curvature(x) = b`` to five digits, leaving directions without curvature alone."""
    x = np.zeros(len(b))
    rest = b
    direction = b
    length = rest @ rest
    goal = max(1e-10 * length, len(b) * FLAT**2)
    for _ in range(MAX_CONJUGATE):
        curved = curvature(direction)
        bend = direction @ curved
        if length <= goal or bend <= FLAT * (direction @ direction):
            break
        x = x + length / bend * direction
        rest = rest - length / bend * curved
        before = length
        length = rest @ rest
        direction = rest + length / before * direction
    return np.asarray(x)
