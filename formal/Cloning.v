(** Theorem 2, cloning (docs/theory.md, sections 4 and 7): what a policy of the ball can lose in
    plain value, with the reward's width [R] or the return's, [R_τ], in front. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Distances Composition.
Import ListNotations.
Open Scope R_scope.

Section Cloning.
Context {St T : Type} {D : Dynamics St T}.
Implicit Types (p q r expert : table St T) (n : nat) (s : St) (alpha eps lo width : R).

(** ** Composition along the tree *)

(** The hockey-stick divergence of the responses is at most that of [H] randomised responses. *)
Lemma response_hockey_stick : forall eps expert p n s g, 0 <= eps ->
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s -> 0 <= g ->
  (∑ tau ∈ responses n s, Rmax 0 (prob expert n s tau - g * prob p n s tau))
  <= hockey_stick eps n g.
Proof.
  intros eps expert p n s g eps_nonneg expert_pol pol ball g_nonneg.
  pose proof (states_of_ball _ _ _ _ _ expert_pol pol ball) as states.
  clear expert_pol pol ball. revert s g g_nonneg states.
  induction n as [| n IH]; intros s g g_nonneg states.
  - cbn [responses hockey_stick sum fold_right prob]. rewrite Rmult_1_r. lra.
  - destruct states as [(expert_law & law & within) below]. rewrite sum_responses_S.
    eapply Rle_trans; [| apply (composition_step eps eps_nonneg (acts s) (expert (S n) s)
      (p (S n) s) n g expert_law law within)].
    apply sum_le. intros a a_in. destruct (within a a_in) as (expert_pos & pos & _).
    cbn [prob].
    eapply Rle_trans; [| apply Rmult_le_compat_l; [now apply Rlt_le |]; apply IH].
    + right. rewrite <- sum_scale. apply sum_ext. intros rest _.
      rewrite <- RmaxRmult by now apply Rlt_le. rewrite Rmult_0_r. f_equal. field. lra.
    + apply Rmult_le_pos; [assumption |]. now apply Rlt_le, Rdiv_lt_0_compat.
    + auto.
Qed.

(** Row tv-composition: [TV(π_E(τ), π̂(τ)) ≤ TV_RR(H, ε)]. *)
Theorem tv_composition : forall eps expert p n s, 0 <= eps ->
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  tv expert p n s <= tv_rr n eps.
Proof.
  intros eps expert p n s eps_nonneg expert_pol pol ball. unfold tv.
  rewrite total_variation_as_hockey_stick by now apply prob_distribution.
  eapply Rle_trans; [| apply (response_hockey_stick eps expert p n s 1); (assumption || lra)].
  right. apply sum_ext. intros tau _. f_equal. ring.
Qed.

(** Rewards of which [E_{π_E} − g E_{π̂}] is in every state at most [R] times the divergence of [k]
    randomised responses: they read [k] tokens from that state on. *)
Lemma value_hockey_stick : forall eps width k expert p r n s g, 0 <= eps -> 0 <= width ->
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  everywhere (fun m t => forall g', 0 <= g' ->
    (∑ a ∈ acts t, (expert m t a - g' * p m t a) * r m t a)
    <= width * hockey_stick eps k g') n s ->
  0 <= g ->
  value expert r n s - g * value p r n s <= width * ∑ h ∈ seq k n, hockey_stick eps h g.
Proof.
  intros eps width k expert p r n s g eps_nonneg width_nonneg expert_pol pol ball rewards.
  pose proof (states_of_ball _ _ _ _ _ expert_pol pol ball) as states. clear ball.
  revert s g expert_pol pol states rewards.
  induction n as [| n IH]; intros s g expert_pol pol states rewards g_nonneg.
  - rewrite !value_0. simpl. lra.
  - rewrite !value_S by assumption.
    destruct expert_pol as [_ expert_pol], pol as [_ pol], rewards as [here rewards].
    destruct states as [(expert_law & law & within) states].
    cbn [seq]. rewrite sum_cons, <- seq_shift, sum_map, Rmult_plus_distr_l.
    replace ((∑ a ∈ acts s, expert (S n) s a * (r (S n) s a + value expert r n (next s a)))
             - g * ∑ a ∈ acts s, p (S n) s a * (r (S n) s a + value p r n (next s a)))
      with ((∑ a ∈ acts s, (expert (S n) s a - g * p (S n) s a) * r (S n) s a) +
            ∑ a ∈ acts s, (expert (S n) s a * value expert r n (next s a)
                           - g * p (S n) s a * value p r n (next s a))).
    2: { rewrite <- sum_scale, <- sum_plus, <- sum_minus. apply sum_ext. intros a _. ring. }
    apply Rplus_le_compat; [now apply here |].
    apply Rle_trans with (∑ a ∈ acts s, ∑ h ∈ seq k n,
      expert (S n) s a * (width * hockey_stick eps h (g * (p (S n) s a / expert (S n) s a)))).
    + apply sum_le. intros a a_in. destruct (within a a_in) as (expert_pos & pos & _).
      rewrite sum_scale, sum_scale.
      replace (expert (S n) s a * value expert r n (next s a)
               - g * p (S n) s a * value p r n (next s a))
        with (expert (S n) s a * (value expert r n (next s a)
               - g * (p (S n) s a / expert (S n) s a) * value p r n (next s a))) by (field; lra).
      apply Rmult_le_compat_l; [now apply Rlt_le |]. apply IH; auto.
      apply Rmult_le_pos; [assumption |]. now apply Rlt_le, Rdiv_lt_0_compat.
    + rewrite sum_swap, <- sum_scale. apply sum_le. intros h _.
      eapply Rle_trans; [| apply Rmult_le_compat_l; [assumption |];
        exact (composition_step eps eps_nonneg _ _ _ h g expert_law law within)].
      right. rewrite <- sum_scale. apply sum_ext. intros a _. ring.
Qed.

(** A reward in [[0, R]] reads one token from its state on. *)
Lemma reward_hockey_stick : forall eps width (l : list T) (x y f : T -> R) g, 0 <= eps ->
  distribution l x -> distribution l y -> near eps l x y -> 0 <= width ->
  (forall a, In a l -> 0 <= f a <= width) -> 0 <= g ->
  (∑ a ∈ l, (x a - g * y a) * f a) <= width * hockey_stick eps 1 g.
Proof.
  intros eps width l x y f g eps_nonneg x_law y_law within width_nonneg range g_nonneg.
  apply Rle_trans with (width * ∑ a ∈ l, x a * hockey_stick eps 0 (g * (y a / x a))).
  - rewrite <- sum_scale. apply sum_le. intros a a_in.
    destruct (within a a_in) as (x_pos & _). specialize (range a a_in).
    cbn [hockey_stick]. rewrite <- (RmaxRmult _ _ (x a)) by now apply Rlt_le.
    rewrite Rmult_0_r. replace (x a * (1 - g * (y a / x a))) with (x a - g * y a) by (field; lra).
    apply Rle_trans with (Rmax 0 (x a - g * y a) * f a).
    + apply Rmult_le_compat_r; [lra | apply Rmax_r].
    + rewrite Rmult_comm. apply Rmult_le_compat_r; [apply Rmax_l | lra].
  - apply Rmult_le_compat_l; [assumption |]. now apply composition_step.
Qed.

(** ** Bounds with the width of the rewards *)

(** Row clone-stepwise: [V^{π_E} − V^{π̂} ≤ R Σ_{h=1}^H TV_RR(h, ε)]. *)
Theorem clone_stepwise : forall eps lo width expert p r n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  reward_range lo width r n s ->
  value expert r n s - value p r n s <= width * ∑ h ∈ seq 1 n, tv_rr h eps.
Proof.
  intros eps lo width expert p r [| n] s expert_pol pol ball range.
  - rewrite !value_0. simpl. lra.
  - pose proof (ball_radius _ _ _ _ _ ball) as eps_nonneg.
    pose proof (range_width _ _ _ _ _ range) as width_nonneg.
    set (above := fun m t a => - lo + r m t a).
    assert (forall q, policy q (S n) s ->
      value q above (S n) s = INR (S n) * - lo + value q r (S n) s) as shift.
    { intros q q_pol. now apply value_shift. }
    replace (value expert r (S n) s - value p r (S n) s)
      with (value expert above (S n) s - 1 * value p above (S n) s)
      by (rewrite !shift by assumption; lra).
    apply value_hockey_stick; auto; [| lra].
    pose proof (everywhere_and _ _ _ _ (states_of_ball _ _ _ _ _ expert_pol pol ball) range)
      as states. revert states. apply everywhere_imp.
    intros m t ((expert_law & law & within) & in_range) g g_nonneg.
    apply reward_hockey_stick; auto. intros a a_in. specialize (in_range a a_in).
    unfold above. lra.
Qed.

Lemma tv_rr_steps_sum : forall eps n, tv_rr_steps eps n = ∑ h ∈ seq 1 n, tv_rr h eps.
Proof.
  intros eps n. induction n as [| n IH]; [reflexivity |].
  cbn [tv_rr_steps]. rewrite seq_S, sum_app, IH. simpl. lra.
Qed.

(** The rows that follow by a bound on [Σ_h TV_RR(h, ε)]. *)
Lemma clone_by_steps : forall eps lo width bound expert p r n s,
  policy expert (S n) s -> policy p (S n) s -> log_ratio_ball eps expert p (S n) s ->
  reward_range lo width r (S n) s -> (0 <= eps -> tv_rr_steps eps (S n) <= bound) ->
  value expert r (S n) s - value p r (S n) s <= width * bound.
Proof.
  intros eps lo width bound expert p r n s expert_pol pol ball range below.
  eapply Rle_trans; [eapply clone_stepwise; eassumption |].
  rewrite <- tv_rr_steps_sum. apply Rmult_le_compat_l.
  - eapply range_width. exact range.
  - apply below. eapply ball_radius. exact ball.
Qed.

(** Row clone-composition: [≤ R H TV_RR(H, ε)]. *)
Theorem clone_composition : forall eps lo width expert p r n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  reward_range lo width r n s ->
  value expert r n s - value p r n s <= width * INR n * tv_rr n eps.
Proof.
  intros eps lo width expert p r [| n] s expert_pol pol ball range.
  - rewrite !value_0. simpl. lra.
  - rewrite Rmult_assoc. eapply clone_by_steps; eauto using tv_rr_steps_le_composition.
Qed.

(** Row clone-elementary: [≤ R tanh(ε/2) H(H+1)/2]. *)
Theorem clone_elementary : forall eps lo width expert p r n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  reward_range lo width r n s ->
  value expert r n s - value p r n s <= width * (tanh (eps / 2) * (INR n * (INR n + 1) / 2)).
Proof.
  intros eps lo width expert p r [| n] s expert_pol pol ball range.
  - rewrite !value_0. simpl. lra.
  - eapply clone_by_steps; eauto using tv_rr_steps_le_elementary.
Qed.

(** Row clone-three-halves: [≤ ½ R H^{3/2} ε]. *)
Theorem clone_three_halves : forall eps lo width expert p r n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  reward_range lo width r n s ->
  value expert r n s - value p r n s <= width * (INR n * sqrt (INR n) * eps / 2).
Proof.
  intros eps lo width expert p r [| n] s expert_pol pol ball range.
  - rewrite !value_0. simpl. lra.
  - eapply clone_by_steps; eauto using tv_rr_steps_le_three_halves.
Qed.

(** Row theorem-2-clone, the paper's: [≤ R H² ε]. *)
Theorem theorem_2_clone : forall eps lo width expert p r n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  reward_range lo width r n s ->
  value expert r n s - value p r n s <= width * (INR n ^ 2 * eps).
Proof.
  intros eps lo width expert p r [| n] s expert_pol pol ball range.
  - rewrite !value_0. simpl. lra.
  - eapply clone_by_steps; eauto using tv_rr_steps_le_paper.
Qed.

(** ** Bounds with the range of the return *)

Lemma return_range_nonneg : forall r n s, 0 <= return_range r n s.
Proof.
  intros r n s. unfold return_range.
  destruct (responses n s) as [| tau rest] eqn:all; [now apply responses_nonempty in all |].
  pose proof (greatest_ge (tau :: rest) (total r n s) tau (or_introl eq_refl)).
  pose proof (least_le (tau :: rest) (total r n s) tau (or_introl eq_refl)). lra.
Qed.

(** Row clone-tv: [≤ R_τ TV(π_E(τ), π̂(τ))]. *)
Theorem clone_tv : forall expert p r n s, policy expert n s -> policy p n s ->
  value expert r n s - value p r n s <= return_range r n s * tv expert p n s.
Proof.
  intros expert p r n s expert_pol pol. unfold value, expect, return_range, tv.
  apply mean_sub_le with (lo := least (responses n s) (total r n s));
    auto using prob_distribution.
  intros tau tau_in. split; [now apply least_le |].
  pose proof (greatest_ge _ (total r n s) _ tau_in). lra.
Qed.

(** Row clone-hellinger: [≤ R_τ √(1 − BC²)]. *)
Theorem clone_hellinger : forall expert p r n s, policy expert n s -> policy p n s ->
  value expert r n s - value p r n s <=
  return_range r n s *
  sqrt (1 - bhattacharyya expert p n s * bhattacharyya expert p n s).
Proof.
  intros expert p r n s expert_pol pol.
  eapply Rle_trans; [now apply clone_tv |].
  apply Rmult_le_compat_l; [apply return_range_nonneg | now apply tv_hellinger].
Qed.

(** Row clone-pinsker: [≤ R_τ √(KL(π̂‖π_E)/2)], and never above [R_τ]. *)
Theorem clone_pinsker : forall expert p r n s,
  policy expert n s -> positive expert n s -> policy p n s ->
  value expert r n s - value p r n s <=
  return_range r n s * Rmin (sqrt (kl p expert n s / 2)) 1.
Proof.
  intros expert p r n s expert_pol expert_pos pol.
  eapply Rle_trans; [now apply clone_tv |].
  apply Rmult_le_compat_l; [apply return_range_nonneg |].
  apply Rmin_glb; [now apply tv_pinsker | now apply tv_le_1].
Qed.

(** ** What a soft-optimal expert can lose it has spent on entropy *)

(** Entropy of the next token of [p], nats. *)
Definition token_entropy p : table St T :=
  fun n s _ => - ∑ b ∈ acts s, p n s b * ln (p n s b).

Lemma token_entropy_bounds : forall (vocab : nat) (l : list T) (x : T -> R),
  l <> [] -> (length l <= vocab)%nat -> distribution l x -> (forall a, In a l -> 0 < x a) ->
  0 <= - (∑ b ∈ l, x b * ln (x b)) <= ln (INR vocab).
Proof.
  intros vocab l x nonempty small law pos. split.
  - enough (0 <= ∑ b ∈ l, - (x b * ln (x b))) as nonneg.
    { rewrite (sum_ext _ _ (fun b => -1 * (x b * ln (x b)))), sum_scale in nonneg
        by (intros; ring). lra. }
    apply sum_nonneg. intros b b_in. destruct law as [x_nonneg one].
    pose proof (term_le_sum l x b x_nonneg b_in) as at_most. rewrite one in at_most.
    pose proof (ln_mono (x b) 1 (pos b b_in) at_most) as log. rewrite ln_1 in log.
    specialize (pos b b_in). nra.
  - pose proof (mean_le_soft_maximum l x (fun _ => 0) 1 Rlt_0_1 nonempty law) as most.
    unfold soft_maximum in most. unfold Rdiv in most. rewrite Rmult_0_l, exp_0, sum_const in most.
    rewrite (sum_ext _ _ (fun b => -1 * (x b * ln (x b)))), sum_scale in most by (intros; ring).
    assert (ln (INR (length l)) <= ln (INR vocab)) as grows.
    { apply ln_mono; [| now apply le_INR]. apply lt_0_INR. destruct l; simpl; [easy | lia]. }
    rewrite Rmult_1_r in most. lra.
Qed.

(** A reward that depends on the token is worth its mean over the tokens. *)
Lemma value_mean : forall p r n s, policy p n s ->
  value p (fun m t _ => ∑ b ∈ acts t, p m t b * r m t b) n s = value p r n s.
Proof.
  intros p r n. induction n as [| n IH]; intros s pol; [now rewrite !value_0 |].
  rewrite !value_S by exact pol. destruct pol as [[_ one] below].
  rewrite (sum_ext _ (fun a => p (S n) s a * (_ + _)) (fun a =>
    p (S n) s a * (∑ b ∈ acts s, p (S n) s b * r (S n) s b) + p (S n) s a * value p r n (next s a)))
    by (intros a a_in; rewrite IH by auto; ring).
  rewrite sum_plus, sum_scale_r, one, Rmult_1_l, <- sum_plus.
  apply sum_ext. intros a _. ring.
Qed.

Lemma value_le : forall p r r' n s, policy p n s ->
  everywhere (fun m t => forall a, In a (acts t) -> r m t a <= r' m t a) n s ->
  value p r n s <= value p r' n s.
Proof.
  intros p r r' n. induction n as [| n IH]; intros s pol below; [rewrite !value_0; lra |].
  rewrite !value_S by exact pol. destruct pol as [[nonneg _] pol], below as [here below].
  apply sum_le. intros a a_in. apply Rmult_le_compat_l; [auto |].
  apply Rplus_le_compat; auto.
Qed.

(** Row clone-entropy: [≤ α log V (Σ_{h<H} TV_RR(h, ε) + H (e^ε − 1))]. *)
Theorem clone_entropy : forall alpha eps (vocab : nat) r p n s, 0 < alpha ->
  policy p n s -> log_ratio_ball eps (soft_policy alpha r) p n s -> vocabulary vocab n s ->
  value (soft_policy alpha r) r n s - value p r n s <=
  alpha * ln (INR vocab) * ((∑ h ∈ seq 0 n, tv_rr h eps) + INR n * (exp eps - 1)).
Proof.
  intros alpha eps vocab r p n s alpha_pos pol ball small.
  destruct n as [| n]; [rewrite !value_0; simpl; lra |].
  pose proof (ball_radius _ _ _ _ _ ball) as eps_nonneg.
  set (expert := soft_policy alpha r) in *.
  assert (policy expert (S n) s) as expert_pol by now apply soft_policy_policy.
  set (entropies := token_entropy expert). set (most := ln (INR vocab)).
  pose proof (everywhere_and _ _ _ _ (states_of_ball _ _ _ _ _ expert_pol pol ball) small)
    as states.
  assert (0 <= most) as most_nonneg.
  { destruct states as [((law & _ & within) & size) _].
    destruct (token_entropy_bounds vocab (acts s) (expert (S n) s) (acts_nonempty s) size law);
      [| unfold most; lra].
    intros a a_in. now apply within. }
  (* in plain values, and then in entropies of tokens *)
  assert (forall q, policy q (S n) s -> value q r (S n) s =
    alpha * value q (fun m t a => ln (expert m t a)) (S n) s
    + soft_values alpha r (S n) s) as telescoped.
  { intros q q_pol. rewrite (value_telescoped alpha alpha_pos r q) by exact q_pol.
    do 2 f_equal. apply expect_ext; [exact q_pol |]. intros tau tau_in _.
    apply ln_prob_positive; [| exact tau_in]. eapply ball_positive_l. exact ball. }
  assert (value expert (fun m t a => ln (expert m t a)) (S n) s
          = - value expert entropies (S n) s) as own.
  { rewrite <- value_mean by exact expert_pol.
    replace (- value expert entropies (S n) s) with (-1 * value expert entropies (S n) s) by ring.
    rewrite <- value_scale. unfold value. apply expect_ext; [exact expert_pol |].
    intros tau tau_in _. apply total_ext; [| exact tau_in].
    apply everywhere_all. intros m t a _. unfold entropies, token_entropy. ring. }
  assert (- (exp eps * value p entropies (S n) s)
          <= value p (fun m t a => ln (expert m t a)) (S n) s) as cross.
  { rewrite <- (value_mean p (fun m t a => ln (expert m t a))) by exact pol.
    replace (- (exp eps * value p entropies (S n) s))
      with (- exp eps * value p entropies (S n) s) by ring.
    rewrite <- value_scale. apply value_le; [exact pol |].
    revert states. apply everywhere_imp.
    intros m t ((law & p_law & within) & _) a _. unfold entropies, token_entropy.
    replace (- exp eps * - (∑ b ∈ acts t, expert m t b * ln (expert m t b)))
      with (exp eps * ∑ b ∈ acts t, expert m t b * ln (expert m t b)) by ring.
    rewrite <- sum_scale. apply sum_le. intros b b_in. rewrite <- Rmult_assoc.
    destruct (within b b_in) as (expert_pos & p_pos & _).
    assert (ln (expert m t b) <= 0) as log.
    { rewrite <- ln_1. apply ln_mono; [exact expert_pos |]. destruct law as [nonneg one].
      rewrite <- one. now apply term_le_sum. }
    assert (p m t b <= exp eps * expert m t b) as capped.
    { pose proof (near_ratio eps (acts t) (expert m t) (p m t) b within b_in) as [_ cap].
      apply Rmult_le_reg_r with (/ expert m t b); [now apply Rinv_0_lt_compat |].
      rewrite Rmult_assoc, Rinv_r by lra. unfold Rdiv in cap. lra. }
    nra. }
  (* states are reached alike, up to composition *)
  assert (- value expert entropies (S n) s + value p entropies (S n) s
          <= most * ∑ h ∈ seq 0 (S n), tv_rr h eps) as reached.
  { pose proof (value_hockey_stick eps most 0 p expert entropies (S n) s 1
                  eps_nonneg most_nonneg pol expert_pol (ball_sym _ _ _ _ _ ball)) as composed.
    unfold tv_rr. enough (everywhere (fun m t => forall g', 0 <= g' ->
      (∑ a ∈ acts t, (p m t a - g' * expert m t a) * entropies m t a)
      <= most * hockey_stick eps 0 g') (S n) s) as bounded by (specialize (composed bounded); lra).
    revert states. apply everywhere_imp.
    intros m t ((law & p_law & within) & size) g' g'_nonneg.
    unfold entropies, token_entropy. rewrite sum_scale_r, sum_minus, sum_scale.
    pose proof (token_entropy_bounds vocab (acts t) (expert m t) (acts_nonempty t) size law
                  (fun a a_in => proj1 (within a a_in))) as [nonneg at_most].
    destruct law as [_ ->], p_law as [_ ->]. cbn [hockey_stick]. fold most in at_most.
    rewrite Rmult_1_r. pose proof (Rmax_l 0 (1 - g')). pose proof (Rmax_r 0 (1 - g')). nra. }
  assert (value p entropies (S n) s <= INR (S n) * most) as total_entropy.
  { apply value_le_steps; [exact pol |]. revert states. apply everywhere_imp.
    intros m t ((law & p_law & within) & size). unfold entropies, token_entropy.
    rewrite sum_scale_r. destruct p_law as [_ ->].
    pose proof (token_entropy_bounds vocab (acts t) (expert m t) (acts_nonempty t) size law
                  (fun a a_in => proj1 (within a a_in))) as [_ at_most].
    unfold most. lra. }
  rewrite (telescoped expert expert_pol), (telescoped p pol), own.
  assert (1 <= exp eps) as grows by now apply exp_ge_1.
  assert ((exp eps - 1) * value p entropies (S n) s <= (exp eps - 1) * (INR (S n) * most))
    by (apply Rmult_le_compat_l; lra).
  rewrite Rmult_assoc.
  apply Rle_trans with (alpha * (- value expert entropies (S n) s
    - value p (fun m t a => ln (expert m t a)) (S n) s)); [right; ring |].
  apply Rmult_le_compat_l; lra.
Qed.

End Cloning.
