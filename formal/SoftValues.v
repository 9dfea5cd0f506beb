(** The reward inside a policy (docs/theory.md, section 1), and inverse RL (section 9).

    Soft values and the soft-optimal policy, their variational characterisation, and the rows
    soft-value, telescoping, endogenous-telescoping, soft-rl-fixed-point, irl-saddle, irl-gap and
    inverse-soft-q. Where a row reads the reward inside [π̂], [π̂] forbids nothing that the tree
    allows; Support.v is about policies that do. *)

From Coq Require Import Reals List Lra.
From Endorm Require Export Values Scalars Distributions.
Import ListNotations.
Open Scope R_scope.

Section SoftValues.
Context {St T : Type} {D : Dynamics St T}.
Variable alpha : R.
Hypothesis alpha_pos : 0 < alpha.
Implicit Types (p q r : table St T) (n : nat) (s : St) (tau : list T) (v : nat -> St -> R).

(** ** The soft-optimal policy *)

Lemma soft_policy_positive : forall r n s, positive (soft_policy alpha r) n s.
Proof.
  intros r n s. apply everywhere_all. intros m t a _. apply softmax_positive, acts_nonempty.
Qed.

Lemma soft_policy_policy : forall r n s, policy (soft_policy alpha r) n s.
Proof.
  intros r n s. apply everywhere_all. intros m t. apply softmax_distribution, acts_nonempty.
Qed.

(** [α log π_E(a|s) = r(s,a) + V*(s⊕a) − V*(s)]. *)
Lemma ln_soft_policy : forall r n s a,
  alpha * ln (soft_policy alpha r (S n) s a) =
  r (S n) s a + soft_values alpha r n (next s a) - soft_values alpha r (S n) s.
Proof.
  intros r n s a.
  exact (ln_softmax (acts s) (soft_q alpha r (S n) s) alpha a alpha_pos (acts_nonempty s)).
Qed.

Lemma soft_maximum_ext : forall l (x y : T -> R),
  (forall a, In a l -> x a = y a) -> soft_maximum alpha l x = soft_maximum alpha l y.
Proof.
  intros l x y same. unfold soft_maximum. f_equal. f_equal.
  apply sum_ext. intros a a_in. now rewrite same.
Qed.

(** Row telescoping: [r*(τ) = α log π_E(τ|s₁) + V*(s₁)]. *)
Theorem telescoping : forall r n s tau, In tau (responses n s) ->
  total r n s tau = alpha * ln (prob (soft_policy alpha r) n s tau) + soft_values alpha r n s.
Proof.
  intros r n s tau tau_in.
  rewrite ln_prob_positive by (auto using soft_policy_positive).
  revert s tau tau_in. induction n as [| n IH]; intros s tau tau_in.
  - destruct tau; cbn [total soft_values]; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & _ & rest_in).
    cbn [total]. rewrite Rmult_plus_distr_l, ln_soft_policy, IH by assumption. lra.
Qed.

(** [V^π_r = α E_π log π_E(τ) + V*(s₁)], for every policy. *)
Lemma value_telescoped : forall r p n s, policy p n s ->
  value p r n s = alpha * expect p n s (fun tau => ln (prob (soft_policy alpha r) n s tau))
                  + soft_values alpha r n s.
Proof.
  intros r p n s pol.
  rewrite <- expect_scale, <- (expect_const p n s (soft_values alpha r n s)), <- expect_plus
    by exact pol.
  apply expect_ext; [exact pol |]. intros tau tau_in _. now apply telescoping.
Qed.

(** ** The variational characterisation *)

(** [log y = y - 1] at [y = 1] only. *)
Lemma ln_eq_sub_1 : forall y, 0 < y -> ln y = y - 1 -> y = 1.
Proof.
  intros y pos same. destruct (Req_dec (ln y) 0) as [zero | nonzero]; [lra |].
  pose proof (exp_ineq1 (ln y) nonzero) as strict. rewrite exp_ln in strict; lra.
Qed.

(** [KL(p‖q) = 0] only where [p = q]. *)
Lemma gibbs_eq : forall {A : Type} (l : list A) (p q : A -> R),
  distribution l p -> distribution l q -> (forall x, In x l -> 0 < q x) ->
  (∑ x ∈ l, p x * (ln (p x) - ln (q x))) = 0 -> forall x, In x l -> p x = q x.
Proof.
  intros A l p q [p_nonneg p_one] [_ q_one] q_pos zero x x_in.
  assert (p x * (ln (p x) - ln (q x)) - (p x - q x) = 0) as tight.
  { apply (sum_zero_terms l (fun x => p x * (ln (p x) - ln (q x)) - (p x - q x))).
    - intros y y_in. specialize (q_pos y y_in). destruct (p_nonneg y y_in) as [pos | <-]; [| lra].
      pose proof (ln_le_sub_1 (q y / p y) (Rdiv_lt_0_compat _ _ q_pos pos)) as tangent.
      rewrite ln_div in tangent by assumption.
      apply (Rmult_le_compat_l (p y)) in tangent; [| lra].
      replace (p y * (q y / p y - 1)) with (q y - p y) in tangent by (field; lra). lra.
    - rewrite sum_minus, zero, sum_minus. lra.
    - exact x_in. }
  specialize (q_pos x x_in).
  destruct (p_nonneg x x_in) as [pos | zero_x]; [| rewrite <- zero_x in tight; lra].
  assert (q x / p x = 1) as one.
  { apply ln_eq_sub_1; [now apply Rdiv_lt_0_compat |].
    rewrite ln_div by assumption. apply Rmult_eq_reg_l with (p x); [| lra].
    replace (p x * (q x / p x - 1)) with (q x - p x) by (field; lra). lra. }
  apply Rmult_eq_reg_r with (/ p x); [| apply Rinv_neq_0_compat; lra].
  rewrite Rinv_r by lra. unfold Rdiv in one. lra.
Qed.

Lemma kl_nonneg : forall p q n s, policy p n s -> policy q n s -> positive q n s ->
  0 <= kl p q n s.
Proof.
  intros p q n s p_pol q_pol q_pos. unfold kl, expect, log_ratio.
  apply gibbs; auto using prob_distribution, prob_pos.
Qed.

Lemma kl_zero : forall p q n s, policy p n s -> policy q n s -> positive q n s ->
  kl p q n s = 0 -> forall tau, In tau (responses n s) -> prob p n s tau = prob q n s tau.
Proof.
  intros p q n s p_pol q_pol q_pos. unfold kl, expect, log_ratio.
  apply gibbs_eq; auto using prob_distribution, prob_pos.
Qed.

(** What a policy is short of the soft value is its divergence from the soft-optimal policy:
    [V^π_{r,α} = V*(s₁) − α KL(π‖π_E)]. *)
Lemma regularised_gap : forall r p n s, policy p n s ->
  regularised alpha p r n s =
  soft_values alpha r n s - alpha * kl p (soft_policy alpha r) n s.
Proof.
  intros r p n s pol. unfold regularised, entropy, kl, log_ratio.
  rewrite expect_minus, value_telescoped by exact pol. lra.
Qed.

(** Row soft-value: [V^{π_E}_{r*,α} = V*(s₁)]. *)
Theorem soft_value : forall r n s,
  regularised alpha (soft_policy alpha r) r n s = soft_values alpha r n s.
Proof.
  intros r n s. rewrite regularised_gap by apply soft_policy_policy.
  unfold kl, expect, log_ratio. rewrite sum_zero; [lra |]. intros tau _. lra.
Qed.

(** The soft value is the greatest regularised value ... *)
Theorem soft_value_greatest : forall r p n s, policy p n s ->
  regularised alpha p r n s <= soft_values alpha r n s.
Proof.
  intros r p n s pol. rewrite regularised_gap by exact pol.
  pose proof (kl_nonneg p (soft_policy alpha r) n s pol (soft_policy_policy r n s)
                (soft_policy_positive r n s)) as nonneg.
  assert (0 <= alpha * kl p (soft_policy alpha r) n s) by (apply Rmult_le_pos; lra). lra.
Qed.

(** ... and no other distribution of responses has it. *)
Theorem soft_value_unique : forall r p n s, policy p n s ->
  regularised alpha p r n s = soft_values alpha r n s ->
  forall tau, In tau (responses n s) -> prob p n s tau = prob (soft_policy alpha r) n s tau.
Proof.
  intros r p n s pol attained. rewrite regularised_gap in attained by exact pol.
  apply kl_zero; auto using soft_policy_policy, soft_policy_positive.
  apply Rmult_eq_reg_l with alpha; lra.
Qed.

(** ** The endogenous reward *)

(** Row endogenous-telescoping: [r̂(τ) = α log π̂(τ|s₁) + V̂(s₁)] of a response that [π̂] gives, in
    any gauge. *)
Theorem endogenous_telescoping : forall p v n s tau, policy p n s -> gauge v ->
  In tau (responses n s) -> 0 < prob p n s tau ->
  total (endogenous alpha p v) n s tau = alpha * ln (prob p n s tau) + v n s.
Proof.
  intros p v n s tau pol zero tau_in pos.
  rewrite ln_prob by assumption. clear pol pos.
  revert s tau tau_in. induction n as [| n IH]; intros s tau tau_in.
  - destruct tau; cbn [total]; rewrite zero; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & _ & rest_in).
    cbn [total]. rewrite IH by assumption. unfold endogenous. cbn [pred]. lra.
Qed.

(** [V^q_{r̂} = α E_q log π̂(τ) + V̂(s₁)]. *)
Lemma value_endogenous : forall p q v n s, policy p n s -> positive p n s -> gauge v ->
  policy q n s ->
  value q (endogenous alpha p v) n s =
  alpha * expect q n s (fun tau => ln (prob p n s tau)) + v n s.
Proof.
  intros p q v n s p_pol p_pos zero q_pol.
  rewrite <- expect_scale, <- (expect_const q n s (v n s)), <- expect_plus by exact q_pol.
  apply expect_ext; [exact q_pol |]. intros tau tau_in _.
  now apply endogenous_telescoping; auto using prob_pos.
Qed.

(** [V̂] is the soft value of [r̂], whatever the gauge. *)
Lemma soft_values_endogenous : forall p v n s, policy p n s -> positive p n s -> gauge v ->
  soft_values alpha (endogenous alpha p v) n s = v n s.
Proof.
  intros p v n. induction n as [| n IH]; intros s pol pos zero; [now rewrite zero |].
  destruct pol as [here pol], pos as [pos_here pos]. cbn [soft_values].
  rewrite <- (soft_maximum_ln (acts s) (p (S n) s) (v (S n) s) alpha)
    by (auto using acts_nonempty).
  apply soft_maximum_ext. intros a a_in. rewrite IH by auto.
  unfold endogenous. cbn [pred]. lra.
Qed.

(** The soft-optimal policy of [r̂] is [π̂], token by token. *)
Lemma soft_policy_endogenous : forall p v n s, policy p n s -> positive p n s -> gauge v ->
  everywhere (fun m t => forall a, In a (acts t) ->
    soft_policy alpha (endogenous alpha p v) m t a = p m t a) n s.
Proof.
  intros p v n. induction n as [| n IH]; intros s pol pos zero; cbn [everywhere]; [trivial |].
  split.
  - intros a a_in. apply ln_inv.
    + apply softmax_positive, acts_nonempty.
    + now apply pos.
    + apply Rmult_eq_reg_l with alpha; [| lra].
      rewrite ln_soft_policy, !soft_values_endogenous; [| | | | apply pol | apply pos |]; auto.
      unfold endogenous. cbn [pred]. lra.
  - destruct pol, pos. auto.
Qed.

Lemma prob_soft_policy_endogenous : forall p v n s tau,
  policy p n s -> positive p n s -> gauge v -> In tau (responses n s) ->
  prob (soft_policy alpha (endogenous alpha p v)) n s tau = prob p n s tau.
Proof. intros. apply prob_ext; auto using soft_policy_endogenous. Qed.

(** Row soft-rl-fixed-point: [argmax_π V^π_{r̂,α}] is [π̂] and nothing else. *)
Theorem soft_rl_fixed_point : forall p v n s, policy p n s -> positive p n s -> gauge v ->
  forall q, policy q n s ->
  (forall q', policy q' n s ->
     regularised alpha q' (endogenous alpha p v) n s
     <= regularised alpha q (endogenous alpha p v) n s) <->
  (forall tau, In tau (responses n s) -> prob q n s tau = prob p n s tau).
Proof.
  intros p v n s p_pol p_pos zero q q_pol.
  set (read := endogenous alpha p v). split.
  - intros best tau tau_in.
    rewrite (soft_value_unique read q n s q_pol); [now apply prob_soft_policy_endogenous | | easy].
    apply Rle_antisym; [now apply soft_value_greatest |].
    rewrite <- soft_value. apply best, soft_policy_policy.
  - intros same q' q'_pol.
    apply Rle_trans with (soft_values alpha read n s); [now apply soft_value_greatest |].
    right. rewrite regularised_gap by exact q_pol.
    unfold kl, expect, log_ratio. rewrite sum_zero; [lra |]. intros tau tau_in.
    unfold read. rewrite prob_soft_policy_endogenous, same by assumption. lra.
Qed.

(** ** Inverse RL *)

(** MaxEnt IRL's objective at [r̂] with [q] as data (eq. 6): [E_q r̂(τ) − V_r̂(s₁)]. *)
Definition irl_dual (q r : table St T) n s : R := value q r n s - soft_values alpha r n s.

(** Row irl-saddle: at [π̂]'s own data it is [−α H(π̂)]. *)
Theorem irl_saddle : forall p v n s, policy p n s -> positive p n s -> gauge v ->
  irl_dual p (endogenous alpha p v) n s = - (alpha * entropy p n s).
Proof.
  intros p v n s pol pos zero. unfold irl_dual, entropy.
  rewrite value_endogenous, soft_values_endogenous by assumption. lra.
Qed.

(** With [π̂] as the answer to [r̂] (soft-rl-fixed-point) that is a saddle point: no reward makes
    the objective greater. *)
Theorem irl_best_reward : forall p v r n s, policy p n s -> positive p n s -> gauge v ->
  irl_dual p r n s <= irl_dual p (endogenous alpha p v) n s.
Proof.
  intros p v r n s pol pos zero. rewrite irl_saddle by assumption. unfold irl_dual.
  pose proof (soft_value_greatest r p n s pol) as most. unfold regularised in most. lra.
Qed.

(** Row irl-gap: for other data the duality gap is [α KL(π_E‖π̂)]. *)
Theorem irl_gap : forall p v expert n s, policy p n s -> positive p n s -> gauge v ->
  policy expert n s ->
  - (alpha * entropy expert n s) - irl_dual expert (endogenous alpha p v) n s =
  alpha * kl expert p n s.
Proof.
  intros p v expert n s pol pos zero expert_pol. unfold irl_dual, entropy, kl, log_ratio.
  rewrite value_endogenous, soft_values_endogenous, expect_minus by assumption. lra.
Qed.

(** Row inverse-soft-q: inverse soft-Q learning's objective (eq. 7) at [Q̂ = r̂ + V_r̂] is [α] times
    the log-likelihood. *)
Theorem inverse_soft_q : forall p v expert n s, policy p n s -> positive p n s -> gauge v ->
  policy expert n s ->
  let q_hat := soft_q alpha (endogenous alpha p v) in
  value expert (fun m t a => q_hat m t a - soft_maximum alpha (acts t) (q_hat m t)) n s =
  alpha * expect expert n s (fun tau => ln (prob p n s tau)).
Proof.
  intros p v expert n s pol pos zero expert_pol q_hat.
  rewrite <- expect_scale. apply expect_ext; [exact expert_pol |]. intros tau tau_in _.
  rewrite ln_prob_positive, <- total_scale by assumption. apply total_ext; [| exact tau_in].
  apply (everywhere_imp (fun m t => forall a, In a (acts t) ->
    soft_policy alpha (endogenous alpha p v) m t a = p m t a)).
  - intros m t same a a_in. rewrite <- same by exact a_in.
    symmetry. apply ln_softmax; [exact alpha_pos | apply acts_nonempty].
  - now apply soft_policy_endogenous.
Qed.

End SoftValues.
