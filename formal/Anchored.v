(** RL with a KL anchor (docs/theory.md, sections 4 and 8): the maximiser of [V^π_r − β KL(π‖μ)],
    and what it loses on the endogenous reward. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Distances.
Import ListNotations.
Open Scope R_scope.

(** ** The anchored optimum *)

Section AnchoredOptimum.
Context {St T : Type} {D : Dynamics St T}.

Variables (beta : R) (r mu : table St T) (n : nat) (s : St).
Hypothesis beta_pos : 0 < beta.
Hypothesis mu_pol : policy mu n s.
Hypothesis mu_pos : positive mu n s.

Let anchored := kl_optimal beta r mu.
Let shaped : table St T := fun m t a => r m t a + beta * ln (mu m t a).

Lemma total_shaped : forall tau, In tau (responses n s) ->
  total shaped n s tau = total r n s tau + beta * ln (prob mu n s tau).
Proof.
  intros tau tau_in. unfold shaped.
  rewrite total_plus, total_scale, ln_prob_positive by assumption. reflexivity.
Qed.

(** [V^π_r − β KL(π‖μ) = V_β − β KL(π‖π_β)]: short of the optimum by a divergence. *)
Lemma anchored_gap : forall q, policy q n s ->
  value q r n s - beta * kl q mu n s =
  soft_values beta shaped n s - beta * kl q anchored n s.
Proof.
  intros q q_pol. pose proof (regularised_gap beta beta_pos shaped q n s q_pol) as gap.
  change (soft_policy beta shaped) with anchored in gap. rewrite <- gap.
  unfold regularised, entropy, kl, log_ratio. rewrite expect_minus.
  assert (value q shaped n s =
          value q r n s + beta * expect q n s (fun tau => ln (prob mu n s tau))) as ->; [| ring].
  unfold value. rewrite <- expect_scale, <- expect_plus.
  apply expect_ext; [exact q_pol |]. intros tau tau_in _. now apply total_shaped.
Qed.

Lemma anchored_self : kl anchored anchored n s = 0.
Proof.
  unfold kl, expect, log_ratio. apply sum_zero. intros tau _. ring.
Qed.

(** No policy has a greater [V^π_r − β KL(π‖μ)] ... *)
Theorem anchored_optimum : forall q, policy q n s ->
  value q r n s - beta * kl q mu n s
  <= value anchored r n s - beta * kl anchored mu n s.
Proof.
  intros q q_pol.
  rewrite (anchored_gap q q_pol), (anchored_gap anchored), anchored_self
    by apply soft_policy_policy.
  pose proof (kl_nonneg q anchored n s q_pol (soft_policy_policy _ _ _ _)
                (soft_policy_positive _ _ _ _)).
  assert (0 <= beta * kl q anchored n s) by (apply Rmult_le_pos; lra). lra.
Qed.

(** ... and no other distribution of responses has as great a one. *)
Theorem anchored_optimum_unique : forall q, policy q n s ->
  value q r n s - beta * kl q mu n s
  = value anchored r n s - beta * kl anchored mu n s ->
  forall tau, In tau (responses n s) -> prob q n s tau = prob anchored n s tau.
Proof.
  intros q q_pol attained.
  rewrite (anchored_gap q q_pol), (anchored_gap anchored), anchored_self in attained
    by apply soft_policy_policy.
  apply kl_zero; auto using soft_policy_policy, soft_policy_positive.
  - apply soft_policy_policy.
  - apply soft_policy_positive.
  - apply Rmult_eq_reg_l with beta; lra.
Qed.

(** It is [∝ μ(τ) e^{r(τ)/β}]. *)
Theorem anchored_closed_form : forall tau, In tau (responses n s) ->
  prob anchored n s tau =
  prob mu n s tau * exp (total r n s tau / beta) /
  ∑ other ∈ responses n s, prob mu n s other * exp (total r n s other / beta).
Proof.
  set (scale := exp (- soft_values beta shaped n s / beta)).
  assert (forall tau, In tau (responses n s) ->
    prob anchored n s tau = prob mu n s tau * exp (total r n s tau / beta) * scale) as form.
  { intros tau tau_in.
    pose proof (telescoping beta beta_pos shaped n s tau tau_in) as sums.
    rewrite total_shaped in sums by exact tau_in.
    change (soft_policy beta shaped) with anchored in sums.
    pose proof (prob_pos mu n s tau mu_pos tau_in) as mu_tau.
    rewrite <- (exp_ln (prob mu n s tau)) by exact mu_tau.
    rewrite <- (exp_ln (prob anchored n s tau))
      by (apply prob_pos; [apply soft_policy_positive | exact tau_in]).
    unfold scale. rewrite <- !exp_plus. f_equal.
    apply Rmult_eq_reg_l with beta; [| lra].
    field_simplify; lra. }
  assert (0 < scale) as scale_pos by apply exp_pos.
  assert ((∑ other ∈ responses n s, prob mu n s other * exp (total r n s other / beta)) * scale = 1)
    as mass.
  { rewrite <- sum_scale_r.
    destruct (prob_distribution anchored n s (soft_policy_policy _ _ _ _)) as [_ one].
    rewrite <- one. symmetry. now apply sum_ext. }
  intros tau tau_in. rewrite form by exact tau_in.
  set (total_mass := ∑ other ∈ responses n s, prob mu n s other * exp (total r n s other / beta))
    in *.
  assert (total_mass <> 0) by (intros zero; rewrite zero in mass; lra).
  apply Rmult_eq_reg_r with total_mass; [| assumption].
  rewrite Rmult_assoc, (Rmult_comm scale), mass. field. assumption.
Qed.

End AnchoredOptimum.

(** Two policies whose log-probabilities differ by a constant are one. *)
Lemma prob_proportional : forall {St T : Type} {D : Dynamics St T} (p q : table St T) n s c,
  policy p n s -> policy q n s -> positive p n s -> positive q n s ->
  (forall tau, In tau (responses n s) -> ln (prob p n s tau) = ln (prob q n s tau) + c) ->
  forall tau, In tau (responses n s) -> prob p n s tau = prob q n s tau.
Proof.
  intros St T D p q n s c p_pol q_pol p_pos q_pos apart.
  assert (forall tau, In tau (responses n s) -> prob p n s tau = exp c * prob q n s tau) as scaled.
  { intros tau tau_in. rewrite <- (exp_ln (prob p n s tau)) by now apply prob_pos.
    rewrite apart, exp_plus, exp_ln by (assumption || now apply prob_pos). ring. }
  assert (exp c = 1) as one.
  { destruct (prob_distribution p n s p_pol) as [_ p_one].
    destruct (prob_distribution q n s q_pol) as [_ q_one].
    rewrite (sum_ext _ _ (fun tau => exp c * prob q n s tau) scaled), sum_scale, q_one in p_one.
    lra. }
  intros tau tau_in. rewrite scaled, one by exact tau_in. ring.
Qed.

(** ** On the endogenous reward, with the policy itself as anchor *)

Section Anchored.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha beta eps : R) (r p : table St T) (v : nat -> St -> R) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis beta_pos : 0 < beta.
Hypothesis pol : policy p n s.
Hypothesis pos : positive p n s.
Hypothesis gauge_v : gauge v.

Let expert := soft_policy alpha r.
Let r_hat := endogenous alpha p v.
Let anchored := kl_optimal beta r_hat p.

Lemma expert_policy : policy expert n s.
Proof. apply soft_policy_policy. Qed.

Lemma anchored_policy : policy anchored n s.
Proof. apply soft_policy_policy. Qed.

(** The anchored optimum of [r̂] is the power [π̂^{1+α/β}], in any gauge. *)
Theorem anchored_two_ways_any_beta : forall tau, In tau (responses n s) ->
  prob anchored n s tau = prob (power_policy (1 + alpha / beta) p) n s tau.
Proof.
  set (power := power_policy (1 + alpha / beta) p).
  set (shaped := fun m t a => r_hat m t a + beta * ln (p m t a)).
  set (logs := fun m t a => (1 + alpha / beta) * ln (p m t a)).
  apply prob_proportional with
    (c := (v n s - soft_values beta shaped n s) / beta + soft_values 1 logs n s);
    try apply soft_policy_policy; try apply soft_policy_positive.
  intros tau tau_in.
  pose proof (telescoping beta beta_pos shaped n s tau tau_in) as left.
  pose proof (telescoping 1 Rlt_0_1 logs n s tau tau_in) as right.
  unfold shaped in left at 1. rewrite (total_shaped beta r_hat p) in left by assumption.
  unfold r_hat in left at 1.
  rewrite (endogenous_telescoping alpha) in left by (auto using prob_pos).
  unfold logs in right at 1. rewrite total_scale, <- ln_prob_positive in right by assumption.
  unfold anchored, kl_optimal. fold shaped. unfold power, power_policy. fold logs.
  apply Rmult_eq_reg_l with beta; [| lra].
  replace (beta * ln (prob (soft_policy beta shaped) n s tau))
    with (alpha * ln (prob p n s tau) + v n s + beta * ln (prob p n s tau)
          - soft_values beta shaped n s) by lra.
  replace (ln (prob (soft_policy 1 logs) n s tau))
    with ((1 + alpha / beta) * ln (prob p n s tau) - soft_values 1 logs n s) by lra.
  field. lra.
Qed.

(** What the anchored optimum loses, exactly: [(α+β) KL(π_E‖π̂) − α E_{π_β} D − β KL(π_β‖π̂) −
    β KL(π_E‖π_β)]. *)
Theorem anchored_loss :
  value expert r n s - value anchored r n s =
  (alpha + beta) * kl expert p n s - alpha * expect anchored n s (log_ratio expert p n s)
  - beta * kl anchored p n s - beta * kl expert anchored n s.
Proof.
  pose proof (anchored_gap beta r_hat p n s beta_pos pos expert expert_policy) as of_expert.
  pose proof (anchored_gap beta r_hat p n s beta_pos pos anchored anchored_policy) as of_anchored.
  fold anchored in of_expert, of_anchored.
  pose proof (anchored_self beta r_hat p n s) as self. fold anchored in self.
  rewrite self in of_anchored.
  unfold r_hat in of_expert at 1. unfold r_hat in of_anchored at 1.
  rewrite (value_endogenous alpha p) in of_expert, of_anchored
    by auto using expert_policy, anchored_policy.
  rewrite !(value_telescoped alpha alpha_pos) by auto using expert_policy, anchored_policy.
  fold expert.
  assert (forall q, expect q n s (log_ratio expert p n s) =
    expect q n s (fun tau => ln (prob expert n s tau))
    - expect q n s (fun tau => ln (prob p n s tau))) as ratio.
  { intros q. unfold log_ratio. apply expect_minus. }
  rewrite (ratio anchored). pose proof (ratio expert) as own. fold (kl expert p n s) in own.
  apply (f_equal (Rmult alpha)) in own. lra.
Qed.

(** At most [α H ε + (α + β) KL(π_E‖π̂)]. *)
Theorem rl_anchored_any_beta : log_ratio_ball eps expert p n s ->
  value expert r n s - value anchored r n s <=
  alpha * INR n * eps + (alpha + beta) * kl expert p n s.
Proof.
  intros ball. rewrite anchored_loss.
  assert (0 <= beta * kl anchored p n s).
  { apply Rmult_le_pos; [lra | now apply kl_nonneg; auto using anchored_policy]. }
  assert (0 <= beta * kl expert anchored n s).
  { apply Rmult_le_pos; [lra |]. apply kl_nonneg; auto using anchored_policy, expert_policy.
    apply soft_policy_positive. }
  assert (- (INR n * eps) <= expect anchored n s (log_ratio expert p n s)) as below.
  { rewrite <- (expect_const anchored n s (- (INR n * eps)) anchored_policy).
    apply expect_le; [apply anchored_policy |]. intros tau tau_in _.
    now apply log_ratio_bound. }
  apply (Rmult_le_compat_l alpha) in below; lra.
Qed.

(** [E_{π̂} e^{−(α/β) D}], whose logarithm is [α/β] times a Rényi divergence. *)
Let tilted : R := ∑ tau ∈ responses n s,
  prob p n s tau * exp (- (alpha / beta) * log_ratio expert p n s tau).

(** By Donsker–Varadhan: [≤ (α + β) KL(π_E‖π̂) + β log E_{π̂} e^{−(α/β) D}]. *)
Lemma anchored_donsker_varadhan :
  value expert r n s - value anchored r n s <=
  (alpha + beta) * kl expert p n s + beta * ln tilted.
Proof.
  rewrite anchored_loss.
  assert (0 <= beta * kl expert anchored n s).
  { apply Rmult_le_pos; [lra |]. apply kl_nonneg; auto using anchored_policy, expert_policy.
    apply soft_policy_positive. }
  assert (- alpha * expect anchored n s (log_ratio expert p n s) - beta * kl anchored p n s
          <= beta * ln tilted) as below; [| lra].
  pose proof (mean_le_soft_maximum (responses n s) (prob anchored n s)
    (fun tau => ln (prob p n s tau) - alpha / beta * log_ratio expert p n s tau) 1 Rlt_0_1
    (responses_nonempty n s) (prob_distribution anchored n s anchored_policy)) as variational.
  unfold soft_maximum in variational. rewrite Rmult_1_l in variational.
  rewrite (sum_ext _ (fun tau => exp _) (fun tau =>
    prob p n s tau * exp (- (alpha / beta) * log_ratio expert p n s tau))) in variational.
  2: { intros tau tau_in. rewrite <- (exp_ln (prob p n s tau)) at 2 by now apply prob_pos.
       rewrite <- exp_plus. f_equal. field. lra. }
  fold tilted in variational. apply (Rmult_le_compat_l beta) in variational; [| lra].
  eapply Rle_trans; [| exact variational]. right.
  unfold kl. rewrite <- !expect_scale. unfold expect. rewrite <- sum_minus, <- sum_scale.
  apply sum_ext. intros tau _. unfold log_ratio. field. lra.
Qed.

(** [β log E_{π̂} e^{−(α/β) D} = α D_{1+α/β}(π̂‖π_E)]. *)
Lemma tilted_renyi : beta * ln tilted = alpha * renyi (1 + alpha / beta) p expert n s.
Proof.
  unfold renyi. replace (1 + alpha / beta - 1) with (alpha / beta) by ring.
  replace (alpha * (/ (alpha / beta) * _)) with (beta * ln (∑ tau ∈ responses n s,
    Rpower (prob p n s tau) (1 + alpha / beta)
    * Rpower (prob expert n s tau) (1 - (1 + alpha / beta)))) by (field; lra).
  do 2 f_equal. apply sum_ext. intros tau tau_in. unfold Rpower, log_ratio.
  rewrite <- (exp_ln (prob p n s tau)) at 1 by now apply prob_pos.
  rewrite <- !exp_plus. f_equal. ring.
Qed.

(** [≤ (α + β) KL(π_E‖π̂) + α D_{1+α/β}(π̂‖π_E)]. *)
Theorem rl_anchored_renyi_any_beta :
  value expert r n s - value anchored r n s <=
  (alpha + beta) * kl expert p n s + alpha * renyi (1 + alpha / beta) p expert n s.
Proof. rewrite <- tilted_renyi. apply anchored_donsker_varadhan. Qed.

End Anchored.

(** ** The divergence of order [1 + c] of a ball *)

(** [t^{1+c}] lies above its tangents. *)
Lemma power_tangent : forall c t y, 0 <= c -> 0 < t -> 0 < y ->
  exp ((1 + c) * ln t) + (1 + c) * exp ((1 + c) * ln t) / t * (y - t) <= exp ((1 + c) * ln y).
Proof.
  intros c t y c_nonneg t_pos y_pos.
  assert (0 < y / t) as ratio_pos by now apply Rdiv_lt_0_compat.
  replace ((1 + c) * ln y) with ((1 + c) * ln t + (1 + c) * ln (y / t))
    by (rewrite ln_div by assumption; ring).
  rewrite exp_plus.
  replace (exp ((1 + c) * ln t) + (1 + c) * exp ((1 + c) * ln t) / t * (y - t))
    with (exp ((1 + c) * ln t) * (1 + (1 + c) * (y / t - 1))) by (field; lra).
  apply Rmult_le_compat_l; [apply Rlt_le, exp_pos |].
  set (x := y / t) in *.
  replace ((1 + c) * ln x) with (ln x + c * ln x) by ring.
  rewrite exp_plus, exp_ln by exact ratio_pos.
  pose proof (x_ln_x_tangent 1 x Rlt_0_1 ratio_pos) as tangent. rewrite ln_1 in tangent.
  apply Rle_trans with (x * (1 + c * ln x)).
  - assert (c * (x - 1) <= c * (x * ln x)) by (apply Rmult_le_compat_l; lra). lra.
  - apply Rmult_le_compat_l; [lra |]. apply exp_ineq1_le.
Qed.

(** [E_q e^{−c D}] at one state, largest for a two-point distribution. *)
Definition step_moment (c eps : R) : R := cosh ((c + / 2) * eps) / cosh (eps / 2).

Lemma step_moment_ball : forall {A : Type} (l : list A) (x y : A -> R) c eps,
  0 <= c -> 0 <= eps -> distribution l x -> distribution l y -> near eps l x y ->
  (∑ a ∈ l, y a * exp (- c * (ln (x a) - ln (y a)))) <= step_moment c eps.
Proof.
  intros A l x y c eps c_nonneg eps_nonneg x_law y_law within.
  set (f := fun t => exp ((1 + c) * ln t)).
  apply Rle_trans with (∑ a ∈ l, x a * f (y a / x a)).
  { right. apply sum_ext. intros a a_in. destruct (within a a_in) as (x_pos & y_pos & _).
    unfold f. rewrite Rmult_plus_distr_r, Rmult_1_l, exp_plus, exp_ln, ln_div
      by auto using Rdiv_lt_0_compat.
    replace (- c * (ln (x a) - ln (y a))) with (c * (ln (y a) - ln (x a))) by ring.
    field. lra. }
  set (lo := exp (- eps)). set (hi := exp eps).
  assert (0 < hi) as hi_pos by apply exp_pos.
  assert (lo = / hi) as unit by apply exp_Ropp.
  assert (step_moment c eps = (hi * f lo + f hi) / (1 + hi)) as ->.
  { unfold f, lo, hi, step_moment, cosh. rewrite !ln_exp.
    set (half := exp (eps / 2)). set (tilt := exp (c * eps)).
    assert (0 < half) by apply exp_pos. assert (0 < tilt) by apply exp_pos.
    replace ((c + / 2) * eps) with (c * eps + eps / 2) by field.
    replace (- (c * eps + eps / 2)) with (- (c * eps) + - (eps / 2)) by ring.
    replace ((1 + c) * eps) with (eps + c * eps) by ring.
    replace ((1 + c) * - eps) with (- eps + - (c * eps)) by ring.
    rewrite !exp_plus, !exp_Ropp, (exp_double eps). fold half tilt.
    field. repeat split; nra. }
  destruct eps_nonneg as [eps_pos | zero].
  - assert (1 < hi) as hi_above by (rewrite <- exp_0; apply exp_increasing; lra).
    assert (lo < hi) as ordered by (apply exp_increasing; lra).
    replace ((hi * f lo + f hi) / (1 + hi))
      with ((hi * f lo - lo * f hi) / (hi - lo) + (f hi - f lo) / (hi - lo))
      by (rewrite unit; field; repeat split; nra).
    apply (mean_of_density_le eps); try assumption.
    intros t in_ball. fold lo hi in in_ball.
    assert (0 < lo) by apply exp_pos. assert (0 < t) as t_pos by lra.
    apply Rmult_le_reg_l with (hi - lo); [lra |].
    replace ((hi - lo) * ((hi * f lo - lo * f hi) / (hi - lo) + (f hi - f lo) / (hi - lo) * t))
      with ((hi - t) * f lo + (t - lo) * f hi) by (field; lra).
    apply (chord f lo hi t ((1 + c) * f t / t) in_ball); apply power_tangent; assumption.
  - assert (hi = 1) as hi_one by (unfold hi; rewrite <- zero; apply exp_0).
    assert (f 1 = 1) as f_one by (unfold f; rewrite ln_1, Rmult_0_r; apply exp_0).
    rewrite unit, hi_one, Rinv_1, f_one.
    replace ((1 * 1 + 1) / (1 + 1)) with (1 + 0) by field.
    apply (mean_of_density_le eps); try assumption.
    intros t in_ball. fold lo hi in in_ball. rewrite unit, hi_one, Rinv_1 in in_ball.
    replace t with 1 by lra. lra.
Qed.

(** A product over the steps of a response has at most the product of the steps' means. *)
Lemma expect_exp_steps : forall {St T : Type} {D : Dynamics St T} (p r : table St T) bound n s,
  policy p n s ->
  everywhere (fun m t => (∑ a ∈ acts t, p m t a * exp (r m t a)) <= bound) n s ->
  expect p n s (fun tau => exp (total r n s tau)) <= bound ^ n.
Proof.
  intros St T D p r bound n. induction n as [| n IH]; intros s pol steps.
  - unfold expect. simpl. rewrite exp_0. lra.
  - destruct pol as [[nonneg one] pol], steps as [here below].
    assert (0 <= bound) as bound_nonneg.
    { eapply Rle_trans; [| exact here]. apply sum_nonneg. intros a a_in.
      apply Rmult_le_pos; [auto | apply Rlt_le, exp_pos]. }
    rewrite expect_S. cbn [pow].
    apply Rle_trans with (∑ a ∈ acts s, p (S n) s a * exp (r (S n) s a) * bound ^ n).
    + apply sum_le. intros a a_in. rewrite Rmult_assoc. apply Rmult_le_compat_l; [auto |].
      cbn [total].
      apply Rle_trans with (exp (r (S n) s a) *
        expect p n (next s a) (fun rest => exp (total r n (next s a) rest))).
      * right. rewrite <- expect_scale. apply sum_ext. intros rest _. now rewrite exp_plus.
      * apply Rmult_le_compat_l; [apply Rlt_le, exp_pos | auto].
    + rewrite sum_scale_r. apply Rmult_le_compat_r; [now apply pow_le | exact here].
Qed.

(** [E_{π̂} e^{−c D(τ)}] is at most its two-point value at every step. *)
Lemma moment_ball : forall {St T : Type} {D : Dynamics St T} (expert p : table St T) c eps n s,
  0 <= c -> policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  expect p n s (fun tau => exp (- c * log_ratio expert p n s tau)) <= step_moment c eps ^ n.
Proof.
  intros St T D expert p c eps [| n] s c_nonneg expert_pol pol ball.
  - unfold expect, log_ratio. simpl. rewrite ln_1, Rminus_eq_0, Rmult_0_r, exp_0. lra.
  - pose proof (ball_radius _ _ _ _ _ ball) as eps_nonneg.
    eapply Rle_trans; [| apply (expect_exp_steps p
      (fun m t a => - c * (ln (expert m t a) - ln (p m t a)))); [exact pol |]].
    + right. apply expect_ext; [exact pol |]. intros tau tau_in _.
      now rewrite log_ratio_total, total_scale
        by eauto using ball_positive_l, ball_positive_r.
    + pose proof (states_of_ball _ _ _ _ _ expert_pol pol ball) as states.
      revert states. apply everywhere_imp. intros m t (law & p_law & within).
      now apply step_moment_ball.
Qed.

Section Rows.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha beta eps : R) (r p : table St T) (v : nat -> St -> R) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis beta_pos : 0 < beta.
Hypothesis pol : policy p n s.
Hypothesis pos : positive p n s.
Hypothesis gauge_v : gauge v.

Let expert := soft_policy alpha r.
Let r_hat := endogenous alpha p v.

(** [≤ H((α+β) ε tanh(ε/2) + β log[cosh((α/β+½)ε)/cosh(ε/2)])]. *)
Theorem rl_anchored_sharp_any_beta : log_ratio_ball eps expert p n s ->
  value expert r n s - value (kl_optimal beta r_hat p) r n s <=
  INR n * ((alpha + beta) * eps * tanh (eps / 2)
           + beta * ln (cosh ((alpha / beta + / 2) * eps) / cosh (eps / 2))).
Proof.
  intros ball.
  assert (0 <= alpha / beta) as c_nonneg
    by (apply Rmult_le_pos; [lra | now apply Rlt_le, Rinv_0_lt_compat]).
  eapply Rle_trans; [now apply anchored_donsker_varadhan |].
  fold expert.
  pose proof (kl_ball eps p expert n s pol (soft_policy_policy _ _ _ _)
                (ball_sym _ _ _ _ _ ball)) as divergence.
  pose proof (moment_ball expert p (alpha / beta) eps n s c_nonneg (soft_policy_policy _ _ _ _)
                pol ball) as moment.
  unfold expect in moment. apply ln_mono in moment.
  2: { apply sum_pos; [apply responses_nonempty |]. intros tau tau_in.
       apply Rmult_lt_0_compat; [now apply prob_pos | apply exp_pos]. }
  rewrite ln_pow in moment
    by (apply Rdiv_lt_0_compat; apply cosh_positive).
  unfold step_moment in moment.
  apply (Rmult_le_compat_l beta) in moment; [| lra].
  apply (Rmult_le_compat_l (alpha + beta)) in divergence; lra.
Qed.
End Rows.

Section RowsAtAlpha.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha eps : R) (r p : table St T) (v : nat -> St -> R) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis pol : policy p n s.
Hypothesis pos : positive p n s.
Hypothesis gauge_v : gauge v.

Let expert := soft_policy alpha r.
Let r_hat := endogenous alpha p v.
Let anchored := kl_optimal alpha r_hat p.

Lemma alpha_over_alpha : alpha / alpha = 1.
Proof. field. lra. Qed.

(** Row anchored-two-ways: the anchored optimum of [r̂] is [π̂²]. *)
Theorem anchored_two_ways : forall tau, In tau (responses n s) ->
  prob anchored n s tau = prob (power_policy 2 p) n s tau.
Proof.
  intros tau tau_in. replace 2 with (1 + alpha / alpha) by (rewrite alpha_over_alpha; ring).
  now apply anchored_two_ways_any_beta.
Qed.

(** Row rl-anchored: [V^{π_E} − V^{π_{β=α}} ≤ αHε + 2α KL(π_E‖π̂)]. *)
Theorem rl_anchored : log_ratio_ball eps expert p n s ->
  value expert r n s - value anchored r n s <=
  alpha * (INR n * eps + 2 * kl expert p n s).
Proof.
  intros ball.
  eapply Rle_trans; [eapply rl_anchored_any_beta; eassumption |]. fold expert. lra.
Qed.

(** Row rl-anchored-renyi: [≤ 2α KL(π_E‖π̂) + α D_2(π̂‖π_E)]. *)
Theorem rl_anchored_renyi :
  value expert r n s - value anchored r n s <=
  alpha * (2 * kl expert p n s + renyi 2 p expert n s).
Proof.
  pose proof (rl_anchored_renyi_any_beta alpha alpha r p v n s alpha_pos alpha_pos pol pos gauge_v)
    as bound.
  rewrite alpha_over_alpha in bound. replace (1 + 1) with 2 in bound by ring.
  eapply Rle_trans; [exact bound |]. fold expert. lra.
Qed.

(** Row rl-anchored-sharp: [≤ αH(2ε tanh(ε/2) + log(2 cosh ε − 1))]. *)
Theorem rl_anchored_sharp : log_ratio_ball eps expert p n s ->
  value expert r n s - value anchored r n s <=
  alpha * INR n * (2 * eps * tanh (eps / 2) + ln (2 * cosh eps - 1)).
Proof.
  intros ball.
  pose proof (rl_anchored_sharp_any_beta alpha alpha eps r p v n s alpha_pos alpha_pos pol pos
                gauge_v ball) as bound.
  rewrite alpha_over_alpha in bound.
  assert (cosh ((1 + / 2) * eps) / cosh (eps / 2) = 2 * cosh eps - 1) as triple.
  { unfold cosh. replace ((1 + / 2) * eps) with (eps + eps / 2) by field.
    replace (- (eps + eps / 2)) with (- eps + - (eps / 2)) by ring.
    rewrite !exp_plus, !exp_Ropp, (exp_double eps). pose proof (exp_pos (eps / 2)).
    field. split; nra. }
  rewrite triple in bound. eapply Rle_trans; [exact bound |]. lra.
Qed.

End RowsAtAlpha.
