"""The figures, as PNG and SVG, from the curves of `theory.sweep`. Drawn without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from theory.files import replacing
from theory.sweep import HorizonCurve, PreferenceCurve, fit_exponent

__all__ = ["horizon_figure", "preference_figure", "save"]

CLONE, RL = "#b3322c", "#1f5f99"


def horizon_figure(curve: HorizonCurve) -> Figure:
    """Error against `H` on log axes: cloning and RL on the endogenous reward, beside their bounds."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    H = curve.horizons
    axes.loglog(H, curve.clone_paper, color=CLONE, ls=":", label="bound, cloning: paper, $H^2\\epsilon$")
    axes.loglog(
        H, curve.clone_composition, color=CLONE, ls="--", label="bound, cloning: sharp, $H\\,TV_{RR}(H,\\epsilon)$"
    )
    axes.loglog(H, curve.clone, color=CLONE, marker="o", label=f"exact, cloning: $H^{{{_slope(H, curve.clone)}}}$")
    axes.loglog(H, curve.rl_bound, color=RL, ls="--", label="bound, RL: $2\\alpha H\\epsilon$")
    axes.loglog(H, curve.rl_paper, color=RL, ls=":", label="bound, RL: paper, $H\\epsilon$ (needs $\\alpha\\leq 1/2$)")
    axes.loglog(H, curve.rl, color=RL, marker="s", mfc="none", label=f"exact, RL: $H^{{{_slope(H, curve.rl)}}}$")
    axes.set_xlabel("horizon $H$ (tokens)")
    axes.set_ylabel("plain-value error (reward units)")
    axes.set_title(
        f"Error against horizon, $\\alpha={curve.alpha:g}$, $\\epsilon={curve.epsilon:g}$ nats\n"
        "cloning: worst policy of the ball on coin–payoff; RL: swapped pair",
        fontsize=10,
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both", lw=0.4)
    return figure


def preference_figure(curve: PreferenceCurve) -> Figure:
    """Preference error against ε: the worst case over the ball and over pairs, a sampled policy, and the bounds."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.epsilons, curve.paper, color="0.4", ls=":", label="paper: $\\alpha H\\epsilon/2$")
    axes.plot(curve.epsilons, curve.sharp, color="0.4", ls="--", label="sharp: $\\tanh(\\alpha H\\epsilon/2)$")
    axes.plot(curve.epsilons, curve.worst, color=CLONE, marker="o", ms=4, label="exact worst case over ball and pairs")
    axes.plot(
        curve.epsilons, curve.sampled, color=RL, marker="s", ms=4, ls="none", label="a sampled policy, worst pair"
    )
    axes.axhline(1.0, color="0.7", lw=0.8)
    axes.set(xscale="log", ylim=(0, 1.15), xlabel="$\\epsilon_\\pi$ (nats)", ylabel="TV of preferences")
    axes.set_title(
        f"Preference error, $H={curve.horizon}$, $\\alpha={curve.alpha:g}$; above 1 a bound is vacuous", fontsize=10
    )
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3, lw=0.4)
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``name.png`` and ``name.svg`` into `folder`."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    for path in paths:
        with replacing(path) as file:
            if path.suffix == ".svg":
                figure.savefig(file, format="svg", metadata={"Date": None})  # the same figure, the same bytes
            else:
                figure.savefig(file, format="png", dpi=150)
    return paths


def _slope(x: tuple[int, ...], y: tuple[float, ...]) -> str:
    return f"{fit_exponent(x, y).slope:.2f}"
