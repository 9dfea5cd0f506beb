(** The discounted rows on cloning: what [π̂] loses to [π_E], of any two policies. *)

From Coq Require Import Reals Lra Lia List.
From Endorm Require Import Definitions Scalars Distributions Composition Discounted DiscountedRows.
Import ListNotations.
Open Scope R_scope.

Section Cloning.
Context {St T : Type} {D : Dynamics St T} (gamma : R).
Hypothesis gamma_range : 0 <= gamma < 1.

(** Rewards in [[lo, lo + width]], two policies and their values. [π_E] need not be soft-optimal. *)
Variables (r expert policy : St -> T -> R) (lo width : R) (expert_value policy_value : St -> R).
Hypothesis rewards_range : stationary_range lo width r.
Hypothesis expert_is : stationary_policy expert.
Hypothesis policy_is : stationary_policy policy.
Hypothesis expert_positive : forall s a, In a (acts s) -> 0 < expert s a.
Hypothesis policy_positive : forall s a, In a (acts s) -> 0 < policy s a.
Hypothesis expert_value_is : is_discounted_value gamma expert r expert_value.
Hypothesis policy_value_is : is_discounted_value gamma policy r policy_value.

Let H := effective_horizon gamma.

(** Without loss of generality [lo = 0]. *)
Let reward s a := r s a - lo.
Let from_expert s := expert_value s - lo * H.
Let from_policy s := policy_value s - lo * H.

Lemma shifted p v :
  stationary_policy p -> is_discounted_value gamma p r v ->
  is_discounted_value gamma p reward (fun s => v s - lo * H).
Proof.
  intros P [B V]. split; [apply bounded_minus; auto using bounded_const |].
  intros s. rewrite (V s), <- (mean_const (acts s) (p s) (lo * H) (P s)) at 1.
  rewrite <- sum_minus.
  apply sum_ext. intros a _. unfold reward, H, effective_horizon. field. lra.
Qed.

Lemma from_expert_is : is_discounted_value gamma expert reward from_expert.
Proof. now apply shifted. Qed.

Lemma from_policy_is : is_discounted_value gamma policy reward from_policy.
Proof. now apply shifted. Qed.

Lemma value_nonneg p x v :
  stationary_policy p -> is_discounted_value gamma p x v ->
  (forall s, 0 <= ∑ a ∈ acts s, p s a * x s a) -> forall s, 0 <= v s.
Proof.
  intros P [B V] X s. enough (-1 * v s <= 0 / (1 - gamma)) by lra.
  apply (policy_contraction gamma gamma_range p (fun s => -1 * v s) (fun s a => -1 * x s a));
    auto using bounded_scale.
  - intros t. rewrite (V t), <- sum_scale. right. apply sum_ext. intros. ring.
  - intros t. rewrite (sum_ext _ _ (fun a => -1 * (p t a * x t a))) by (intros; ring).
    rewrite sum_scale. specialize (X t). lra.
Qed.

Lemma reward_between s a : In a (acts s) -> 0 <= reward s a <= width.
Proof. intros I. unfold reward. specialize (rewards_range s a I). lra. Qed.

Lemma from_policy_nonneg s : 0 <= from_policy s.
Proof.
  apply (value_nonneg policy reward from_policy policy_is from_policy_is).
  intros t. apply mean_ge_const; [apply policy_is |]. intros a I. now apply reward_between.
Qed.

(** Both values at once: a state's are means of those after it, weighted by the density
    [π̂/π_E]. *)
Lemma values_step s g :
  from_expert s - g * from_policy s
  = ∑ a ∈ acts s, expert s a
      * (reward s a * (1 - g * (policy s a / expert s a))
         + gamma * (from_expert (next s a)
                    - g * (policy s a / expert s a) * from_policy (next s a))).
Proof.
  rewrite (proj2 from_expert_is s).
  rewrite (proj2 from_policy_is s) at 1.
  rewrite <- sum_scale, <- sum_minus. apply sum_ext. intros a I.
  pose proof (expert_positive s a I). unfold from_expert, from_policy. field. lra.
Qed.

Lemma width_nonneg (s : St) : 0 <= width.
Proof.
  destruct (acts s) as [| a rest] eqn:E; [now destruct (acts_nonempty s) |].
  assert (I : In a (acts s)) by (rewrite E; now left). pose proof (reward_between s a I). lra.
Qed.

Lemma step_le s a g :
  In a (acts s) -> reward s a * (1 - g) <= width * Rmax 0 (1 - g).
Proof.
  intros I. pose proof (reward_between s a I).
  apply Rle_trans with (reward s a * Rmax 0 (1 - g)).
  - apply Rmult_le_compat_l; [lra | apply Rmax_r].
  - apply Rmult_le_compat_r; [apply Rmax_l | lra].
Qed.

Section Ball.
Variable eps : R.
Hypothesis eps_nonneg : 0 <= eps.
Hypothesis ball : stationary_ball eps expert policy.

(** [Σ_{h=1}^n γ^{h−1} F_h(g)] and [Σ_{h=0}^{n−1} γ^h F_h(g)], [F] the hockey stick. *)
Fixpoint sticks_from_one (n : nat) (g : R) : R :=
  match n with O => 0 | S m => sticks_from_one m g + gamma ^ m * hockey_stick eps (S m) g end.

Fixpoint sticks_from_zero (n : nat) (g : R) : R :=
  match n with O => 0 | S m => sticks_from_zero m g + gamma ^ m * hockey_stick eps m g end.

Lemma sticks_shift n g :
  sticks_from_zero (S n) g = Rmax 0 (1 - g) + gamma * sticks_from_one n g.
Proof.
  induction n as [| n IH]; [cbn; ring |].
  change (sticks_from_zero (S (S n)) g)
    with (sticks_from_zero (S n) g + gamma ^ S n * hockey_stick eps (S n) g).
  rewrite IH. cbn [sticks_from_one pow]. ring.
Qed.

Lemma sticks_step n s g :
  (∑ a ∈ acts s, expert s a * sticks_from_zero n (g * (policy s a / expert s a)))
  <= sticks_from_one n g.
Proof.
  induction n as [| n IH].
  - rewrite sum_zero; [cbn; lra |]. intros. cbn. ring.
  - cbn [sticks_from_zero sticks_from_one].
    rewrite (sum_ext _ _
      (fun a => expert s a * sticks_from_zero n (g * (policy s a / expert s a))
         + gamma ^ n * (expert s a * hockey_stick eps n (g * (policy s a / expert s a)))))
      by (intros; ring).
    rewrite sum_plus, sum_scale. apply Rplus_le_compat; [exact IH |].
    apply Rmult_le_compat_l; [apply pow_le; lra |].
    apply composition_step; [exact eps_nonneg | apply expert_is | apply policy_is | exact (ball s)].
Qed.

Lemma gap_after n m :
  (forall s, from_expert s <= m) ->
  forall s g, 0 <= g ->
  from_expert s - g * from_policy s <= width * sticks_from_one n g + gamma ^ n * m.
Proof.
  intros M. induction n as [| n IH]; intros s g G.
  - cbn. pose proof (from_policy_nonneg s). specialize (M s).
    assert (0 <= g * from_policy s) by (apply Rmult_le_pos; lra). lra.
  - rewrite values_step.
    apply Rle_trans with (∑ a ∈ acts s, expert s a
      * (gamma ^ S n * m + width * sticks_from_zero (S n) (g * (policy s a / expert s a)))).
    + apply mean_le; [apply expert_is |]. intros a I.
      pose proof (expert_positive s a I) as Ep. pose proof (policy_positive s a I) as Pp.
      assert (Ht : 0 <= policy s a / expert s a) by (left; now apply Rdiv_lt_0_compat).
      specialize (IH (next s a) (g * (policy s a / expert s a)) ltac:(now apply Rmult_le_pos)).
      apply (Rmult_le_compat_l gamma) in IH; [| lra].
      pose proof (step_le s a (g * (policy s a / expert s a)) I).
      rewrite sticks_shift. cbn [pow]. lra.
    + rewrite (mean_affine (acts s) (expert s) _ _ _ (expert_is s)).
      pose proof (sticks_step (S n) s g).
      apply (Rmult_le_compat_l width) in H0; [lra | apply (width_nonneg s)].
Qed.

Theorem discounted_clone_stepwise s :
  expert_value s - policy_value s
  <= width * (tanh (eps / 2) / ((1 - gamma) * sqrt (1 - gamma ^ 2 / (cosh (eps / 2) * cosh (eps / 2))))).
Proof.
  destruct (bounded_above from_expert
              (proj1 from_expert_is)) as [m M].
  apply le_epsilon. intros e He.
  destruct (pow_gamma_small gamma gamma_range e m He) as [n Hn].
  pose proof (gap_after n m M s 1 ltac:(lra)) as G.
  pose proof (tv_rr_discounted_le eps eps_nonneg gamma n gamma_range) as B.
  assert (E : sticks_from_one n 1 = tv_rr_discounted eps gamma n).
  { clear. induction n as [| n IH]; [reflexivity |].
    cbn [sticks_from_one tv_rr_discounted]. now rewrite IH. }
  rewrite E in G. apply (Rmult_le_compat_l width) in B; [| apply (width_nonneg s)].
  unfold from_expert, from_policy in G. lra.
Qed.

(** ** Closed forms at [H = 1/(1−γ)] *)

Lemma stepwise_le_root :
  tanh (eps / 2) / ((1 - gamma) * sqrt (1 - gamma ^ 2 / (cosh (eps / 2) * cosh (eps / 2))))
  <= H * (tanh (eps / 2) / sqrt (1 - gamma ^ 2)).
Proof.
  pose proof (tanh_nonneg (eps / 2) ltac:(lra)) as Th. pose proof (cosh_ge_1 (eps / 2)) as C.
  assert (G : 0 <= gamma ^ 2 < 1) by (cbn; nra).
  assert (I : 0 < / (cosh (eps / 2) * cosh (eps / 2)) <= 1).
  { split; [apply Rinv_0_lt_compat; nra |]. rewrite <- Rinv_1. apply Rinv_le_contravar; nra. }
  assert (L : 1 - gamma ^ 2 <= 1 - gamma ^ 2 / (cosh (eps / 2) * cosh (eps / 2))).
  { unfold Rdiv.
    assert (gamma ^ 2 * / (cosh (eps / 2) * cosh (eps / 2)) <= gamma ^ 2 * 1)
      by (apply Rmult_le_compat_l; lra). unfold Rdiv in *. lra. }
  assert (S1 : 0 < sqrt (1 - gamma ^ 2)) by (apply sqrt_lt_R0; lra).
  pose proof (sqrt_le_1_alt _ _ L) as S2.
  unfold H, effective_horizon. unfold Rdiv at 1 4. rewrite Rinv_mult.
  rewrite <- Rmult_assoc, (Rmult_comm (tanh _)), Rmult_assoc.
  apply Rmult_le_compat_l; [left; apply Rinv_0_lt_compat; lra |].
  apply Rmult_le_compat_l; [exact Th |]. apply Rinv_le_contravar; assumption.
Qed.

Lemma horizon_ge_1 : 1 <= H.
Proof. unfold H, effective_horizon. rewrite <- Rinv_1. apply Rinv_le_contravar; lra. Qed.

Theorem discounted_clone_elementary s :
  expert_value s - policy_value s <= width * (tanh (eps / 2) * (H * (H + 1) / 2)).
Proof.
  eapply Rle_trans; [apply discounted_clone_stepwise |].
  apply Rmult_le_compat_l; [apply (width_nonneg s) |].
  eapply Rle_trans; [apply stepwise_le_root |].
  pose proof (tanh_nonneg (eps / 2) ltac:(lra)) as Th. pose proof horizon_ge_1 as Hp.
  enough (/ sqrt (1 - gamma ^ 2) <= (H + 1) / 2).
  { unfold Rdiv in *. replace (H * (tanh (eps * / 2) * / sqrt (1 - gamma ^ 2)))
      with (tanh (eps * / 2) * H * / sqrt (1 - gamma ^ 2)) by ring.
    replace (tanh (eps * / 2) * (H * (H + 1) * / 2))
      with (tanh (eps * / 2) * H * ((H + 1) * / 2)) by ring.
    apply Rmult_le_compat_l; [apply Rmult_le_pos; lra | assumption]. }
  assert (G : 0 < 1 - gamma ^ 2) by (cbn; nra).
  assert (E : (H + 1) / 2 = (2 - gamma) / (2 * (1 - gamma)))
    by (unfold H, effective_horizon; field; lra).
  rewrite E. pose proof (sqrt_lt_R0 _ G) as Sp. pose proof (sqrt_sqrt (1 - gamma ^ 2) ltac:(lra)) as Ss.
  apply Rmult_le_reg_r with (sqrt (1 - gamma ^ 2) * (2 * (1 - gamma))); [apply Rmult_lt_0_compat; lra |].
  replace (/ sqrt (1 - gamma ^ 2) * (sqrt (1 - gamma ^ 2) * (2 * (1 - gamma))))
    with (2 * (1 - gamma)) by (field; lra).
  replace ((2 - gamma) / (2 * (1 - gamma)) * (sqrt (1 - gamma ^ 2) * (2 * (1 - gamma))))
    with ((2 - gamma) * sqrt (1 - gamma ^ 2)) by (field; lra).
  apply Rsqr_incr_0_var; [| apply Rmult_le_pos; lra]. unfold Rsqr.
  replace ((2 - gamma) * sqrt (1 - gamma ^ 2) * ((2 - gamma) * sqrt (1 - gamma ^ 2)))
    with ((2 - gamma) * (2 - gamma) * (sqrt (1 - gamma ^ 2) * sqrt (1 - gamma ^ 2))) by ring.
  rewrite Ss. cbn.
  assert (0 <= gamma * (1 - gamma)) by (apply Rmult_le_pos; lra).
  assert (0 <= gamma * (1 - gamma) * (1 - gamma)) by (apply Rmult_le_pos; lra).
  assert (0 <= gamma * (1 - gamma) * (1 - gamma) * (3 - gamma)) by (apply Rmult_le_pos; lra).
  nra.
Qed.

Theorem discounted_clone_three_halves s :
  expert_value s - policy_value s <= width * (H * sqrt H * eps / 2).
Proof.
  eapply Rle_trans; [apply discounted_clone_stepwise |].
  apply Rmult_le_compat_l; [apply (width_nonneg s) |].
  eapply Rle_trans; [apply stepwise_le_root |].
  pose proof (tanh_le (eps / 2) ltac:(lra)) as Tl. pose proof (tanh_nonneg (eps / 2) ltac:(lra)) as Th.
  pose proof horizon_ge_1 as Hp.
  replace (H * sqrt H * eps / 2) with (H * (eps / 2 * sqrt H)) by field.
  apply Rmult_le_compat_l; [lra |]. unfold Rdiv at 1.
  assert (G : 1 - gamma <= 1 - gamma ^ 2) by (cbn; nra).
  apply Rmult_le_compat; [exact Th | left; apply Rinv_0_lt_compat, sqrt_lt_R0; lra | exact Tl |].
  unfold H, effective_horizon. rewrite sqrt_inv.
  apply Rinv_le_contravar; [apply sqrt_lt_R0; lra | now apply sqrt_le_1_alt].
Qed.

Theorem discounted_theorem_2_clone s :
  expert_value s - policy_value s <= width * (H ^ 2 * eps).
Proof.
  eapply Rle_trans; [apply discounted_clone_three_halves |].
  apply Rmult_le_compat_l; [apply (width_nonneg s) |].
  pose proof horizon_ge_1 as Hp.
  assert (sqrt H <= H).
  { apply Rsqr_incr_0_var; [| lra]. rewrite Rsqr_sqrt by lra. unfold Rsqr. nra. }
  assert (H * sqrt H <= H * H) by (apply Rmult_le_compat_l; lra).
  assert (H * sqrt H * eps <= H * H * eps) by (apply Rmult_le_compat_r; lra).
  assert (0 <= H * H * eps) by (apply Rmult_le_pos; nra).
  cbn [pow]. lra.
Qed.

End Ball.

(** ** Without a ball: Pinsker *)

Section Pinsker.
Variable kl_to_expert : St -> R.
Hypothesis kl_is : is_discounted_kl gamma policy expert kl_to_expert.

Lemma kl_step_nonneg s : 0 <= ∑ a ∈ acts s, policy s a * (ln (policy s a) - ln (expert s a)).
Proof. apply gibbs; auto. Qed.

Lemma kl_nonneg s : 0 <= kl_to_expert s.
Proof. apply (value_nonneg policy _ _ policy_is kl_is). apply kl_step_nonneg. Qed.

(** An upper bound of [max(0, 1 − t)] that sums to a divergence, for any [c]. *)
Let psi c t := (1 - t) / 2 + (2 * t + 4) / (12 * c) + c * phi t / 4.

Lemma psi_ge c t : 0 < c -> 0 <= t -> Rmax 0 (1 - t) <= psi c t.
Proof.
  intros Hc Ht. pose proof (pinsker_density c t Hc Ht) as P.
  replace ((2 * t + 4) / (3 * c)) with (4 * ((2 * t + 4) / (12 * c))) in P by (field; lra).
  unfold psi. pose proof (Rle_abs (1 - t)). pose proof (Rle_abs (- (1 - t))) as N.
  rewrite Rabs_Ropp in N. apply Rmax_lub; lra.
Qed.

Lemma psi_step c s g :
  0 < c -> 0 < g ->
  (∑ a ∈ acts s, expert s a * psi c (g * (policy s a / expert s a)))
  = psi c g + c / 4 * g * ∑ a ∈ acts s, policy s a * (ln (policy s a) - ln (expert s a)).
Proof.
  intros Hc Hg.
  rewrite (sum_ext _ _ (fun a =>
    expert s a * (/ 2 + 1 / (3 * c) + c / 4)
    + (policy s a * (- g / 2 + g / (6 * c) - c / 4 * g + c / 4 * g * ln g)
       + c / 4 * g * (policy s a * (ln (policy s a) - ln (expert s a)))))).
  - rewrite !sum_plus, !sum_scale_r, sum_scale.
    destruct (expert_is s) as [_ ->]. destruct (policy_is s) as [_ ->].
    unfold psi, phi. field. lra.
  - intros a I. pose proof (expert_positive s a I) as Ep. pose proof (policy_positive s a I) as Pp.
    unfold psi, phi. rewrite ln_mult, ln_div by (auto; now apply Rdiv_lt_0_compat).
    field. lra.
Qed.

Lemma gap_below_psi c :
  0 < c -> forall s g, 0 < g ->
  from_expert s - g * from_policy s <= width * H * (psi c g + c / 4 * g * kl_to_expert s).
Proof.
  intros Hc s g Hg.
  assert (Bound_nonneg : forall s g, 0 < g ->
            0 <= width * H * (psi c g + c / 4 * g * kl_to_expert s)).
  { intros t h Hh. pose proof horizon_ge_1. pose proof (width_nonneg t). pose proof (kl_nonneg t).
    pose proof (psi_ge c h Hc ltac:(lra)). pose proof (Rmax_l 0 (1 - h)).
    apply Rmult_le_pos; [apply Rmult_le_pos; lra |]. apply Rplus_le_le_0_compat; [lra |].
    apply Rmult_le_pos; [apply Rmult_le_pos; lra | assumption]. }
  enough (from_expert s - g * from_policy s
          - width * H * (psi c g + c / 4 * g * kl_to_expert s) <= 0 / (1 - gamma)) by lra.
  apply (contraction gamma gamma_range (fun i : St * R => 0 < snd i)
           (fun i => from_expert (fst i) - snd i * from_policy (fst i)
              - width * H * (psi c (snd i) + c / 4 * snd i * kl_to_expert (fst i))) 0)
    with (i := (s, g)); [| | exact Hg].
  - destruct (bounded_above from_expert
                (proj1 from_expert_is)) as [m M].
    exists m. intros [t h] Hh. cbn in *. specialize (M t). specialize (Bound_nonneg t h Hh).
    pose proof (from_policy_nonneg t). assert (0 <= h * from_policy t) by (apply Rmult_le_pos; lra).
    lra.
  - intros m M [t h] Hh. cbn [fst snd] in *.
    enough (from_expert t - h * from_policy t
            <= width * H * (psi c h + c / 4 * h * kl_to_expert t) + gamma * m) by lra.
    rewrite values_step.
    apply Rle_trans with (∑ a ∈ acts t, expert t a
      * (gamma * m + width * H * (psi c (h * (policy t a / expert t a))
          + gamma * (c / 4 * h * (policy t a / expert t a * kl_to_expert (next t a)))))).
    + apply mean_le; [apply expert_is |]. intros a I.
      pose proof (expert_positive t a I) as Ep. pose proof (policy_positive t a I) as Pp.
      set (d := policy t a / expert t a).
      assert (Hd : 0 < d) by now apply Rdiv_lt_0_compat.
      assert (Hhd : 0 < h * d) by now apply Rmult_lt_0_compat.
      specialize (M (next t a, h * d) Hhd). cbn [fst snd] in M.
      pose proof (step_le t a (h * d) I) as S1.
      pose proof (psi_ge c (h * d) Hc ltac:(lra)) as S2.
      apply (Rmult_le_compat_l width) in S2; [| apply (width_nonneg t)].
      apply (Rmult_le_compat_l gamma) in M; [| lra].
      assert (E : width = width * H * (1 - gamma)) by (unfold H, effective_horizon; field; lra).
      assert (width * psi c (h * d) = width * H * psi c (h * d) - gamma * (width * H * psi c (h * d)))
        by (rewrite E at 1; ring).
      lra.
    + rewrite (mean_affine (acts t) (expert t) _ _ _ (expert_is t)).
      rewrite Rplus_comm. apply Rplus_le_compat_r.
      apply Rmult_le_compat_l;
        [apply Rmult_le_pos; [apply (width_nonneg t) | pose proof horizon_ge_1; lra] |].
      rewrite (sum_ext _ _ (fun a => expert t a * psi c (h * (policy t a / expert t a))
        + gamma * (c / 4 * h) * (policy t a * kl_to_expert (next t a)))).
      * rewrite sum_plus, (psi_step c t h Hc Hh), sum_scale, (proj2 kl_is t).
        rewrite (sum_ext _ (fun a => policy t a * (ln (policy t a) - ln (expert t a)
                    + gamma * kl_to_expert (next t a)))
                  (fun a => policy t a * (ln (policy t a) - ln (expert t a))
                    + gamma * (policy t a * kl_to_expert (next t a)))) by (intros; ring).
        rewrite sum_plus, sum_scale. right. ring.
      * intros a I. pose proof (expert_positive t a I). field. lra.
Qed.

Theorem discounted_clone_pinsker s :
  expert_value s - policy_value s <= width * H * Rmin (sqrt (kl_to_expert s / 2)) 1.
Proof.
  pose proof horizon_ge_1 as Hp. pose proof (width_nonneg s) as W. pose proof (kl_nonneg s) as K.
  assert (Hw : 0 <= width * H) by (apply Rmult_le_pos; lra).
  replace (expert_value s - policy_value s) with (from_expert s - 1 * from_policy s)
    by (unfold from_expert, from_policy; ring).
  unfold Rmin. destruct Rle_dec as [_ | _].
  - replace (width * H * sqrt (kl_to_expert s / 2))
      with (sqrt (width * H * (kl_to_expert s / 2) * (width * H))).
    + apply le_sqrt_of_weighted; [apply Rmult_le_pos; lra | exact Hw |]. intros c Hc.
      pose proof (gap_below_psi c Hc s 1 ltac:(lra)) as G. refine (Rle_trans _ _ _ G _).
      right. unfold psi, phi. rewrite ln_1. field. lra.
    + rewrite <- (sqrt_square (width * H)) at 3 by exact Hw.
      rewrite <- sqrt_mult by (try apply Rmult_le_pos; lra). f_equal. ring.
  - enough (from_expert s <= width / (1 - gamma))
      by (pose proof (from_policy_nonneg s); unfold H, effective_horizon; unfold Rdiv in *; lra).
    apply (policy_contraction gamma gamma_range expert from_expert reward width expert_is).
    + apply (proj1 from_expert_is).
    + intros t. right. apply (proj2 from_expert_is t).
    + intros t. apply mean_le_const; [apply expert_is |]. intros a I. now apply reward_between.
Qed.

End Pinsker.
End Cloning.
