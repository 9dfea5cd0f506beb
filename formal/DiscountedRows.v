(** The discounted rows of `endorm verify`: a theorem is named [discounted_] and its row. *)

From Coq Require Import Reals Lra Lia List.
From Endorm Require Import Definitions Scalars Distributions Composition Discounted.
Import ListNotations.
Open Scope R_scope.

(** [1/(1−γ)], what stands for [H]. *)
Definition effective_horizon (gamma : R) : R := / (1 - gamma).

Section Rows.
Context {St T : Type} {D : Dynamics St T} (gamma : R).
Hypothesis gamma_range : 0 <= gamma < 1.

(** The true reward [r*], its soft value [V*] at temperature [α], and [π_E]. *)
Variables (alpha : R) (r : St -> T -> R) (soft : St -> R).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis soft_solves : is_discounted_soft_value gamma alpha r soft.

Let expert := discounted_soft_policy gamma alpha r soft.
Let H := effective_horizon gamma.

Lemma expert_policy : stationary_policy expert.
Proof. intros s. apply softmax_distribution, acts_nonempty. Qed.

Lemma expert_positive s a : 0 < expert s a.
Proof. apply softmax_positive, acts_nonempty. Qed.

(** One step of telescoping: [r(s,a) = α log π_E(a|s) + V*(s) − γ V*(s')]. *)
Lemma reward_of_expert s a :
  r s a = alpha * ln (expert s a) + soft s - gamma * soft (next s a).
Proof.
  unfold expert, discounted_soft_policy. rewrite ln_softmax by auto using acts_nonempty.
  rewrite <- (proj2 soft_solves s). ring.
Qed.

Lemma horizon_pos : 1 <= H.
Proof. unfold H, effective_horizon. rewrite <- Rinv_1. apply Rinv_le_contravar; lra. Qed.

Lemma horizon_div c : c / (1 - gamma) = c * H.
Proof. reflexivity. Qed.

(** ** The reward inside a policy *)

Theorem discounted_soft_value w :
  is_discounted_regularised gamma alpha expert r w -> forall s, w s = soft s.
Proof.
  intros W. apply (discounted_value_unique gamma gamma_range expert
                     (fun s a => r s a - alpha * ln (expert s a))); auto using expert_policy.
  split; [apply soft_solves |]. intros s.
  rewrite <- (mean_const (acts s) (expert s) (soft s) (expert_policy s)) at 1.
  apply sum_ext. intros a _. rewrite (reward_of_expert s a). ring.
Qed.

(** Bounded solutions of the same recursion along a response are equal. *)
Lemma sequence_le (f : nat -> R) c :
  bounded f -> (forall n, f n <= c + gamma * f (S n)) -> forall n, f n <= c * H.
Proof.
  intros B F n. rewrite <- horizon_div.
  apply (contraction gamma gamma_range (fun _ => True) f); [| | exact I].
  - destruct (bounded_above f B) as [m Hm]. now exists m.
  - intros m Hm i _. eapply Rle_trans; [apply F |].
    apply Rplus_le_compat_l, Rmult_le_compat_l; [lra | now apply Hm].
Qed.

Lemma sequence_zero (f : nat -> R) :
  bounded f -> (forall n, f n = gamma * f (S n)) -> forall n, f n = 0.
Proof.
  intros B F n. apply Rle_antisym.
  - replace 0 with (0 * H) by ring. apply (sequence_le f 0 B). intros i. rewrite (F i). lra.
  - enough (-1 * f n <= 0 * H) by lra.
    apply (sequence_le (fun n => -1 * f n) 0 (bounded_scale (-1) f B)).
    intros i. rewrite (F i). lra.
Qed.

Theorem discounted_telescoping s tau u l :
  is_discounted_return gamma r s tau u ->
  is_discounted_return gamma (fun s a => ln (expert s a)) s tau l ->
  u O = alpha * l O + soft s.
Proof.
  intros [Bu U] [Bl L].
  enough (u O - (alpha * l O + soft (state_after s tau O)) = 0) by (cbn in *; lra).
  apply (sequence_zero (fun n => u n - (alpha * l n + soft (state_after s tau n)))).
  - apply bounded_minus, bounded_plus; auto using bounded_scale.
    apply (bounded_at soft), soft_solves.
  - intros n. rewrite (U n), (L n), (reward_of_expert (state_after s tau n) (tau n)).
    cbn [state_after]. ring.
Qed.

(** [π̂], and the gauge [V̂] in which its reward is read. *)
Variables (policy : St -> T -> R) (gauge : St -> R).
Hypothesis policy_is : stationary_policy policy.
Hypothesis policy_positive : forall s a, In a (acts s) -> 0 < policy s a.
Hypothesis gauge_bounded : bounded gauge.

Let read := discounted_endogenous gamma alpha policy gauge.

Theorem discounted_endogenous_telescoping s tau u l :
  is_discounted_return gamma read s tau u ->
  is_discounted_return gamma (fun s a => ln (policy s a)) s tau l ->
  u O = alpha * l O + gauge s.
Proof.
  intros [Bu U] [Bl L].
  enough (u O - (alpha * l O + gauge (state_after s tau O)) = 0) by (cbn in *; lra).
  apply (sequence_zero (fun n => u n - (alpha * l n + gauge (state_after s tau n)))).
  - apply bounded_minus, bounded_plus; auto using bounded_scale.
    now apply (bounded_at gauge).
  - intros n. rewrite (U n), (L n). unfold read, discounted_endogenous.
    cbn [state_after]. ring.
Qed.

Theorem discounted_soft_rl_fixed_point w :
  is_discounted_soft_value gamma alpha read w ->
  forall s a, In a (acts s) ->
  ln (discounted_soft_policy gamma alpha read w s a) = ln (policy s a).
Proof.
  intros W.
  assert (E : forall s, w s = gauge s).
  { apply (discounted_soft_value_unique gamma gamma_range alpha read); auto.
    split; [exact gauge_bounded |]. intros s.
    rewrite <- (soft_maximum_ln (acts s) (policy s) (gauge s) alpha) at 1;
      auto using acts_nonempty.
    f_equal. apply FunctionalExtensionality.functional_extensionality. intros a.
    unfold read, discounted_endogenous. ring. }
  intros s a I. apply Rmult_eq_reg_l with alpha; [| lra].
  unfold discounted_soft_policy. rewrite ln_softmax by auto using acts_nonempty.
  rewrite <- (proj2 W s), !E. unfold read, discounted_endogenous. ring.
Qed.

(** ** Within [ε] of each other *)

Section Ball.
Variable eps : R.
Hypothesis ball : stationary_ball eps expert policy.

Lemma eps_nonneg (s : St) : 0 <= eps.
Proof.
  apply (near_eps_nonneg eps (acts s) (expert s) (policy s)); [apply acts_nonempty | exact (ball s)].
Qed.

Lemma log_ratio_le s a :
  In a (acts s) -> Rabs (ln (expert s a) - ln (policy s a)) <= eps.
Proof. intros I. now apply ball. Qed.

(** What the two rewards of a response differ by, from its [n]-th state on. *)
Lemma returns_differ s tau u l :
  response s tau ->
  is_discounted_return gamma r s tau u -> is_discounted_return gamma read s tau l ->
  forall n, Rabs ((u n - l n) - (soft (state_after s tau n) - gauge (state_after s tau n)))
            <= alpha * eps * H.
Proof.
  intros Tau [Bu U] [Bl L] n.
  set (f := fun n => (u n - l n) - (soft (state_after s tau n) - gauge (state_after s tau n))).
  assert (B : bounded f).
  { unfold f. apply bounded_minus; apply bounded_minus; auto.
    - apply (bounded_at soft), soft_solves.
    - now apply (bounded_at gauge). }
  assert (F : forall n, f n = alpha * (ln (expert (state_after s tau n) (tau n))
                - ln (policy (state_after s tau n) (tau n))) + gamma * f (S n)).
  { intros i. unfold f. rewrite (U i), (L i), (reward_of_expert (state_after s tau i) (tau i)).
    unfold read, discounted_endogenous. cbn [state_after]. ring. }
  assert (S : forall i, - (alpha * eps) <= alpha * (ln (expert (state_after s tau i) (tau i))
                - ln (policy (state_after s tau i) (tau i))) <= alpha * eps).
  { intros i. pose proof (abs_le_inv _ _ (log_ratio_le _ _ (Tau i))) as A.
    replace (- (alpha * eps)) with (alpha * - eps) by ring.
    split; apply Rmult_le_compat_l; lra. }
  apply Rabs_le. split.
  - enough (-1 * f n <= alpha * eps * H) by (unfold f in *; lra).
    apply (sequence_le (fun n => -1 * f n)); [now apply bounded_scale |].
    intros i. rewrite (F i). specialize (S i). lra.
  - apply (sequence_le f); [exact B |]. intros i. rewrite (F i). specialize (S i). lra.
Qed.

(** ** Theorem 1: preferences between responses that share their first [k] tokens *)

Lemma shared_state s (tau tau' : nat -> T) k :
  (forall n, (n < k)%nat -> tau n = tau' n) -> state_after s tau k = state_after s tau' k.
Proof.
  induction k as [| k IH]; intros E; cbn; [reflexivity |].
  rewrite (E k) by lia. rewrite IH; [reflexivity |]. intros n L. apply E. lia.
Qed.

Lemma shared_steps x s (tau tau' : nat -> T) u u' k :
  is_discounted_return gamma x s tau u -> is_discounted_return gamma x s tau' u' ->
  (forall n, (n < k)%nat -> tau n = tau' n) -> u O - u' O = gamma ^ k * (u k - u' k).
Proof.
  intros [_ U] [_ U']. induction k as [| k IH]; intros E; [cbn; ring |].
  rewrite IH by (intros; apply E; lia). rewrite (U k), (U' k).
  rewrite <- (E k) by lia. rewrite <- (shared_state s tau tau' k) by (intros; apply E; lia).
  cbn [pow]. ring.
Qed.

Theorem discounted_theorem_1_sharp s tau tau' k u u' l l' :
  response s tau -> response s tau' -> (forall n, (n < k)%nat -> tau n = tau' n) ->
  is_discounted_return gamma r s tau u -> is_discounted_return gamma r s tau' u' ->
  is_discounted_return gamma read s tau l -> is_discounted_return gamma read s tau' l' ->
  Rabs (logistic (u O - u' O) - logistic (l O - l' O))
  <= tanh (alpha * (gamma ^ k * H) * eps / 2).
Proof.
  intros Tau Tau' Shared U U' L L'.
  eapply Rle_trans; [apply logistic_sub_le |]. apply tanh_mono.
  pose proof (shared_steps r s tau tau' u u' k U U' Shared) as Du.
  pose proof (shared_steps read s tau tau' l l' k L L' Shared) as Dl.
  pose proof (returns_differ s tau u l Tau U L k) as F.
  pose proof (returns_differ s tau' u' l' Tau' U' L' k) as F'.
  rewrite <- (shared_state s tau tau' k Shared) in F'.
  replace (u O - u' O - (l O - l' O)) with (gamma ^ k * ((u k - l k) - (u' k - l' k)))
    by (rewrite Du, Dl; ring).
  pose proof (pow_le gamma k ltac:(lra)) as G.
  rewrite Rabs_mult, (Rabs_pos_eq (gamma ^ k)) by assumption.
  assert (B : Rabs ((u k - l k) - (u' k - l' k)) <= 2 * (alpha * eps * H)).
  { apply abs_le_inv in F. apply abs_le_inv in F'. apply Rabs_le. lra. }
  apply (Rmult_le_compat_l (gamma ^ k)) in B; [lra | assumption].
Qed.

Theorem discounted_theorem_1 s tau tau' k u u' l l' :
  response s tau -> response s tau' -> (forall n, (n < k)%nat -> tau n = tau' n) ->
  is_discounted_return gamma r s tau u -> is_discounted_return gamma r s tau' u' ->
  is_discounted_return gamma read s tau l -> is_discounted_return gamma read s tau' l' ->
  Rabs (logistic (u O - u' O) - logistic (l O - l' O)) <= alpha * H * eps / 2.
Proof.
  intros Tau Tau' Shared U U' L L'.
  eapply Rle_trans; [apply (discounted_theorem_1_sharp s tau tau' k); eassumption |].
  pose proof (eps_nonneg s) as E. pose proof horizon_pos as Hp.
  pose proof (pow_le gamma k ltac:(lra)) as G.
  assert (G1 : gamma ^ k <= 1) by (rewrite <- (pow1 k); apply pow_incr; lra).
  assert (P : 0 <= alpha * H * eps) by (apply Rmult_le_pos; [apply Rmult_le_pos |]; lra).
  assert (Q : 0 <= gamma ^ k * (alpha * H * eps)) by (apply Rmult_le_pos; lra).
  eapply Rle_trans; [apply tanh_le; lra |].
  assert (gamma ^ k * (alpha * H * eps) <= 1 * (alpha * H * eps))
    by (apply Rmult_le_compat_r; lra).
  lra.
Qed.

(** ** Distances between the policies *)

Theorem discounted_kl_ball k :
  is_discounted_kl gamma policy expert k -> forall s, k s <= H * eps * tanh (eps / 2).
Proof.
  intros [B K] s.
  enough (k s <= eps * tanh (eps / 2) / (1 - gamma)) by (rewrite horizon_div in *; lra).
  apply (policy_contraction gamma gamma_range policy k
           (fun s a => ln (policy s a) - ln (expert s a))); auto.
  - intros t. right. apply K.
  - intros t. apply (near_kl eps (acts t) (expert t) (policy t));
      [apply (eps_nonneg t) | apply expert_policy | apply policy_is | exact (ball t)].
Qed.

(** ** Theorem 2: RL on the endogenous reward

    [rl] is any policy, deterministic or not; [true_value] and [read_value] are what it earns in
    [r*] and [r̂], and [best_read] the most that can be earned in [r̂]. What it is short of that is
    taken off, as in the table: zero for [π_RL]. *)

Section RL.
Variables (rl : St -> T -> R) (expert_value true_value read_value best_read : St -> R).
Hypothesis rl_is : stationary_policy rl.
Hypothesis expert_value_is : is_discounted_value gamma expert r expert_value.
Hypothesis true_value_is : is_discounted_value gamma rl r true_value.
Hypothesis read_value_is : is_discounted_value gamma rl read read_value.
Hypothesis best_read_is : is_discounted_best_value gamma read best_read.

Lemma read_is_reward s a :
  r s a - read s a
  = alpha * (ln (expert s a) - ln (policy s a)) + (soft s - gauge s)
    - gamma * (soft (next s a) - gauge (next s a)).
Proof. rewrite (reward_of_expert s a). unfold read, discounted_endogenous. ring. Qed.

Lemma potential_bounded : bounded (fun s => soft s - gauge s).
Proof. apply bounded_minus; [apply soft_solves | exact gauge_bounded]. Qed.

(** What any policy gains by being paid in [r̂], beside the potential. *)
Lemma rl_reads s :
  read_value s - true_value s + (soft s - gauge s) <= alpha * eps * H.
Proof.
  rewrite <- horizon_div.
  apply (policy_contraction gamma gamma_range rl
           (fun s => read_value s - true_value s + (soft s - gauge s))
           (fun s a => alpha * (ln (policy s a) - ln (expert s a)))); auto.
  - apply bounded_plus; [| apply potential_bounded].
    apply bounded_minus; [apply read_value_is | apply true_value_is].
  - intros t. rewrite (proj2 read_value_is t), (proj2 true_value_is t), <- sum_minus.
    rewrite <- (mean_const (acts t) (rl t) (soft t - gauge t) (rl_is t)), <- sum_plus.
    right. apply sum_ext. intros a _. pose proof (read_is_reward t a).
    replace (read t a) with (r t a - (r t a - read t a)) by ring. rewrite H0. ring.
  - intros t. apply mean_le_const; [apply rl_is |]. intros a I.
    pose proof (abs_le_inv _ _ (log_ratio_le t a I)). apply Rmult_le_compat_l; lra.
Qed.

Lemma mean_le_greatest (l : list T) (p x : T -> R) :
  distribution l p -> (∑ a ∈ l, p a * x a) <= greatest l x.
Proof. intros P. apply mean_le_const; [exact P |]. intros. now apply greatest_ge. Qed.

Lemma expert_reads s :
  expert_value s - best_read s - (soft s - gauge s) <= alpha * (eps * tanh (eps / 2)) * H.
Proof.
  rewrite <- horizon_div.
  apply (policy_contraction gamma gamma_range expert
           (fun s => expert_value s - best_read s - (soft s - gauge s))
           (fun s a => alpha * (ln (expert s a) - ln (policy s a)))); auto using expert_policy.
  - apply bounded_minus; [| apply potential_bounded].
    apply bounded_minus; [apply expert_value_is | apply best_read_is].
  - intros t. rewrite (proj2 expert_value_is t).
    pose proof (mean_le_greatest (acts t) (expert t)
                  (fun a => read t a + gamma * best_read (next t a)) (expert_policy t)) as L.
    rewrite <- (proj2 best_read_is t) in L.
    pose proof (mean_const (acts t) (expert t) (soft t - gauge t) (expert_policy t)) as C.
    enough ((∑ a ∈ acts t, expert t a * (r t a + gamma * expert_value (next t a)))
            - (∑ a ∈ acts t, expert t a * (read t a + gamma * best_read (next t a)))
            - (∑ a ∈ acts t, expert t a * (soft t - gauge t))
            <= ∑ a ∈ acts t, expert t a
                 * (alpha * (ln (expert t a) - ln (policy t a))
                    + gamma * (expert_value (next t a) - best_read (next t a)
                               - (soft (next t a) - gauge (next t a))))) by lra.
    rewrite <- !sum_minus. right. apply sum_ext. intros a _.
    pose proof (read_is_reward t a).
    replace (read t a) with (r t a - (r t a - read t a)) by ring. rewrite H0. ring.
  - intros t.
    rewrite (sum_ext _ _ (fun a => alpha * (expert t a * (ln (expert t a) - ln (policy t a)))))
      by (intros; ring).
    rewrite sum_scale. apply Rmult_le_compat_l; [lra |].
    apply (near_kl eps (acts t) (policy t) (expert t));
      [apply (eps_nonneg t) | apply policy_is | apply expert_policy |
       apply near_sym; exact (ball t)].
Qed.

Theorem discounted_rl_expert s :
  expert_value s - true_value s - (best_read s - read_value s)
  <= alpha * H * eps * (1 + tanh (eps / 2)).
Proof. pose proof (expert_reads s). pose proof (rl_reads s). lra. Qed.

Theorem discounted_theorem_2_rl width s :
  alpha * (1 + tanh (eps / 2)) <= width ->
  expert_value s - true_value s - (best_read s - read_value s) <= width * (H * eps).
Proof.
  intros W. eapply Rle_trans; [apply discounted_rl_expert |].
  pose proof (eps_nonneg s). pose proof horizon_pos.
  assert (0 <= H * eps) by (apply Rmult_le_pos; lra).
  apply (Rmult_le_compat_r (H * eps)) in W; lra.
Qed.

Theorem discounted_rl_any_comparator best s :
  is_discounted_best_value gamma r best ->
  best s - true_value s - (best_read s - read_value s) <= 2 * alpha * H * eps.
Proof.
  intros [Bb Hb].
  enough (best s - best_read s - (soft s - gauge s) <= alpha * eps * H)
    by (pose proof (rl_reads s); lra).
  rewrite <- horizon_div.
  apply (token_contraction gamma gamma_range
           (fun s => best s - best_read s - (soft s - gauge s))).
  - apply bounded_minus; [| apply potential_bounded].
    apply bounded_minus; [exact Bb | apply best_read_is].
  - intros t.
    destruct (greatest_in (acts t) (fun a => r t a + gamma * best (next t a)) (acts_nonempty t))
      as (a & I & E).
    exists a. split; [exact I |]. rewrite (Hb t), E.
    pose proof (greatest_ge (acts t) (fun a => read t a + gamma * best_read (next t a)) a I) as G.
    cbv beta in G. rewrite <- (proj2 best_read_is t) in G.
    pose proof (abs_le_inv _ _ (log_ratio_le t a I)) as [_ A].
    apply (Rmult_le_compat_l alpha) in A; [| lra]. pose proof (read_is_reward t a). lra.
Qed.

(** With the anchor [π̂] at [β = α]: the soft-optimal policy of [2α log π̂], which is that of
    [r̂ − α KL(π‖π̂)]. *)
Theorem discounted_rl_anchored anchor anchored_value k s :
  is_discounted_soft_value gamma alpha (fun s a => 2 * alpha * ln (policy s a)) anchor ->
  is_discounted_value gamma
    (discounted_soft_policy gamma alpha (fun s a => 2 * alpha * ln (policy s a)) anchor)
    r anchored_value ->
  is_discounted_kl gamma expert policy k ->
  expert_value s - anchored_value s <= alpha * (H * eps + 2 * k s).
Proof.
  set (x := fun s a => 2 * alpha * ln (policy s a)).
  set (anchored := discounted_soft_policy gamma alpha x anchor).
  intros [Ba A] [Bv V] [Bk K].
  assert (Pa : stationary_policy anchored)
    by (intros t; apply softmax_distribution, acts_nonempty).
  assert (La : forall t a, alpha * ln (anchored t a)
                           = x t a + gamma * anchor (next t a) - anchor t).
  { intros t a. unfold anchored, discounted_soft_policy.
    rewrite ln_softmax by auto using acts_nonempty. now rewrite <- A. }
  assert (Up : expert_value s - soft s - anchor s - 2 * alpha * k s <= 0 / (1 - gamma)).
  { apply (policy_contraction gamma gamma_range expert
             (fun s => expert_value s - soft s - anchor s - 2 * alpha * k s) (fun _ _ => 0));
      auto using expert_policy.
    - apply bounded_minus; [| now apply bounded_scale].
      apply bounded_minus; [| exact Ba].
      apply bounded_minus; [apply expert_value_is | apply soft_solves].
    - intros t. rewrite (proj2 expert_value_is t), (K t).
      pose proof (mean_le_soft_maximum (acts t) (expert t)
                    (fun a => x t a + gamma * anchor (next t a)) alpha alpha_pos
                    (acts_nonempty t) (expert_policy t)) as G.
      rewrite <- A in G.
      pose proof (mean_const (acts t) (expert t) (soft t) (expert_policy t)) as C.
      rewrite <- (sum_scale _ (2 * alpha)).
      match goal with |- ?one - _ - _ - ?two <= ?three =>
        enough (one - (∑ a ∈ acts t, expert t a * soft t)
                - (∑ a ∈ acts t, expert t a * (x t a + gamma * anchor (next t a)
                                               - alpha * ln (expert t a))) - two
                <= three) by lra end.
      rewrite <- !sum_minus. right. apply sum_ext. intros a _.
      rewrite (reward_of_expert t a). unfold x. ring.
    - intros t. rewrite sum_zero; [lra |]. intros. ring. }
  assert (Low : soft s + anchor s - anchored_value s <= alpha * eps / (1 - gamma)).
  { apply (policy_contraction gamma gamma_range anchored
             (fun s => soft s + anchor s - anchored_value s)
             (fun s a => alpha * (ln (policy s a) - ln (expert s a))
                         + alpha * (ln (policy s a) - ln (anchored s a)))); auto.
    - apply bounded_minus; [| exact Bv]. apply bounded_plus; [apply soft_solves | exact Ba].
    - intros t. rewrite (V t).
      rewrite <- (mean_const (acts t) (anchored t) (soft t + anchor t) (Pa t)) at 1.
      rewrite <- sum_minus. right. apply sum_ext. intros a _.
      rewrite (reward_of_expert t a). pose proof (La t a) as E. unfold x in E.
      replace (anchor t) with (2 * alpha * ln (policy t a) + gamma * anchor (next t a)
                               - alpha * ln (anchored t a)) by lra.
      ring.
    - intros t.
      pose proof (gibbs (acts t) (anchored t) (policy t) (Pa t) (policy_is t)
                    (policy_positive t)) as G.
      assert (L : (∑ a ∈ acts t, anchored t a * (ln (policy t a) - ln (expert t a))) <= eps).
      { apply mean_le_const; [apply Pa |]. intros a I.
        pose proof (abs_le_inv _ _ (log_ratio_le t a I)). lra. }
      rewrite (sum_ext _ _ (fun a => alpha * (anchored t a * (ln (policy t a) - ln (expert t a)))
                 - alpha * (anchored t a * (ln (anchored t a) - ln (policy t a)))))
        by (intros; ring).
      rewrite sum_minus, !sum_scale.
      apply (Rmult_le_compat_l alpha) in G; [| lra]. apply (Rmult_le_compat_l alpha) in L; lra. }
  rewrite horizon_div in Up, Low. lra.
Qed.

End RL.

End Ball.

Theorem discounted_regularised_equality w w' k :
  is_discounted_regularised gamma alpha expert r w ->
  is_discounted_regularised gamma alpha policy r w' ->
  is_discounted_kl gamma policy expert k ->
  forall s, w s - w' s = alpha * k s.
Proof.
  intros W [Bw' W'] [Bk K] s. rewrite (discounted_soft_value w W).
  enough (soft s - alpha * k s = w' s) by lra.
  apply (discounted_value_unique gamma gamma_range policy
           (fun s a => r s a - alpha * ln (policy s a))
           (fun s => soft s - alpha * k s)); [exact policy_is | | now split].
  split.
  - apply bounded_minus; [apply soft_solves | now apply bounded_scale].
  - intros t. rewrite (K t), <- sum_scale.
    rewrite <- (mean_const (acts t) (policy t) (soft t) (policy_is t)) at 1.
    rewrite <- sum_minus. apply sum_ext. intros a _. rewrite (reward_of_expert t a). ring.
Qed.

End Rows.
