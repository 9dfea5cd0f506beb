(** Distances between the distributions of a response (docs/theory.md, sections 4 and 7): the rows
    regularised-equality and kl-ball, and total variation by Pinsker and Hellinger. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export SoftValues.
Open Scope R_scope.

Section Distances.
Context {St T : Type} {D : Dynamics St T}.
Implicit Types (p q r expert : table St T) (n : nat) (s : St) (alpha eps : R).

(** ** The ball *)

(** Both are policies, and within [eps] of each other, in this state and all that follow. *)
Lemma states_of_ball : forall eps expert p n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  everywhere (fun m t => distribution (acts t) (expert m t) /\ distribution (acts t) (p m t) /\
                         near eps (acts t) (expert m t) (p m t)) n s.
Proof.
  intros eps expert p n s expert_pol pol ball.
  apply everywhere_and; [assumption | apply everywhere_and; assumption].
Qed.

(** The log-ratio of a response is the sum of those of its tokens. *)
Lemma log_ratio_total : forall p q n s tau,
  positive p n s -> positive q n s -> In tau (responses n s) ->
  log_ratio p q n s tau = total (fun m t a => ln (p m t a) - ln (q m t a)) n s tau.
Proof.
  intros p q n s tau p_pos q_pos tau_in. unfold log_ratio.
  rewrite !ln_prob_positive by assumption.
  unfold Rminus. rewrite total_plus. f_equal.
  rewrite (total_ext (fun m t a => - ln (q m t a)) (fun m t a => -1 * ln (q m t a))).
  - rewrite total_scale. ring.
  - apply everywhere_all. intros m t a _. ring.
  - exact tau_in.
Qed.

Lemma total_abs : forall eps r n s tau,
  everywhere (fun m t => forall a, In a (acts t) -> Rabs (r m t a) <= eps) n s ->
  In tau (responses n s) -> Rabs (total r n s tau) <= INR n * eps.
Proof.
  intros eps r n. induction n as [| n IH]; intros s tau small tau_in.
  - destruct tau; cbn [total]; rewrite Rabs_R0; simpl; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
    destruct small as [here below]. cbn [total]. rewrite S_INR.
    eapply Rle_trans; [apply Rabs_triang |].
    specialize (here a a_in). specialize (IH _ _ (below a a_in) rest_in). lra.
Qed.

(** In the ball, [|D(τ)| ≤ H ε]. *)
Lemma log_ratio_bound : forall eps p q n s tau, log_ratio_ball eps p q n s ->
  In tau (responses n s) -> - (INR n * eps) <= log_ratio p q n s tau <= INR n * eps.
Proof.
  intros eps p q n s tau ball tau_in. apply abs_le_inv.
  rewrite log_ratio_total by eauto using ball_positive_l, ball_positive_r.
  apply total_abs; [| exact tau_in].
  revert ball. apply everywhere_imp. intros m t ball a a_in. now apply ball.
Qed.

(** ** KL *)

(** The chain rule: [KL(p‖q)] is the value under [p] of the rewards [log p − log q]. *)
Lemma kl_value : forall p q n s, policy p n s -> positive q n s ->
  kl p q n s = value p (fun m t a => ln (p m t a) - ln (q m t a)) n s.
Proof.
  intros p q n s pol pos. apply expect_ext; [exact pol |]. intros tau tau_in given.
  unfold log_ratio. rewrite ln_prob, ln_prob_positive by assumption. clear given pol pos.
  revert s tau tau_in. induction n as [| n IH]; intros s tau tau_in.
  - destruct tau; cbn [total]; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & _ & rest_in).
    cbn [total]. rewrite <- IH by assumption. lra.
Qed.

(** Of values one step at a time: rewards that have a mean of at most [c] in every state are worth
    at most [n c]. *)
Lemma value_le_steps : forall p r c n s, policy p n s ->
  everywhere (fun m t => (∑ a ∈ acts t, p m t a * r m t a) <= c) n s ->
  value p r n s <= INR n * c.
Proof.
  intros p r c n. induction n as [| n IH]; intros s pol bound.
  - rewrite value_0. simpl. lra.
  - rewrite value_S by exact pol. destruct pol as [[nonneg one] pol], bound as [here bound].
    rewrite S_INR.
    apply Rle_trans with (∑ a ∈ acts s, (p (S n) s a * r (S n) s a + p (S n) s a * (INR n * c))).
    + apply sum_le. intros a a_in. rewrite Rmult_plus_distr_l. apply Rplus_le_compat_l.
      apply Rmult_le_compat_l; [now apply nonneg | auto].
    + rewrite sum_plus, sum_scale_r, one. lra.
Qed.

(** Row kl-ball: [KL(π̂‖π_E) ≤ H ε tanh(ε/2)]. By the symmetry of the ball (ball_sym) it holds of
    [KL(π_E‖π̂)] too. *)
Theorem kl_ball : forall eps expert p n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  kl p expert n s <= INR n * eps * tanh (eps / 2).
Proof.
  intros eps expert p [| n] s expert_pol pol ball.
  - unfold kl, expect, log_ratio. simpl. rewrite ln_1. lra.
  - pose proof (ball_radius _ _ _ _ _ ball) as eps_nonneg.
    rewrite kl_value, Rmult_assoc by eauto using ball_positive_l.
    apply value_le_steps; [exact pol |].
    pose proof (states_of_ball _ _ _ _ _ expert_pol pol ball) as states.
    revert states. apply everywhere_imp. intros m t (expert_law & p_law & within).
    now apply near_kl.
Qed.

(** Row regularised-equality: [V^{π_E}_α − V^{π̂}_α = α KL(π̂‖π_E)]. *)
Theorem regularised_equality : forall alpha r p n s, 0 < alpha -> policy p n s ->
  regularised alpha (soft_policy alpha r) r n s - regularised alpha p r n s =
  alpha * kl p (soft_policy alpha r) n s.
Proof.
  intros alpha r p n s alpha_pos pol.
  rewrite soft_value, regularised_gap by assumption. lra.
Qed.

(** In regularised values the worst loss in the ball is linear in [H] and quadratic in [ε]. *)
Theorem regularised_ball : forall alpha eps r p n s, 0 < alpha -> policy p n s ->
  log_ratio_ball eps (soft_policy alpha r) p n s ->
  regularised alpha (soft_policy alpha r) r n s - regularised alpha p r n s <=
  alpha * (INR n * eps * tanh (eps / 2)).
Proof.
  intros alpha eps r p n s alpha_pos pol ball. rewrite regularised_equality by assumption.
  apply Rmult_le_compat_l; [lra |]. apply kl_ball; auto using soft_policy_policy.
Qed.

(** ** Total variation *)

Lemma tv_sym : forall p q n s, tv p q n s = tv q p n s.
Proof.
  intros p q n s. unfold tv. f_equal. apply sum_ext. intros tau _. apply Rabs_minus_sym.
Qed.

Lemma tv_nonneg : forall p q n s, 0 <= tv p q n s.
Proof.
  intros p q n s. unfold tv. apply Rmult_le_pos; [lra |].
  apply sum_nonneg. intros tau _. apply Rabs_pos.
Qed.

Lemma tv_le_1 : forall p q n s, policy p n s -> policy q n s -> tv p q n s <= 1.
Proof.
  intros p q n s p_pol q_pol. unfold tv.
  destruct (prob_distribution p n s p_pol) as [p_nonneg p_one].
  destruct (prob_distribution q n s q_pol) as [q_nonneg q_one].
  assert ((∑ tau ∈ responses n s, Rabs (prob p n s tau - prob q n s tau)) <=
          ∑ tau ∈ responses n s, (prob p n s tau + prob q n s tau)) as below.
  { apply sum_le. intros tau tau_in. specialize (p_nonneg tau tau_in).
    specialize (q_nonneg tau tau_in). apply Rabs_le. lra. }
  rewrite sum_plus in below. lra.
Qed.

(** [TV(π_E, π̂) ≤ √(KL(π̂‖π_E)/2)]. *)
Lemma tv_pinsker : forall expert p n s,
  policy expert n s -> positive expert n s -> policy p n s ->
  tv expert p n s <= sqrt (kl p expert n s / 2).
Proof.
  intros expert p n s expert_pol expert_pos pol. rewrite tv_sym.
  apply pinsker; auto using prob_distribution, prob_pos.
Qed.

(** [TV ≤ √(1 − BC²)]. *)
Lemma tv_hellinger : forall p q n s, policy p n s -> policy q n s ->
  tv p q n s <= sqrt (1 - bhattacharyya p q n s * bhattacharyya p q n s).
Proof. intros p q n s p_pol q_pol. apply hellinger; auto using prob_distribution. Qed.

End Distances.
