(** Improving with the endogenous reward, round by round (docs/theory.md, section 8): every scheme
    moves along the powers of [π̂], and differs in the exponent alone. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Anchored.
Import ListNotations.
Open Scope R_scope.

Section Iterating.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha beta : R) (p : table St T) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis beta_pos : 0 < beta.
Hypothesis pol : policy p n s.
Hypothesis pos : positive p n s.

Let c := alpha / beta.

(** [q(τ) ∝ π̂^κ(τ)]. *)
Definition power_of (kappa : R) (q : table St T) : Prop :=
  policy q n s /\ positive q n s /\
  exists shift, forall tau, In tau (responses n s) ->
    ln (prob q n s tau) = kappa * ln (prob p n s tau) + shift.

Lemma power_of_itself : power_of 1 p.
Proof. split; [exact pol | split; [exact pos |]]. exists 0. intros tau _. ring. Qed.

(** There is one such distribution, and [power_policy] has it. *)
Lemma power_of_is_power : forall kappa q, power_of kappa q -> forall tau,
  In tau (responses n s) -> prob q n s tau = prob (power_policy kappa p) n s tau.
Proof.
  intros kappa q (q_pol & q_pos & shift & same).
  set (logs := fun m t a => kappa * ln (p m t a)).
  apply prob_proportional with (c := shift + soft_values 1 logs n s);
    try assumption; try apply soft_policy_policy; try apply soft_policy_positive.
  intros tau tau_in. rewrite same by exact tau_in.
  pose proof (telescoping 1 Rlt_0_1 logs n s tau tau_in) as sums.
  unfold logs in sums at 1. rewrite total_scale, <- ln_prob_positive in sums by assumption.
  unfold power_policy. fold logs. lra.
Qed.

(** One round: the reward of [π̂^x], anchored at [π̂^y], gives [π̂^{y + x α/β}]. *)
Lemma one_round : forall x y q mu v, gauge v -> power_of x q -> power_of y mu ->
  power_of (y + c * x) (kl_optimal beta (endogenous alpha q v) mu).
Proof.
  intros x y q mu v zero (q_pol & q_pos & q_shift & q_same) (mu_pol & mu_pos & mu_shift & mu_same).
  split; [apply soft_policy_policy | split; [apply soft_policy_positive |]].
  set (shaped := fun m t a => endogenous alpha q v m t a + beta * ln (mu m t a)).
  exists ((alpha * q_shift + v n s - soft_values beta shaped n s) / beta + mu_shift).
  intros tau tau_in.
  pose proof (telescoping beta beta_pos shaped n s tau tau_in) as sums.
  unfold shaped in sums at 1.
  rewrite (total_shaped beta (endogenous alpha q v) mu), (endogenous_telescoping alpha) in sums
    by auto using prob_pos.
  rewrite q_same, mu_same in sums by exact tau_in.
  unfold kl_optimal. fold shaped. apply Rmult_eq_reg_l with beta; [| lra].
  unfold c. field_simplify; [| lra]. lra.
Qed.

Variable v : nat -> nat -> St -> R.
Hypothesis gauges : forall k, gauge (v k).

(** The reward read anew and the anchor moved in every round: [π̂^{(1 + α/β)^k}]. *)
Fixpoint reread_and_moved (k : nat) : table St T :=
  match k with
  | O => p
  | S j => kl_optimal beta (endogenous alpha (reread_and_moved j) (v j)) (reread_and_moved j)
  end.

Theorem exponent_reread_and_moved : forall k tau, In tau (responses n s) ->
  prob (reread_and_moved k) n s tau = prob (power_policy ((1 + c) ^ k) p) n s tau.
Proof.
  intros k. apply power_of_is_power.
  induction k as [| k IH]; [apply power_of_itself |]. cbn [reread_and_moved pow].
  replace ((1 + c) * (1 + c) ^ k) with ((1 + c) ^ k + c * (1 + c) ^ k) by ring.
  now apply one_round.
Qed.

(** The reward read anew, the anchor kept: [π̂^{1 + α/β + … + (α/β)^k}]. *)
Fixpoint reread (k : nat) : table St T :=
  match k with
  | O => p
  | S j => kl_optimal beta (endogenous alpha (reread j) (v j)) p
  end.

Theorem exponent_reread : forall k tau, In tau (responses n s) ->
  prob (reread k) n s tau = prob (power_policy (∑ j ∈ seq 0 (S k), c ^ j) p) n s tau.
Proof.
  intros k. apply power_of_is_power.
  induction k as [| k IH].
  - cbn [reread seq sum fold_right pow]. rewrite Rplus_0_r. apply power_of_itself.
  - cbn [reread].
    replace (∑ j ∈ seq 0 (S (S k)), c ^ j) with (1 + c * ∑ j ∈ seq 0 (S k), c ^ j).
    + apply one_round; [apply gauges | exact IH | apply power_of_itself].
    + change (seq 0 (S (S k))) with (0%nat :: seq 1 (S k)).
      rewrite sum_cons, <- seq_shift, sum_map, <- sum_scale. reflexivity.
Qed.

(** The first reward kept, the anchor moved: [π̂^{1 + k α/β}]. *)
Fixpoint moved (k : nat) : table St T :=
  match k with
  | O => p
  | S j => kl_optimal beta (endogenous alpha p (v 0%nat)) (moved j)
  end.

Theorem exponent_moved : forall k tau, In tau (responses n s) ->
  prob (moved k) n s tau = prob (power_policy (1 + INR k * c) p) n s tau.
Proof.
  intros k. apply power_of_is_power.
  induction k as [| k IH].
  - cbn [moved]. replace (1 + INR 0 * c) with 1 by (simpl; ring). apply power_of_itself.
  - cbn [moved]. rewrite S_INR.
    replace (1 + (INR k + 1) * c) with (1 + INR k * c + c * 1) by ring.
    apply one_round; [apply gauges | apply power_of_itself | exact IH].
Qed.

End Iterating.
