(** Token MDPs on a finite horizon, as in docs/theory.md: policies, values, rewards, distances.

    A state has [n] steps left; a token takes it to [next s a] with one step less. Rewards,
    policies and Q-values are tables [p n s a]: the steps left, the state, the token. So the
    horizon is the number of steps left at the prompt, and prefix trees, windows of the last
    tokens and tables of states are instances of one definition (Paper.v has the paper's). *)

From Coq Require Import Reals List.
From Endorm Require Export Sums.
Import ListNotations.
Open Scope R_scope.

(** States [St], tokens [T], transitions, and the tokens that are allowed in a state. *)
Class Dynamics (St T : Type) := {
  next : St -> T -> St;
  acts : St -> list T;
  acts_nonempty : forall s, acts s <> []
}.

(** [f] is a probability distribution on the list [l]. *)
Definition distribution {A : Type} (l : list A) (f : A -> R) : Prop :=
  (forall x, In x l -> 0 <= f x) /\ sum l f = 1.

(** The logistic function [σ]. *)
Definition logistic (x : R) : R := / (1 + exp (- x)).

Section TokenMDP.
Context {St T : Type} {D : Dynamics St T}.

Definition table : Type := nat -> St -> T -> R.

Implicit Types (p q r : table) (n : nat) (s : St) (alpha beta eps : R).

(** ** States, policies and responses *)

(** [P] holds at every state that can follow [s], with the steps that are left there. *)
Fixpoint everywhere (P : nat -> St -> Prop) n s : Prop :=
  match n with
  | O => True
  | S m => P n s /\ forall a, In a (acts s) -> everywhere P m (next s a)
  end.

(** A policy: a probability distribution over the next token in every state. *)
Definition policy p n s : Prop :=
  everywhere (fun m t => distribution (acts t) (p m t)) n s.

(** It never forbids a token that is allowed. *)
Definition positive p n s : Prop :=
  everywhere (fun m t => forall a, In a (acts t) -> 0 < p m t a) n s.

(** [max |log p(a|s) − log q(a|s)| ≤ ε] over all states and tokens, in nats. *)
Definition log_ratio_ball eps p q n s : Prop :=
  everywhere (fun m t => forall a, In a (acts t) ->
    0 < p m t a /\ 0 < q m t a /\ Rabs (ln (p m t a) - ln (q m t a)) <= eps) n s.

(** Rewards lie in the interval [lo, lo + width]. *)
Definition reward_range lo width r n s : Prop :=
  everywhere (fun m t => forall a, In a (acts t) -> lo <= r m t a <= lo + width) n s.

(** No state allows more than [vocab] tokens. *)
Definition vocabulary (vocab : nat) n s : Prop :=
  everywhere (fun _ t => (length (acts t) <= vocab)%nat) n s.

(** All responses of [n] tokens. *)
Fixpoint responses n s : list (list T) :=
  match n with
  | O => [[]]
  | S m => flat_map (fun a => map (cons a) (responses m (next s a))) (acts s)
  end.

(** The sum of a table along a response: of rewards, its return [r(τ) = Σ_h r(s_h, a_h)]. *)
Fixpoint total r n s (tau : list T) : R :=
  match n, tau with
  | S m, a :: rest => r n s a + total r m (next s a) rest
  | _, _ => 0
  end.

(** The probability of a response, [π(τ|s) = Π_h π(a_h|s_h)]. *)
Fixpoint prob p n s (tau : list T) : R :=
  match n, tau with
  | S m, a :: rest => p n s a * prob p m (next s a) rest
  | _, _ => 1
  end.

(** [E_π g(τ)], the sum over the list of all responses. *)
Definition expect p n s (g : list T -> R) : R :=
  ∑ tau ∈ responses n s, prob p n s tau * g tau.

(** ** Values *)

(** The plain value [V^π_r = E_π r(τ)]. *)
Definition value p r n s : R := expect p n s (total r n s).

(** The entropy of the response, nats. *)
Definition entropy p n s : R := - expect p n s (fun tau => ln (prob p n s tau)).

(** The regularised value [V^π_{r,α} = E_π r(τ) + α H(π(τ))]. *)
Definition regularised alpha p r n s : R := value p r n s + alpha * entropy p n s.

(** [R_τ]: the width of the range of the return. *)
Definition return_range r n s : R :=
  greatest (responses n s) (total r n s) - least (responses n s) (total r n s).

(** The plain value of [p] is short of the greatest by at most [delta]; [delta = 0] is
    [p ∈ argmax_π V^π_r]. *)
Definition optimal_up_to (delta : R) r p n s : Prop :=
  forall q, policy q n s -> value q r n s <= value p r n s + delta.

(** ** Soft values *)

(** [α log Σ_a exp(x_a/α)]. *)
Definition soft_maximum alpha (l : list T) (x : T -> R) : R :=
  alpha * ln (∑ a ∈ l, exp (x a / alpha)).

(** [softmax(x/α)]. *)
Definition softmax alpha (l : list T) (x : T -> R) (a : T) : R :=
  exp (x a / alpha) / ∑ b ∈ l, exp (x b / alpha).

(** [V*(s) = α log Σ_a exp(Q*(s,a)/α)] with [Q*(s,a) = r(s,a) + V*(s⊕a)]; zero after the last
    token. *)
Fixpoint soft_values alpha r n s : R :=
  match n with
  | O => 0
  | S m => soft_maximum alpha (acts s) (fun a => r n s a + soft_values alpha r m (next s a))
  end.

Definition soft_q alpha r n s a : R := r n s a + soft_values alpha r (pred n) (next s a).

(** [π_E = softmax(Q*/α)]. *)
Definition soft_policy alpha r n s : T -> R := softmax alpha (acts s) (soft_q alpha r n s).

(** The endogenous reward [r̂(s,a) = α log π̂(a|s) + V̂(s) − V̂(s⊕a)] of a policy (eq. 11). *)
Definition endogenous alpha p (v : nat -> St -> R) n s a : R :=
  alpha * ln (p n s a) + v n s - v (pred n) (next s a).

(** Its gauge [V̂] is free but for zero after the last token. *)
Definition gauge (v : nat -> St -> R) : Prop := forall s, v 0%nat s = 0.

(** The maximiser of [V^π_r − β KL(π‖μ)], [∝ μ(τ) e^{r(τ)/β}]. *)
Definition kl_optimal beta r (mu : table) : table :=
  soft_policy beta (fun n s a => r n s a + beta * ln (mu n s a)).

(** The power of a whole response, [∝ π^κ(τ)]. *)
Definition power_policy (kappa : R) p : table :=
  soft_policy 1 (fun n s a => kappa * ln (p n s a)).

(** ** Preferences *)

(** Bradley–Terry: the probability that [tau] is preferred to [tau'] (eq. 3). *)
Definition preference r n s (tau tau' : list T) : R :=
  logistic (total r n s tau - total r n s tau').

(** [TV(P_r, P_r')] of one pair. *)
Definition preference_tv r r' n s (tau tau' : list T) : R :=
  Rabs (preference r n s tau tau' - preference r' n s tau tau').

(** ** Distances between the distributions of a response *)

(** [D(τ) = log p(τ|s) − log q(τ|s)]. *)
Definition log_ratio p q n s (tau : list T) : R := ln (prob p n s tau) - ln (prob q n s tau).

(** [KL(p(τ)‖q(τ))], nats; [q] never forbids what [p] allows. *)
Definition kl p q n s : R := expect p n s (log_ratio p q n s).

(** [TV(p(τ), q(τ))]. *)
Definition tv p q n s : R :=
  / 2 * ∑ tau ∈ responses n s, Rabs (prob p n s tau - prob q n s tau).

(** The Bhattacharyya coefficient [BC = Σ_τ √(p q)]. *)
Definition bhattacharyya p q n s : R :=
  ∑ tau ∈ responses n s, sqrt (prob p n s tau * prob q n s tau).

(** The Rényi divergence [D_κ(p(τ)‖q(τ)) = log Σ_τ p^κ q^{1−κ} / (κ − 1)] of positive policies. *)
Definition renyi (kappa : R) p q n s : R :=
  / (kappa - 1) * ln (∑ tau ∈ responses n s,
    Rpower (prob p n s tau) kappa * Rpower (prob q n s tau) (1 - kappa)).

End TokenMDP.

Arguments table : clear implicits.
