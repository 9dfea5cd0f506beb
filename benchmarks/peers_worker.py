"""Solve one tree with one package: `peers_worker.py PEER TREE.npz VALUES.npy CAP_GIB`.

Run by `peers.py` with the interpreter of the peer's own environment. Prints one line of JSON:
seconds of the best solve and the greatest memory over the state after import and a tiny solve, or
the reason of a failure. Nodes are numbered by layers: the child `a` of node `i` is `i·V + 1 + a`,
and `end` absorbs after the last token.
"""

import json
import os
import resource
import sys
import time
import warnings

import numpy as np


def status(field):
    """A size of this process, in bytes, from `/proc/self/status`."""
    with open("/proc/self/status") as lines:
        return 1024 * next(int(x.split()[1]) for x in lines if x.startswith(field + ":"))


def layers(rewards, V, H):
    """The flat rewards as `(V^h, V)` layers."""
    ends = np.cumsum([V**h for h in range(H)])
    return np.split(rewards, ends[:-1])


def dense(rewards, V):
    """Transitions `(A, S, S)` and rewards `(S, A)` with the absorbing state `end`."""
    end = len(rewards)
    following = np.minimum(np.arange(end * V).reshape(end, V) + 1, end)
    P = np.zeros((V, end + 1, end + 1))
    P[np.arange(V), np.arange(end)[:, None], following] = 1
    P[:, end, end] = 1
    return P, np.vstack([rewards, np.zeros((1, V))])


def endorm(soft):
    """Ours: `soft_values` or `plain_optimal`."""
    from theory.mdp.token_mdp import TokenMDP
    from theory.solve.soft import plain_optimal, soft_values

    def prepare(rewards, V, H, alpha):
        mdp = TokenMDP.tree(layers(rewards, V, H))
        if soft:
            return lambda: np.concatenate(soft_values(mdp, alpha))
        return lambda: np.concatenate(plain_optimal(mdp).values)

    return prepare


def scipy():
    """SciPy's logsumexp, layer by layer."""
    from scipy.special import logsumexp

    def prepare(rewards, V, H, alpha):
        tree = layers(rewards, V, H)

        def solve():
            values = [np.zeros(V**H)]
            for r in reversed(tree):
                q = (r + values[0].reshape(-1, V)) / alpha
                values.insert(0, alpha * logsumexp(q, axis=-1))
            return np.concatenate(values[:-1])

        return solve

    return prepare


def quantecon():
    """QuantEcon's backward induction on sparse state-action pairs."""
    from quantecon.markov import DiscreteDP, backward_induction
    from scipy.sparse import csr_array

    def prepare(rewards, V, H, alpha):
        end, pairs = len(rewards), rewards.size
        following = np.append(np.minimum(np.arange(pairs) + 1, end), end)
        Q = csr_array((np.ones(pairs + 1), (np.arange(pairs + 1), following)))
        states = np.append(np.repeat(np.arange(end), V), end)
        actions = np.append(np.tile(np.arange(V), end), 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # beta = 1 only switches off infinite horizons
            problem = DiscreteDP(np.append(rewards.ravel(), 0.0), Q, 1.0, states, actions)
        return lambda: backward_induction(problem, H)[0][0, :-1]

    return prepare


def pymdptoolbox():
    """Use pymdptoolbox's FiniteHorizon with a sparse transition matrix for each action."""
    from mdptoolbox.mdp import FiniteHorizon
    from scipy.sparse import csr_matrix

    def prepare(rewards, V, H, alpha):
        end = len(rewards)
        P = []
        for a in range(V):
            following = np.append(np.minimum(np.arange(end) * V + 1 + a, end), end)
            P.append(csr_matrix((np.ones(end + 1), (np.arange(end + 1), following))))
        problem = FiniteHorizon(P, np.vstack([rewards, np.zeros((1, V))]), 1.0, H)

        def solve():
            problem.run()
            return problem.V[:-1, 0]

        return solve

    return prepare


def jaxdp(soft):
    """Apply jaxdp's Bellman operators, H times, on dense transitions and rewards."""
    import chex
    import jax
    import jax.numpy as jnp
    from jaxdp import MDP, SoftBellmanOptOp, bellman_opt_op

    chex.disable_asserts()  # jaxdp asserts a discount below 1; H steps need none
    jnp.zeros(1).block_until_ready()  # starts XLA's threads, before memory is capped

    def prepare(rewards, V, H, alpha):
        P, R = dense(rewards, V)
        end = len(rewards)
        mdp = MDP(
            transition=jnp.asarray(P.transpose(0, 2, 1)),
            reward=jnp.asarray(np.broadcast_to(R.T[:, :, None], P.shape)),
            initial=jnp.zeros(end + 1).at[0].set(1.0),
            terminal=jnp.zeros(end + 1).at[end].set(1.0),
        )
        del P
        operator = SoftBellmanOptOp(temperature=alpha) if soft else bellman_opt_op

        def step(mdp, v):
            return operator.v(mdp, v, 1.0).at[end].set(0.0)  # soft: log V would stay at the end

        run = jax.jit(
            lambda m: jax.lax.fori_loop(0, H, lambda _, v: step(m, v), jnp.zeros(end + 1))
        )
        return lambda: np.asarray(run(mdp))[:-1]

    return prepare


def mdpax():
    """Use mdpax's ValueIteration, H iterations, on a transition function."""
    import jax.numpy as jnp
    from mdpax.core.problem import Problem
    from mdpax.solvers.value_iteration import ValueIteration

    jnp.zeros(1).block_until_ready()  # starts XLA's threads, before memory is capped

    def prepare(rewards, V, H, alpha):
        end = len(rewards)
        table = jnp.asarray(np.vstack([rewards, np.zeros((1, V))]))

        class Tree(Problem):
            name = "tree"

            def _construct_state_space(self):
                return jnp.arange(end + 1)

            def _construct_action_space(self):
                return jnp.arange(V)

            def _construct_random_event_space(self):
                return jnp.zeros(1, dtype=int)

            def state_to_index(self, state):
                return state[0]

            def random_event_probability(self, state, action, random_event):
                return 1.0

            def transition(self, state, action, random_event):
                i, a = state[0], action[0]
                return jnp.minimum(i * V + 1 + a, end)[None], table[i, a]

        solver = ValueIteration(Tree(), gamma=1.0, epsilon=1e-12, verbose=0)
        start = solver.values

        def solve():
            solver.values, solver.iteration = start, 0
            return np.asarray(solver.solve(max_iterations=H).values)[:-1]

        return solve

    return prepare


def imitation():
    """Use imitation's soft backward induction; it takes R(s) alone, so rewards are the child's."""
    from imitation.algorithms.mce_irl import mce_partition_fh

    def prepare(rewards, V, H, alpha):
        n = len(rewards)
        S = 1 + n * V  # leaves are states too
        T = np.zeros((S, V, S))
        i = np.arange(n)[:, None]
        T[i, np.arange(V), i * V + 1 + np.arange(V)] = 1
        T[np.arange(n, S), :, np.arange(n, S)] = 1
        scaled = np.append(0.0, rewards.ravel()) / alpha

        class Tree:
            horizon, state_dim, action_dim = H + 1, S, V
            transition_matrix, reward_matrix = T, scaled

        def solve():
            values = mce_partition_fh(Tree())[0]
            depth = np.repeat(np.arange(H), [V**h for h in range(H)])
            # a last choice without consequence adds log V; the node's own reward is its parent's
            return alpha * (values[depth, np.arange(n)] - scaled[:n] - np.log(V))

        return solve

    return prepare


def storm(exact):
    """Storm's greatest expected reward until the end, from a DRN file."""
    import stormpy

    def prepare(rewards, V, H, alpha):
        end = len(rewards)
        kind = "rational" if exact else "double"
        path = sys.argv[3] + f".{kind}.drn"
        with open(path, "w") as out:
            out.write(f"@type: MDP\n@value_type: {kind}\n@parameters\n\n@reward_models\nr\n")
            out.write(f"@nr_states\n{end + 1}\n@nr_choices\n{end * V + 1}\n@model\n")
            for i in range(end):
                out.write(f"state {i} [0]{' init' if i == 0 else ''}\n")
                for a in range(V):
                    child = min(i * V + 1 + a, end)
                    out.write(f"\taction {a} [{rewards[i, a]:.17g}]\n\t\t{child} : 1\n")
            out.write(f"state {end} [0] end\n\taction 0 [0]\n\t\t{end} : 1\n")
        build = stormpy.build_model_from_drn
        model = (build[stormpy.Rational] if exact else build)(path)
        os.remove(path)
        formula = stormpy.parse_properties('Rmax=? [F "end"]')[0]

        def solve():
            found = stormpy.model_checking(model, formula)
            return np.array([float(found.get_value(i)) for i in range(end)])

        return solve

    return prepare


PEERS = {
    "ours, soft": lambda: endorm(True),
    "SciPy": scipy,
    "imitation": imitation,
    "jaxdp, soft": lambda: jaxdp(True),
    "ours, plain": lambda: endorm(False),
    "QuantEcon": quantecon,
    "pymdptoolbox": pymdptoolbox,
    "jaxdp, plain": lambda: jaxdp(False),
    "mdpax": mdpax,
    "Storm": lambda: storm(False),
    "Storm, exact": lambda: storm(True),
}


def main():
    """Solve the tree and print what it took."""
    peer, tree, out, cap = sys.argv[1:]
    prepare = PEERS[peer]()
    prepare(np.ones((3, 2)), 2, 2, 0.5)()  # what is imported and started only at first use
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    allowed = status("VmSize") + int(float(cap) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed) if soft < 0 else (soft, soft))
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # VmHWM starts again from here
    before = status("VmRSS")
    try:
        with np.load(tree) as file:
            rewards, V, H = file["rewards"], int(file["V"]), int(file["H"])
            alpha = float(file["alpha"])
        solve = prepare(rewards, V, H, alpha)
        values = solve()  # compiles
        best, until = np.inf, time.perf_counter() + 0.3
        while best == np.inf or time.perf_counter() < until:
            start = time.perf_counter()
            solve()
            best = min(best, time.perf_counter() - start)
        np.save(out, values)
        print(json.dumps({"seconds": best, "peak": status("VmHWM") - before}))
    except Exception as error:
        memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        reason = f"more than {cap} GiB" if memory else f"{type(error).__name__}: {error}"
        print(json.dumps({"failed": reason.splitlines()[0][:120]}))


if __name__ == "__main__":
    main()
