(** What is said of the distributions of a response beside total variation (docs/theory.md,
    sections 4 and 7): the Bhattacharyya coefficient in the ball, cloning by the spread of the
    return, and what a policy covers or best of [N] can move. *)

From Coq Require Import Reals List Permutation Lra Lia.
From Endorm Require Import Cloning.
From Endorm Require Attained.
Import ListNotations.
Open Scope R_scope.

(** ** Cauchy–Schwarz, about a constant *)

Section Centred.
Context {A : Type}.
Implicit Types (l : list A) (p q u v x : A -> R) (c : R).

Lemma cauchy_schwarz : forall l u v,
  (∑ a ∈ l, u a * v a) <= sqrt (∑ a ∈ l, u a * u a) * sqrt (∑ a ∈ l, v a * v a).
Proof.
  intros l u v.
  assert (forall f : A -> R, 0 <= ∑ a ∈ l, f a * f a) as nonneg
    by (intros f; apply sum_nonneg; intros a _; apply Rle_0_sqr).
  rewrite <- sqrt_mult by apply nonneg.
  apply le_sqrt_of_weighted; [apply nonneg | apply nonneg |]. intros k k_pos.
  apply Rle_trans with (∑ a ∈ l, (k / 2 * (u a * u a) + / (2 * k) * (v a * v a))).
  - apply sum_le. intros a _. eapply Rle_trans; [apply Rle_abs |].
    eapply Rle_trans; [apply (mul_le_weighted k); exact k_pos |]. right. field. lra.
  - rewrite sum_plus, !sum_scale. right. field. lra.
Qed.

(** Means under two laws differ by what a constant cannot change. *)
Lemma mean_sub_centred : forall l p q x c, distribution l p -> distribution l q ->
  (∑ a ∈ l, p a * x a) - (∑ a ∈ l, q a * x a) = ∑ a ∈ l, (p a - q a) * (x a - c).
Proof.
  intros l p q x c [_ p_one] [_ q_one].
  rewrite (sum_ext l (fun a => (p a - q a) * (x a - c))
    (fun a => (p a * x a - q a * x a) - c * (p a - q a))) by (intros; ring).
  rewrite sum_minus, sum_minus, sum_scale, sum_minus, p_one, q_one. ring.
Qed.

End Centred.

Section Moments.
Context {St T : Type} {D : Dynamics St T}.
Implicit Types (p q r expert : table St T) (n : nat) (s : St) (eps : R).

(** ** The Bhattacharyya coefficient of a ball *)

(** Of two probabilities: [√(xy) ≥ (x + y)/2 / cosh(ε/2)]. *)
Lemma geometric_mean_large : forall eps x y, 0 < x -> 0 < y -> Rabs (ln x - ln y) <= eps ->
  (x + y) / 2 * / cosh (eps / 2) <= sqrt (x * y).
Proof.
  intros eps x y x_pos y_pos within. apply abs_le_inv in within.
  pose proof (cosh_positive (eps / 2)) as cosh_pos.
  set (u := exp ((ln x - ln y) / 2)).
  assert (u + / u <= 2 * cosh (eps / 2)) as most
    by (apply add_inv_ball; unfold u; split; apply exp_le; lra).
  assert (sqrt (x * y) * (u + / u) = x + y) as whole.
  { replace (sqrt (x * y)) with (exp ((ln x + ln y) / 2)).
    - unfold u. rewrite <- exp_Ropp, Rmult_plus_distr_l, <- !exp_plus.
      replace ((ln x + ln y) / 2 + (ln x - ln y) / 2) with (ln x) by field.
      replace ((ln x + ln y) / 2 + - ((ln x - ln y) / 2)) with (ln y) by field.
      now rewrite !exp_ln.
    - symmetry. apply sqrt_lem_1; [nra | left; apply exp_pos |].
      rewrite <- exp_plus. replace ((ln x + ln y) / 2 + (ln x + ln y) / 2) with (ln x + ln y)
        by field. now rewrite exp_plus, !exp_ln. }
  apply Rmult_le_reg_r with (2 * cosh (eps / 2)); [lra |].
  replace ((x + y) / 2 * / cosh (eps / 2) * (2 * cosh (eps / 2))) with (x + y) by (field; lra).
  rewrite <- whole. apply Rmult_le_compat_l; [apply sqrt_pos | exact most].
Qed.

(** [BC ≥ cosh(ε/2)^{−H}], one step at a time. *)
Lemma bhattacharyya_ball : forall eps expert p n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  / cosh (eps / 2) ^ n <= bhattacharyya expert p n s.
Proof.
  intros eps expert p n s expert_pol pol ball.
  pose proof (states_of_ball _ _ _ _ _ expert_pol pol ball) as states.
  clear expert_pol pol ball. revert s states.
  pose proof (cosh_positive (eps / 2)) as cosh_pos.
  induction n as [| n IH]; intros s states; unfold bhattacharyya.
  - cbn. rewrite Rmult_1_r, sqrt_1. lra.
  - destruct states as [(expert_law & law & within) below]. rewrite sum_responses_S.
    destruct expert_law as [_ expert_one], law as [_ one]. cbn [pow]. rewrite Rinv_mult.
    assert (0 < / cosh (eps / 2) ^ n) as power_pos by now apply Rinv_0_lt_compat, pow_lt.
    apply Rle_trans with (∑ a ∈ acts s,
      (expert (S n) s a + p (S n) s a) / 2 * / cosh (eps / 2) * / cosh (eps / 2) ^ n).
    + rewrite sum_scale_r, sum_scale_r. unfold Rdiv. rewrite sum_scale_r, sum_plus, expert_one, one.
      right. field. split; [apply pow_nonzero |]; lra.
    + apply sum_le. intros a a_in. destruct (within a a_in) as (expert_pos & pos & near_here).
      apply Rle_trans with (sqrt (expert (S n) s a * p (S n) s a)
        * bhattacharyya expert p n (next s a)).
      * apply Rmult_le_compat; [| lra | now apply geometric_mean_large | apply IH; auto].
        apply Rmult_le_pos; [lra | left; now apply Rinv_0_lt_compat].
      * unfold bhattacharyya. rewrite <- sum_scale. right. apply sum_ext. intros rest _.
        cbn [prob]. rewrite <- sqrt_mult_alt by now apply Rmult_le_pos; apply Rlt_le. f_equal. ring.
Qed.

(** Row hellinger-ball: [1 − BC ≤ 1 − cosh(ε/2)^{−H}]. *)
Theorem hellinger_ball : forall eps expert p n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  1 - bhattacharyya expert p n s <= 1 - / cosh (eps / 2) ^ n.
Proof.
  intros eps expert p n s expert_pol pol ball.
  pose proof (bhattacharyya_ball eps expert p n s expert_pol pol ball). lra.
Qed.

(** ** Cloning, by the spread of the return under the two laws *)

(** Row clone-variance: [≤ √(Σ (√π_E − √π̂)²) √(Σ (√π_E + √π̂)² (r* − c)²)], for every [c]; the row
    has the least of these. *)
Theorem clone_variance : forall expert p r c n s, policy expert n s -> policy p n s ->
  value expert r n s - value p r n s <=
  sqrt (∑ tau ∈ responses n s, (sqrt (prob expert n s tau) - sqrt (prob p n s tau)) ^ 2) *
  sqrt (∑ tau ∈ responses n s,
    (sqrt (prob expert n s tau) + sqrt (prob p n s tau)) ^ 2 * (total r n s tau - c) ^ 2).
Proof.
  intros expert p r c n s expert_pol pol. unfold value, expect.
  pose proof (prob_distribution expert n s expert_pol) as expert_law.
  pose proof (prob_distribution p n s pol) as law.
  rewrite (mean_sub_centred _ _ _ _ c expert_law law).
  destruct expert_law as [expert_nonneg _], law as [nonneg _].
  eapply Rle_trans; [| eapply Rle_trans; [apply (cauchy_schwarz (responses n s)
    (fun tau => sqrt (prob expert n s tau) - sqrt (prob p n s tau))
    (fun tau => (sqrt (prob expert n s tau) + sqrt (prob p n s tau)) * (total r n s tau - c))) |]].
  - right. apply sum_ext. intros tau tau_in.
    rewrite <- (sqrt_sqrt (prob expert n s tau)) at 1 by auto.
    rewrite <- (sqrt_sqrt (prob p n s tau)) at 1 by auto. ring.
  - right. f_equal; f_equal; apply sum_ext; intros tau _; ring.
Qed.

(** The Le Cam distance [Σ (p − q)²/(p + q)] of two laws of a response. *)
Definition le_cam p q n s : R :=
  ∑ tau ∈ responses n s, (prob p n s tau - prob q n s tau) ^ 2 / (prob p n s tau + prob q n s tau).

(** Row clone-le-cam: [≤ √(Σ (π_E − π̂)²/(π_E + π̂)) √(Σ (π_E + π̂) (r* − c)²)], for every [c]; the
    row has the least of these. *)
Theorem clone_le_cam : forall expert p r c n s, policy expert n s -> policy p n s ->
  value expert r n s - value p r n s <=
  sqrt (le_cam expert p n s) *
  sqrt (∑ tau ∈ responses n s,
    (prob expert n s tau + prob p n s tau) * (total r n s tau - c) ^ 2).
Proof.
  intros expert p r c n s expert_pol pol. unfold value, expect, le_cam.
  pose proof (prob_distribution expert n s expert_pol) as expert_law.
  pose proof (prob_distribution p n s pol) as law.
  rewrite (mean_sub_centred _ _ _ _ c expert_law law).
  destruct expert_law as [expert_nonneg _], law as [nonneg _].
  set (x := prob expert n s) in *. set (y := prob p n s) in *.
  eapply Rle_trans; [| eapply Rle_trans; [apply (cauchy_schwarz (responses n s)
    (fun tau => (x tau - y tau) / sqrt (x tau + y tau))
    (fun tau => sqrt (x tau + y tau) * (total r n s tau - c))) |]].
  - right. apply sum_ext. intros tau tau_in.
    specialize (expert_nonneg tau tau_in). specialize (nonneg tau tau_in).
    destruct (Rle_lt_or_eq_dec 0 (x tau + y tau) ltac:(lra)) as [pos | zero].
    + field. apply Rgt_not_eq. now apply sqrt_lt_R0.
    + replace (x tau) with 0 by lra. replace (y tau) with 0 by lra. unfold Rdiv. ring.
  - right. f_equal; f_equal; apply sum_ext; intros tau tau_in;
      specialize (expert_nonneg tau tau_in); specialize (nonneg tau tau_in).
    + destruct (Rle_lt_or_eq_dec 0 (x tau + y tau) ltac:(lra)) as [pos | zero].
      * rewrite <- (sqrt_sqrt (x tau + y tau)) at 3 by lra.
        field. apply Rgt_not_eq. now apply sqrt_lt_R0.
      * replace (x tau) with 0 by lra. replace (y tau) with 0 by lra. unfold Rdiv. ring.
    + rewrite <- (sqrt_sqrt (x tau + y tau)) at 3 by lra. ring.
Qed.

(** ** What a policy covers *)

(** [P_p[p ≥ N q]]: the share of the responses of [p] that [q] writes [N] times as rarely. *)
Definition coverage_profile (ratio : R) p q n s : R :=
  expect p n s (fun tau => if Rle_dec (ratio * prob q n s tau) (prob p n s tau) then 1 else 0).

(** [log N − (N−1)/N ≤ log t − 1 + 1/t] for [t ≥ N]: its derivative is [(t − 1)/t²]. *)
Lemma ln_excess_grows : forall x t, 1 <= x -> x <= t ->
  ln x - (x - 1) / x <= ln t - (t - 1) / t.
Proof.
  intros x t x_ge grows.
  pose proof (ln_le_sub_1 (x / t) ltac:(apply Rdiv_lt_0_compat; lra)) as tangent.
  rewrite ln_div in tangent by lra.
  replace ((x - 1) / x) with (1 - / x) by (field; lra).
  replace ((t - 1) / t) with (1 - / t) by (field; lra).
  enough (x / t - 1 + / x - / t <= 0) by lra.
  replace (x / t - 1 + / x - / t) with (- ((x - 1) * (t - x) / (x * t))) by (field; lra).
  enough (0 <= (x - 1) * (t - x) / (x * t)) by lra.
  apply Rmult_le_pos; [nra | left; apply Rinv_0_lt_compat; nra].
Qed.

Lemma ln_excess_pos : forall x, 1 < x -> 0 < ln x - (x - 1) / x.
Proof.
  intros x x_gt.
  assert (0 < / x) by (apply Rinv_0_lt_compat; lra).
  replace ((x - 1) / x) with (1 - / x) by (field; lra).
  destruct (Rle_lt_or_eq_dec (ln (/ x)) (/ x - 1) ltac:(now apply ln_le_sub_1)) as [less | same].
  - rewrite ln_Rinv in less by lra. lra.
  - apply ln_eq_sub_1 in same; [| assumption].
    apply (f_equal Rinv) in same. rewrite Rinv_inv, Rinv_1 in same. lra.
Qed.

(** Row coverage: [P_{π_E}[π_E ≥ N π̂] ≤ KL(π_E‖π̂)/(log N − (N−1)/N)]. *)
Theorem coverage : forall ratio expert p n s, 1 < ratio ->
  policy expert n s -> policy p n s -> positive p n s ->
  coverage_profile ratio expert p n s
  <= kl expert p n s / (ln ratio - (ratio - 1) / ratio).
Proof.
  intros ratio expert p n s ratio_gt expert_pol pol pos.
  pose proof (ln_excess_pos ratio ratio_gt) as excess.
  apply Rmult_le_reg_r with (ln ratio - (ratio - 1) / ratio); [exact excess |].
  unfold Rdiv at 2. rewrite Rmult_assoc, Rinv_l, Rmult_1_r by lra.
  unfold coverage_profile, kl, expect. rewrite <- sum_scale_r.
  destruct (prob_distribution expert n s expert_pol) as [expert_nonneg expert_one].
  destruct (prob_distribution p n s pol) as [_ one].
  apply Rle_trans with (∑ tau ∈ responses n s,
    (prob expert n s tau * log_ratio expert p n s tau - (prob expert n s tau - prob p n s tau))).
  2: { rewrite sum_minus, sum_minus, expert_one, one. lra. }
  apply sum_le. intros tau tau_in. specialize (expert_nonneg tau tau_in).
  pose proof (prob_pos p n s tau pos tau_in) as y_pos. unfold log_ratio.
  set (x := prob expert n s tau) in *. set (y := prob p n s tau) in *.
  destruct (Rle_dec (ratio * y) x) as [rare | common].
  - assert (0 < x) as x_pos by nra.
    assert (ratio <= x / y) as at_least.
    { apply Rmult_le_reg_r with y; [exact y_pos |].
      replace (x / y * y) with x by (field; lra). exact rare. }
    pose proof (ln_excess_grows ratio (x / y) ltac:(lra) at_least) as grows.
    rewrite ln_div in grows by assumption.
    replace ((x / y - 1) / (x / y)) with ((x - y) / x) in grows by (field; lra).
    apply (Rmult_le_compat_l x) in grows; [| lra].
    replace (x * (ln x - ln y - (x - y) / x)) with (x * (ln x - ln y) - (x - y)) in grows
      by (field; lra). lra.
  - replace (x * 0 * (ln ratio - (ratio - 1) / ratio)) with 0 by ring.
    destruct expert_nonneg as [x_pos | zero].
    + pose proof (phi_nonneg (x / y)) as phi_pos. unfold phi in phi_pos.
      specialize (phi_pos ltac:(apply Rlt_le; now apply Rdiv_lt_0_compat)).
      rewrite ln_div in phi_pos by assumption.
      apply (Rmult_le_compat_l y) in phi_pos; [| lra].
      replace (y * (x / y * (ln x - ln y) - x / y + 1)) with (x * (ln x - ln y) - (x - y))
        in phi_pos by (field; lra). lra.
    + rewrite <- zero. lra.
Qed.

(** ** Best of [N] *)

(** [Σ_τ w(τ) log(w(τ)/f(τ))] with [w(τ) = F(τ)^N − F⁻(τ)^N], the probability that [τ] is the best
    of [N] draws of [f]: [F] is the mass of what ranks no higher, [F⁻] without [τ] itself, and the
    list goes from the lowest rank to the highest. *)
Fixpoint best_of_kl {A : Type} (draws : nat) (f : A -> R) (below : R) (ranked : list A) : R :=
  match ranked with
  | [] => 0
  | tau :: higher =>
      let up_to := below + f tau in
      let w := up_to ^ draws - below ^ draws in
      w * (ln w - ln (f tau)) + best_of_kl draws f up_to higher
  end.

(** The integral of [N u^{N−1} log(N u^{N−1})]. *)
Definition best_integral (draws : nat) (u : R) : R :=
  u ^ draws * (ln (INR draws) + (INR draws - 1) * (ln u - / INR draws)).

Lemma best_integral_derivative : forall k u, 0 < u ->
  derivable_pt_lim (best_integral (S k)) u
    (INR (S k) * u ^ k * ln (INR (S k) * u ^ k)).
Proof.
  intros k u u_pos. pose proof (lt_0_INR (S k) ltac:(lia)) as N_pos.
  set (N := INR (S k)) in *.
  assert (N - 1 = INR k) as less by (unfold N; rewrite S_INR; ring).
  rewrite ln_mult, ln_pow by auto using pow_lt.
  apply limit_eq with (N * u ^ k * (ln N + (N - 1) * (ln u - / N)) +
    u ^ S k * ((N - 1) * (/ u))).
  - unfold best_integral. fold N.
    apply (derivable_pt_lim_mult (fun u => u ^ S k)
      (fun u => ln N + (N - 1) * (ln u - / N))); [apply derivable_pt_lim_pow |].
    apply limit_eq with (0 + (N - 1) * (/ u - 0)); [| ring].
    apply (derivable_pt_lim_plus (fun _ => ln N)); [apply derivable_pt_lim_const |].
    apply (derivable_pt_lim_scal (fun u => ln u - / N)).
    apply (derivable_pt_lim_minus ln (fun _ => / N));
      [now apply derivable_pt_lim_ln | apply derivable_pt_lim_const].
  - rewrite <- less. cbn [pow]. field. lra.
Qed.

(** One response is no more than the integral over its parts: Jensen, by a tangent. *)
Lemma best_of_term : forall draws a f, (0 < draws)%nat -> 0 <= a -> 0 <= f ->
  ((a + f) ^ draws - a ^ draws) * (ln ((a + f) ^ draws - a ^ draws) - ln f)
  <= best_integral draws (a + f) - best_integral draws a.
Proof.
  intros [| k] a f draws_pos a_nonneg f_nonneg; [lia |].
  pose proof (lt_0_INR (S k) draws_pos) as N_pos.
  destruct f_nonneg as [f_pos | <-]; [| rewrite Rplus_0_r; lra].
  destruct a_nonneg as [a_pos | <-].
  2: { rewrite Rplus_0_l, pow_ne_zero, Rminus_0_r by lia. unfold best_integral.
       rewrite (pow_ne_zero (S k)), Rmult_0_l, Rminus_0_r, ln_pow by (lia || assumption).
       apply Rmult_le_compat_l; [now apply pow_le, Rlt_le |].
       pose proof (ln_le_sub_1 (/ INR (S k)) ltac:(now apply Rinv_0_lt_compat)) as log.
       rewrite ln_Rinv in log by assumption.
       replace ((INR (S k) - 1) * (ln f - / INR (S k)))
         with (INR (S k) * ln f - ln f - 1 + / INR (S k)) by (field; lra). lra. }
  set (w := (a + f) ^ S k - a ^ S k).
  assert (0 < w) as w_pos.
  { enough (a ^ S k < (a + f) ^ S k) by (unfold w; lra). clear - a_pos f_pos.
    induction k as [| k IH]; [cbn; lra |].
    change (a * a ^ S k < (a + f) * (a + f) ^ S k).
    apply Rmult_gt_0_lt_compat; try lra. apply pow_lt; lra. }
  set (m := w / f). assert (0 < m) as m_pos by now apply Rdiv_lt_0_compat.
  assert (ln w - ln f = ln m) as -> by (unfold m; now rewrite ln_div).
  set (below_tangent := fun u => best_integral (S k) u - ((ln m + 1) * u ^ S k - m * u)).
  enough (below_tangent a <= below_tangent (a + f)) as grows.
  { unfold below_tangent in grows.
    enough (m * f = w) by (unfold w in *; nra).
    unfold m. field. lra. }
  apply (increasing_from below_tangent (fun u =>
    INR (S k) * u ^ k * ln (INR (S k) * u ^ k) - ((ln m + 1) * (INR (S k) * u ^ k) - m * 1)));
    [lra | |].
  - intros u inside. unfold below_tangent.
    apply (derivable_pt_lim_minus (best_integral (S k)) (fun u => (ln m + 1) * u ^ S k - m * u));
      [apply best_integral_derivative; lra |].
    apply (derivable_pt_lim_minus (fun u => (ln m + 1) * u ^ S k) (fun u => m * u)).
    + apply (derivable_pt_lim_scal (fun u => u ^ S k)), derivable_pt_lim_pow.
    + apply (derivable_pt_lim_scal (fun u => u)), derivable_pt_lim_id.
  - intros u inside.
    pose proof (x_ln_x_tangent m (INR (S k) * u ^ k) m_pos
      ltac:(apply Rmult_lt_0_compat; [assumption | apply pow_lt; lra])). nra.
Qed.

Lemma best_of_sum : forall {A : Type} draws (f : A -> R) below ranked, (0 < draws)%nat ->
  0 <= below -> (forall tau, In tau ranked -> 0 <= f tau) ->
  best_of_kl draws f below ranked
  <= best_integral draws (below + sum ranked f) - best_integral draws below.
Proof.
  intros A draws f below ranked draws_pos. revert below.
  induction ranked as [| tau higher IH]; intros below below_nonneg nonneg.
  - cbn. rewrite Rplus_0_r. lra.
  - cbn [best_of_kl]. rewrite sum_cons.
    pose proof (nonneg tau (or_introl eq_refl)) as here.
    pose proof (best_of_term draws below (f tau) draws_pos below_nonneg here).
    specialize (IH (below + f tau) ltac:(lra) (fun x x_in => nonneg x (or_intror x_in))).
    rewrite Rplus_assoc in IH. lra.
Qed.

Lemma sum_permutation : forall {A : Type} (l l' : list A) f,
  Permutation l l' -> sum l f = sum l' f.
Proof. intros A l l' f same. induction same; rewrite ?sum_cons; lra. Qed.

(** Row best-of-n: [KL(best of N‖π̂) ≤ log N − (N−1)/N], whatever the ranking. *)
Theorem best_of_n : forall draws p ranked n s, (0 < draws)%nat -> policy p n s ->
  Permutation ranked (responses n s) ->
  best_of_kl draws (prob p n s) 0 ranked <= ln (INR draws) - (INR draws - 1) / INR draws.
Proof.
  intros draws p ranked n s draws_pos pol every.
  destruct (prob_distribution p n s pol) as [nonneg one].
  pose proof (lt_0_INR draws draws_pos) as N_pos.
  eapply Rle_trans; [apply best_of_sum; [exact draws_pos | apply Rle_refl |] |].
  - intros tau tau_in. apply nonneg. now apply (Permutation_in tau every).
  - rewrite (sum_permutation _ _ _ every), one, Rplus_0_l. unfold best_integral.
    rewrite pow1, ln_1, (pow_ne_zero draws) by lia. right. field. lra.
Qed.

End Moments.

(** ** On the coin of Attained.v *)

(** hellinger-ball is attained at every horizon. *)
Theorem hellinger_ball_attained : forall alpha eps n s, 0 < alpha -> 0 <= eps ->
  1 - bhattacharyya (D := Attained.coin)
        (Attained.coin_expert alpha eps) (Attained.coin_clone eps) n s
  = 1 - / cosh (eps / 2) ^ n.
Proof.
  intros alpha eps n s alpha_pos eps_nonneg. f_equal. revert s.
  destruct (odds_pos eps) as [right_pos wrong_pos].
  pose proof (cosh_positive (eps / 2)) as cosh_pos.
  assert (sqrt (odds_right eps * odds_wrong eps) = / 2 * / cosh (eps / 2)) as one_step.
  { apply sqrt_lem_1; [now apply Rmult_le_pos; apply Rlt_le | |].
    - apply Rmult_le_pos; [lra | left; now apply Rinv_0_lt_compat].
    - pose proof (odds_product eps) as product.
      replace (/ 2 * / cosh (eps / 2) * (/ 2 * / cosh (eps / 2)))
        with (/ 4 * / (cosh (eps / 2) * cosh (eps / 2))) by (field; lra).
      rewrite <- product. field. }
  induction n as [| n IH]; intros s; unfold bhattacharyya.
  - cbn. rewrite Rmult_1_r, sqrt_1. lra.
  - rewrite sum_responses_S. cbn [acts Attained.coin sum fold_right next pow].
    unfold bhattacharyya in IH. rewrite Rinv_mult, <- (IH tt), Rplus_0_r.
    rewrite <- Rmult_1_l, <- (Rinv_r 2) at 1 by lra.
    assert (forall heads : bool,
      (∑ rest ∈ responses (D := Attained.coin) n tt,
         sqrt (prob (D := Attained.coin) (Attained.coin_expert alpha eps) (S n) s (heads :: rest) *
               prob (D := Attained.coin) (Attained.coin_clone eps) (S n) s (heads :: rest)))
      = / 2 * / cosh (eps / 2) * ∑ rest ∈ responses (D := Attained.coin) n tt,
         sqrt (prob (D := Attained.coin) (Attained.coin_expert alpha eps) n tt rest *
               prob (D := Attained.coin) (Attained.coin_clone eps) n tt rest)) as after.
    { intros heads. rewrite <- sum_scale. apply sum_ext. intros rest _.
      cbn [prob next Attained.coin].
      rewrite Attained.coin_expert_answers by assumption. unfold Attained.coin_clone at 1.
      rewrite <- one_step, <- sqrt_mult_alt by now apply Rmult_le_pos; apply Rlt_le.
      f_equal. destruct heads; cbn [negb Attained.answer]; ring. }
    rewrite !after. field. lra.
Qed.

(** clone-variance and clone-le-cam are attained by one choice between two tokens. *)
Section OneChoice.
#[local] Existing Instance Attained.coin.
Variables (alpha eps : R) (s : unit).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis eps_nonneg : 0 <= eps.

Let expert := Attained.coin_expert alpha eps.
Let p := Attained.coin_clone eps.
Let r := Attained.coin_reward alpha eps.

Ltac terms_nonneg :=
  solve [ apply pow2_ge_0 | lra | apply Rmult_le_pos; solve [apply pow2_ge_0 | lra] ].

Lemma one_choice_gap :
  value expert r 1 s - value p r 1 s = (odds_right eps - odds_wrong eps) * (alpha * eps).
Proof.
  unfold value, expect. cbn [responses flat_map map app acts next Attained.coin].
  unfold sum. cbn [fold_right prob total]. unfold expert.
  rewrite !Attained.coin_expert_answers by assumption. cbn. ring.
Qed.

Lemma odds_ordered : odds_wrong eps <= odds_right eps.
Proof.
  pose proof (odds_difference eps). pose proof (tanh_nonneg (eps / 2) ltac:(lra)). lra.
Qed.

Theorem clone_variance_attained :
  value expert r 1 s - value p r 1 s =
  sqrt (∑ tau ∈ responses 1 s, (sqrt (prob expert 1 s tau) - sqrt (prob p 1 s tau)) ^ 2) *
  sqrt (∑ tau ∈ responses 1 s,
    (sqrt (prob expert 1 s tau) + sqrt (prob p 1 s tau)) ^ 2
    * (total r 1 s tau - alpha * eps / 2) ^ 2).
Proof.
  rewrite one_choice_gap. destruct (odds_pos eps) as [right_pos wrong_pos].
  pose proof odds_ordered as ordered. pose proof (Rmult_le_pos alpha eps ltac:(lra) ltac:(lra)).
  cbn [responses flat_map map app acts next Attained.coin].
  unfold sum. cbn [fold_right prob total]. unfold expert.
  rewrite !Attained.coin_expert_answers by assumption.
  unfold p, r, Attained.coin_clone, Attained.coin_reward. cbn [Attained.answer negb].
  rewrite !Rmult_1_r.
  set (x := sqrt (odds_right eps)). set (y := sqrt (odds_wrong eps)).
  assert (y <= x) as roots by now apply sqrt_le_1_alt.
  assert (0 <= x /\ 0 <= y) as [x_nonneg y_nonneg] by (split; apply sqrt_pos).
  assert (odds_right eps - odds_wrong eps = (x - y) * (x + y)) as ->.
  { rewrite <- (sqrt_sqrt (odds_right eps)) at 1 by lra.
    rewrite <- (sqrt_sqrt (odds_wrong eps)) at 1 by lra. fold x y. ring. }
  rewrite <- sqrt_mult_alt
    by (pose proof (pow2_ge_0 (x - y)); pose proof (pow2_ge_0 (y - x)); lra).
  symmetry. apply sqrt_lem_1.
  - apply Rmult_le_pos; repeat apply Rplus_le_le_0_compat; terms_nonneg.
  - repeat apply Rmult_le_pos; lra.
  - field.
Qed.

Theorem clone_le_cam_attained :
  value expert r 1 s - value p r 1 s =
  sqrt (le_cam expert p 1 s) *
  sqrt (∑ tau ∈ responses 1 s,
    (prob expert 1 s tau + prob p 1 s tau) * (total r 1 s tau - alpha * eps / 2) ^ 2).
Proof.
  rewrite one_choice_gap. destruct (odds_pos eps) as [right_pos wrong_pos].
  pose proof odds_ordered as ordered. pose proof (odds_sum eps) as whole.
  pose proof (Rmult_le_pos alpha eps ltac:(lra) ltac:(lra)).
  unfold le_cam. cbn [responses flat_map map app acts next Attained.coin].
  unfold sum. cbn [fold_right prob total]. unfold expert.
  rewrite !Attained.coin_expert_answers by assumption.
  unfold p, r, Attained.coin_clone, Attained.coin_reward. cbn [Attained.answer negb].
  rewrite !Rmult_1_r. set (x := odds_right eps) in *. set (y := odds_wrong eps) in *.
  replace (y + x) with 1 by lra. rewrite whole.
  rewrite <- sqrt_mult_alt
    by (pose proof (pow2_ge_0 (x - y)); pose proof (pow2_ge_0 (y - x)); lra).
  symmetry. apply sqrt_lem_1.
  - apply Rmult_le_pos; repeat apply Rplus_le_le_0_compat; terms_nonneg.
  - repeat apply Rmult_le_pos; lra.
  - field.
Qed.

End OneChoice.
