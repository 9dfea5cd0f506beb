(** Bounds that are attained at every horizon: the instances of theory/studies/gallery.py on which
    a row holds with equality, and one on which the paper's row does not hold without its
    condition. *)

From Coq Require Import Reals List Lra Lia PeanoNat.
From Endorm Require Export Composition Preferences ReinforcementLearning Cloning Lengths.
Import ListNotations.
Open Scope R_scope.

(** ** Experts with a given next-token distribution *)

Lemma softmax_of_ln : forall {A : Type} (l : list A) (x : A -> R) alpha c a,
  0 < alpha -> l <> [] -> distribution l x -> (forall b, In b l -> 0 < x b) -> In a l ->
  softmax alpha l (fun b => alpha * ln (x b) + c) a = x a.
Proof.
  intros A l x alpha c a alpha_pos nonempty law pos a_in.
  apply ln_inv; [now apply softmax_positive | now apply pos |].
  apply Rmult_eq_reg_l with alpha; [| lra].
  rewrite ln_softmax, soft_maximum_ln by assumption. ring.
Qed.

Section Level.
Context {St T : Type} {D : Dynamics St T}.

(** Where every next state has the same soft value, the expert is the softmax of the rewards. *)
Lemma soft_policy_level : forall alpha (r : table St T) (x : T -> R) c v n s a,
  0 < alpha -> distribution (acts s) x -> (forall b, In b (acts s) -> 0 < x b) ->
  (forall b, In b (acts s) -> r (S n) s b = alpha * ln (x b) + c) ->
  (forall b, In b (acts s) -> soft_values alpha r n (next s b) = v) ->
  In a (acts s) -> soft_policy alpha r (S n) s a = x a.
Proof.
  intros alpha r x c v n s a alpha_pos law pos reward level a_in.
  rewrite <- (softmax_of_ln (acts s) x alpha (c + v) a) by auto using acts_nonempty.
  unfold soft_policy, softmax, soft_q. cbn [pred].
  rewrite reward, level by exact a_in. f_equal; [f_equal; f_equal; ring |].
  apply sum_ext. intros b b_in. rewrite reward, level by exact b_in. f_equal. f_equal. ring.
Qed.

Lemma soft_values_level : forall alpha (r : table St T) (x : T -> R) c v n s,
  0 < alpha -> distribution (acts s) x -> (forall b, In b (acts s) -> 0 < x b) ->
  (forall b, In b (acts s) -> r (S n) s b = alpha * ln (x b) + c) ->
  (forall b, In b (acts s) -> soft_values alpha r n (next s b) = v) ->
  soft_values alpha r (S n) s = c + v.
Proof.
  intros alpha r x c v n s alpha_pos law pos reward level. cbn [soft_values].
  rewrite <- (soft_maximum_ln (acts s) x (c + v) alpha) by auto using acts_nonempty.
  apply soft_maximum_ext. intros b b_in. rewrite reward, level by exact b_in. ring.
Qed.

(** Rewards of mean [c] in every state are worth [n c]. *)
Lemma value_steps : forall (p r : table St T) c n s, policy p n s ->
  everywhere (fun m t => (∑ a ∈ acts t, p m t a * r m t a) = c) n s ->
  value p r n s = INR n * c.
Proof.
  intros p r c n. induction n as [| n IH]; intros s pol mean.
  - rewrite value_0. simpl. lra.
  - rewrite value_S by exact pol. destruct pol as [[_ one] pol], mean as [here mean].
    rewrite (sum_ext _ _ (fun a => p (S n) s a * r (S n) s a + p (S n) s a * (INR n * c)))
      by (intros a a_in; rewrite IH by auto; ring).
    rewrite sum_plus, sum_scale_r, here, one, S_INR. ring.
Qed.

(** A table of the token alone, along a response. *)
Lemma total_tokens : forall (f : T -> R) n s tau, length tau = n ->
  total (fun _ _ a => f a) n s tau = sum tau f.
Proof.
  intros f n. induction n as [| n IH]; intros s [| a rest] same; cbn in *; try discriminate; auto.
  rewrite IH; auto.
Qed.

End Level.

Lemma sum_repeat : forall {A : Type} (a : A) n f, sum (repeat a n) f = INR n * f a.
Proof.
  intros A a n f. induction n as [| n IH]; [simpl; ring |].
  cbn [repeat]. rewrite sum_cons, IH, S_INR. ring.
Qed.

(** ** Randomised response: a coin for each step, and the clone takes it for its reverse *)

Section RandomisedResponse.

#[local] Instance coin : Dynamics unit bool := {
  next := fun _ _ => tt;
  acts := fun _ => [true; false];
  acts_nonempty := fun _ => ltac:(discriminate)
}.

Variables (alpha eps : R).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis eps_nonneg : 0 <= eps.

Definition answer (right : bool) : R := if right then odds_right eps else odds_wrong eps.

(** Heads pay [αε], tails nothing. *)
Definition coin_reward : table unit bool := fun _ _ heads => if heads then alpha * eps else 0.
Definition coin_expert : table unit bool := soft_policy alpha coin_reward.
Definition coin_clone : table unit bool := fun _ _ heads => answer (negb heads).

Lemma answer_pos : forall right, 0 < answer right.
Proof. intros []; apply odds_pos. Qed.

Lemma ln_answers : ln (odds_right eps) = ln (odds_wrong eps) + eps.
Proof.
  rewrite <- wrong_up, ln_mult, ln_exp by (apply exp_pos || apply odds_pos). reflexivity.
Qed.

Lemma answer_distribution : distribution [true; false] answer.
Proof.
  split; [intros right _; apply Rlt_le, answer_pos |].
  cbn [sum fold_right answer]. rewrite Rplus_0_r. apply odds_sum.
Qed.

Lemma coin_expert_answers : forall n s heads, coin_expert (S n) s heads = answer heads.
Proof.
  intros n s heads. unfold coin_expert.
  apply (soft_policy_level alpha coin_reward answer (- alpha * ln (odds_wrong eps))
           (soft_values alpha coin_reward n tt)); auto.
  - apply answer_distribution.
  - intros b _. apply answer_pos.
  - intros [] _; cbn [coin_reward answer]; rewrite ?ln_answers; ring.
  - destruct heads; simpl; auto.
Qed.

Lemma coin_expert_policy : forall n s, policy coin_expert n s.
Proof. intros n s. apply soft_policy_policy. Qed.

Lemma coin_clone_policy : forall n s, policy coin_clone n s.
Proof.
  intros n s. apply everywhere_all. intros m t. destruct answer_distribution as [_ one].
  split; [intros heads _; apply Rlt_le, answer_pos |].
  cbn [acts coin sum fold_right coin_clone negb answer] in *. lra.
Qed.

Lemma coin_ball : forall n s, log_ratio_ball eps coin_expert coin_clone n s.
Proof.
  intros n s. apply everywhere_all. intros m t heads _.
  rewrite coin_expert_answers. unfold coin_clone.
  split; [apply answer_pos | split; [apply answer_pos |]].
  destruct heads; cbn [negb answer]; rewrite ln_answers; apply Rabs_le; lra.
Qed.

Lemma coin_rewards : forall n s, reward_range 0 (alpha * eps) coin_reward n s.
Proof.
  intros n s. apply everywhere_all. intros m t [] _; cbn [coin_reward];
    assert (0 <= alpha * eps) by (apply Rmult_le_pos; lra); lra.
Qed.

Lemma coin_words : forall n s tau, length tau = n -> In tau (responses n s).
Proof.
  intros n. induction n as [| n IH]; intros s [| heads rest] same; try discriminate.
  - now left.
  - apply in_responses_cons. split; [destruct heads; simpl; auto |]. apply IH. now inversion same.
Qed.

(** theorem-1-sharp is attained: all heads against all tails, after [k] tokens that are shared. *)
Theorem theorem_1_sharp_attained : forall n k s v, (k <= n)%nat -> gauge v ->
  preference_tv coin_reward (endogenous alpha coin_clone v) n s
    (repeat true k ++ repeat true (n - k)) (repeat true k ++ repeat false (n - k))
  = tanh (alpha * INR (n - k) * eps / 2).
Proof.
  intros n k s v k_le zero. unfold preference_tv, preference.
  assert (forall heads, length (repeat true k ++ repeat heads (n - k)) = n) as size
    by (intros heads; rewrite app_length, !repeat_length; lia).
  assert (forall heads, prob coin_clone n s (repeat true k ++ repeat heads (n - k)) > 0) as given
    by (intros heads; apply prob_pos; [| apply coin_words, size];
        eapply ball_positive_r; apply coin_ball).
  rewrite !(endogenous_telescoping alpha coin_clone v n s)
    by (exact zero || apply coin_clone_policy || apply coin_words, size || apply given).
  rewrite !ln_prob by (apply coin_clone_policy || apply coin_words, size || apply given).
  unfold coin_reward, coin_clone.
  rewrite !(total_tokens (fun heads : bool => if heads then alpha * eps else 0)) by apply size.
  rewrite !(total_tokens (fun heads : bool => ln (answer (negb heads)))) by apply size.
  rewrite !sum_app, !sum_repeat. cbn [negb answer]. rewrite ln_answers.
  set (d := 2 * (alpha * INR (n - k) * eps)).
  transitivity (Rabs (logistic (d / 2) - logistic (- (d / 2)))).
  - do 3 f_equal; unfold d; field.
  - rewrite logistic_attained. unfold d.
    replace (2 * (alpha * INR (n - k) * eps) / 4) with (alpha * INR (n - k) * eps / 2) by field.
    apply Rabs_pos_eq, tanh_nonneg.
    assert (0 <= alpha * INR (n - k) * eps); [| lra].
    apply Rmult_le_pos; [apply Rmult_le_pos; [lra | apply pos_INR] | assumption].
Qed.

(** So is preference-length, by the same: each step is a choice. *)
Theorem preference_length_attained : forall n k s v, (k <= n)%nat -> gauge v ->
  let t := choices_after n s (repeat true k) in
  preference_tv coin_reward (endogenous alpha coin_clone v) n s
    (repeat true k ++ repeat true (n - k)) (repeat true k ++ repeat false (n - k))
  = tanh (alpha * eps * (t (repeat true (n - k)) + t (repeat false (n - k))) / 4).
Proof.
  intros n k s v k_le zero t. rewrite theorem_1_sharp_attained by assumption.
  assert (forall heads, t (repeat heads (n - k)) = INR (n - k)) as steps.
  { intros heads. unfold t, choices_after. rewrite repeat_length.
    apply total_choices; [| now apply coin_words; rewrite repeat_length].
    apply everywhere_all. intros m u. cbn. lia. }
  rewrite !steps. f_equal. field.
Qed.

(** preference-average is attained: the same pair, alone. *)
Theorem preference_average_attained : forall n s v, gauge v ->
  let pairs := [(repeat true n, repeat false n)] in
  let d := log_ratio coin_expert coin_clone n s in
  (∑ x ∈ pairs, 1 * preference_tv coin_reward (endogenous alpha coin_clone v) n s (fst x) (snd x))
  = ∑ x ∈ pairs, 1 * tanh (alpha * Rabs (d (fst x) - d (snd x)) / 4).
Proof.
  intros n s v zero pairs d. unfold pairs. rewrite !sum_cons, !sum_nil. cbn [fst snd].
  do 2 f_equal.
  pose proof (theorem_1_sharp_attained n 0 s v (Nat.le_0_l n) zero) as sharp.
  rewrite Nat.sub_0_r in sharp. cbn [repeat app] in sharp. rewrite sharp. f_equal.
  assert (forall heads, d (repeat heads n) = INR n * (if heads then eps else - eps)) as ratio.
  { intros heads. unfold d. pose proof (coin_ball n s) as ball.
    rewrite log_ratio_total
      by (eauto using ball_positive_l, ball_positive_r
          || apply coin_words, repeat_length).
    rewrite (total_ext _ (fun _ _ right => ln (answer right) - ln (answer (negb right)))).
    - rewrite (total_tokens (fun right => ln (answer right) - ln (answer (negb right))))
        by apply repeat_length.
      rewrite sum_repeat. f_equal. destruct heads; cbn [answer negb]; rewrite ln_answers; ring.
    - apply everywhere_all. intros m t right _. now rewrite coin_expert_answers.
    - apply coin_words, repeat_length. }
  rewrite !ratio. replace (INR n * eps - INR n * - eps) with (2 * (INR n * eps)) by ring.
  rewrite Rabs_pos_eq; [field |]. pose proof (pos_INR n).
  assert (0 <= INR n * eps) by now apply Rmult_le_pos. lra.
Qed.

(** kl-ball is attained, and with it regularised-equality's [αHε tanh(ε/2)]. *)
Theorem kl_ball_attained : forall n s,
  kl coin_clone coin_expert n s = INR n * eps * tanh (eps / 2).
Proof.
  intros n s.
  rewrite kl_value by (apply coin_clone_policy || (eapply ball_positive_l; apply coin_ball)).
  rewrite Rmult_assoc. apply value_steps; [apply coin_clone_policy |].
  apply everywhere_all. intros m t.
  cbn [acts coin sum fold_right]. rewrite !coin_expert_answers. unfold coin_clone.
  cbn [negb answer]. rewrite ln_answers, <- odds_difference. ring.
Qed.

(** ... and kl-length. *)
Theorem kl_length_attained : forall n s,
  kl coin_clone coin_expert n s = value coin_clone choices n s * eps * tanh (eps / 2).
Proof.
  intros n s. rewrite kl_ball_attained, value_choices; [reflexivity | | apply coin_clone_policy].
  apply everywhere_all. intros m t. cbn. lia.
Qed.

(** tv-composition is attained. *)
Theorem tv_composition_attained : forall n s, tv coin_expert coin_clone n s = tv_rr n eps.
Proof.
  assert (forall n s g,
    (∑ tau ∈ responses n s, Rmax 0 (prob coin_expert n s tau - g * prob coin_clone n s tau))
    = hockey_stick eps n g) as divergence.
  { intros n. induction n as [| n IH]; intros s g.
    - cbn [responses hockey_stick sum fold_right prob]. rewrite Rmult_1_r. apply Rplus_0_r.
    - rewrite sum_responses_S. cbn [acts coin sum fold_right next hockey_stick].
      rewrite Rplus_0_r, <- !(IH tt), <- !sum_scale.
      f_equal; apply sum_ext; intros rest _; cbn [prob next coin];
        rewrite coin_expert_answers; unfold coin_clone; cbn [negb answer];
        rewrite <- RmaxRmult by (apply Rlt_le, odds_pos); rewrite Rmult_0_r; f_equal.
      + rewrite <- right_down. ring.
      + rewrite <- wrong_up. ring. }
  intros n s. unfold tv. rewrite total_variation_as_hockey_stick
    by (apply prob_distribution; apply coin_expert_policy || apply coin_clone_policy).
  unfold tv_rr. rewrite <- (divergence n s 1). apply sum_ext. intros tau _. f_equal. ring.
Qed.

(** *** One coin, then fair ones *)

Variable steps : nat.

(** Only the first of [steps + 1] coins pays. *)
Definition first_reward : table unit bool := fun m t heads =>
  if m =? S steps then coin_reward m t heads else 0.
Definition first_law (m : nat) (heads : bool) : R := if m =? S steps then answer heads else / 2.
Definition first_expert : table unit bool := soft_policy alpha first_reward.
Definition first_clone : table unit bool := fun m _ heads => first_law m
  (if m =? S steps then negb heads else heads).

Lemma first_law_distribution : forall m, distribution [true; false] (first_law m).
Proof.
  intros m. unfold first_law. destruct (m =? S steps); [apply answer_distribution |].
  split; [intros heads _ | cbn [sum fold_right]]; lra.
Qed.

Lemma first_expert_law : forall m s heads, first_expert (S m) s heads = first_law (S m) heads.
Proof.
  intros m s heads. unfold first_expert.
  apply (soft_policy_level alpha first_reward (first_law (S m))
    (if S m =? S steps then - alpha * ln (odds_wrong eps) else alpha * ln 2)
    (soft_values alpha first_reward m tt)); auto.
  - apply first_law_distribution.
  - intros b _. unfold first_law. destruct (S m =? S steps); [apply answer_pos | lra].
  - intros b _. unfold first_reward, first_law. destruct (S m =? S steps).
    + destruct b; cbn [coin_reward answer]; rewrite ?ln_answers; ring.
    + rewrite ln_Rinv by lra. ring.
  - destruct heads; simpl; auto.
Qed.

Lemma first_expert_policy : forall n s, policy first_expert n s.
Proof. intros n s. apply soft_policy_policy. Qed.

Lemma first_clone_policy : forall n s, policy first_clone n s.
Proof.
  intros n s. apply everywhere_all. intros m t.
  destruct (first_law_distribution (S m)) as [nonneg one].
  split; [intros heads _; apply nonneg; destruct (S m =? S steps), heads; simpl; auto |].
  unfold first_clone. cbn [acts coin sum fold_right] in *.
  destruct (S m =? S steps); cbn [negb]; lra.
Qed.

(** After the first coin nothing differs and nothing pays. *)
Lemma after_first : forall m s, (m <= steps)%nat ->
  everywhere (fun k t => forall heads, In heads (acts t) ->
    first_expert k t heads = first_clone k t heads /\ first_reward k t heads = 0) m s.
Proof.
  intros m. induction m as [| m IH]; intros s few; cbn [everywhere]; [exact I |].
  split; [| intros heads _; apply IH; lia].
  intros heads _. rewrite first_expert_law. unfold first_clone, first_reward.
  destruct (Nat.eqb_spec (S m) (S steps)); [lia | auto].
Qed.

Lemma first_total : forall s heads rest, In rest (responses steps tt) ->
  total first_reward (S steps) s (heads :: rest) = if heads then alpha * eps else 0.
Proof.
  intros s heads rest rest_in. cbn [total next coin].
  rewrite (total_ext first_reward (fun _ _ _ => 0)) by (exact rest_in ||
    (pose proof (after_first steps tt (Nat.le_refl _)) as states; revert states;
     apply everywhere_imp; intros m t none a a_in; now apply none)).
  rewrite total_const by exact rest_in. unfold first_reward. rewrite Nat.eqb_refl.
  unfold coin_reward. ring.
Qed.

Lemma first_value : forall p s, policy p (S steps) s ->
  value p first_reward (S steps) s = p (S steps) s true * (alpha * eps).
Proof.
  intros p s [_ pol]. assert (policy p steps tt) as below by (apply (pol true); now left).
  assert (forall heads,
    expect p steps tt (fun rest => total first_reward (S steps) s (heads :: rest))
    = if heads then alpha * eps else 0) as paid.
  { intros heads. rewrite <- (expect_const p steps tt (if heads then alpha * eps else 0) below).
    apply expect_ext; [exact below |]. intros rest rest_in _. now apply first_total. }
  unfold value. rewrite expect_S. cbn [acts coin sum fold_right next]. rewrite !paid. ring.
Qed.

Lemma first_gap : forall s,
  value first_expert first_reward (S steps) s - value first_clone first_reward (S steps) s
  = alpha * eps * tanh (eps / 2).
Proof.
  intros s. rewrite !first_value by (apply first_expert_policy || apply first_clone_policy).
  rewrite first_expert_law. unfold first_clone, first_law. rewrite Nat.eqb_refl.
  cbn [answer negb]. rewrite <- odds_difference. ring.
Qed.

Lemma first_range : forall s, return_range first_reward (S steps) s <= alpha * eps.
Proof.
  intros s. unfold return_range.
  assert (0 <= alpha * eps) as pays by (apply Rmult_le_pos; lra).
  assert (forall tau, In tau (responses (S steps) s) ->
    0 <= total first_reward (S steps) s tau <= alpha * eps) as between.
  { intros tau tau_in. apply in_responses_S in tau_in as (heads & rest & -> & _ & rest_in).
    rewrite first_total by exact rest_in. destruct heads; lra. }
  destruct (greatest_in _ (total first_reward (S steps) s) (responses_nonempty (S steps) s))
    as (top & top_in & ->).
  destruct (least_in _ (total first_reward (S steps) s) (responses_nonempty (S steps) s))
    as (low & low_in & ->).
  pose proof (between top top_in). pose proof (between low low_in). lra.
Qed.

(** [BC = 2√(pq) = 1/cosh(ε/2)]: the overlap of one coin and its reverse. *)
Lemma first_overlap : forall s,
  bhattacharyya first_expert first_clone (S steps) s
  * bhattacharyya first_expert first_clone (S steps) s
  = / (cosh (eps / 2) * cosh (eps / 2)).
Proof.
  intros s. pose proof (odds_pos eps) as [right wrong].
  assert (bhattacharyya first_expert first_clone (S steps) s
          = 2 * sqrt (odds_right eps * odds_wrong eps)) as ->.
  { unfold bhattacharyya. rewrite sum_responses_S.
    transitivity (∑ heads ∈ [true; false], sqrt (odds_right eps * odds_wrong eps)
      * sum (responses steps tt) (prob first_expert steps tt)).
    - apply sum_ext. intros heads _. rewrite <- sum_scale. apply sum_ext. intros rest rest_in.
      cbn [next coin] in rest_in. cbn [prob next coin].
      rewrite <- (prob_ext first_expert first_clone steps tt rest)
        by (exact rest_in ||
            (pose proof (after_first steps tt (Nat.le_refl _)) as states; revert states;
             apply everywhere_imp; intros m t same a a_in; now apply same)).
      pose proof (prob_nonneg first_expert steps tt rest (first_expert_policy _ _) rest_in)
        as nonneg.
      rewrite first_expert_law. unfold first_clone, first_law. rewrite Nat.eqb_refl.
      rewrite <- (sqrt_square (prob first_expert steps tt rest)) at 3 by exact nonneg.
      rewrite <- sqrt_mult by nra. f_equal.
      destruct heads; cbn [answer negb]; ring.
    - destruct (prob_distribution first_expert steps tt (first_expert_policy _ _)) as [_ ->].
      cbn [sum fold_right]. ring. }
  pose proof (sqrt_sqrt (odds_right eps * odds_wrong eps) ltac:(nra)).
  rewrite <- odds_product. lra.
Qed.

Lemma first_chain : forall s,
  alpha * eps * tanh (eps / 2)
  <= return_range first_reward (S steps) s * tv first_expert first_clone (S steps) s /\
  return_range first_reward (S steps) s * tv first_expert first_clone (S steps) s
  <= return_range first_reward (S steps) s *
     sqrt (1 - bhattacharyya first_expert first_clone (S steps) s
               * bhattacharyya first_expert first_clone (S steps) s) /\
  return_range first_reward (S steps) s *
     sqrt (1 - bhattacharyya first_expert first_clone (S steps) s
               * bhattacharyya first_expert first_clone (S steps) s)
  <= alpha * eps * tanh (eps / 2).
Proof.
  intros s. split; [| split].
  - rewrite <- (first_gap s).
    apply clone_tv; [apply first_expert_policy | apply first_clone_policy].
  - apply Rmult_le_compat_l; [apply return_range_nonneg |].
    apply tv_hellinger; [apply first_expert_policy | apply first_clone_policy].
  - rewrite first_overlap. rewrite <- tanh_square, sqrt_square by (apply tanh_nonneg; lra).
    apply Rmult_le_compat_r; [apply tanh_nonneg; lra | apply first_range].
Qed.

(** clone-tv and clone-hellinger are attained. *)
Theorem clone_tv_attained : forall s,
  value first_expert first_reward (S steps) s - value first_clone first_reward (S steps) s
  = return_range first_reward (S steps) s * tv first_expert first_clone (S steps) s.
Proof. intros s. rewrite first_gap. destruct (first_chain s) as (? & ? & ?). lra. Qed.

Theorem clone_hellinger_attained : forall s,
  value first_expert first_reward (S steps) s - value first_clone first_reward (S steps) s
  = return_range first_reward (S steps) s *
    sqrt (1 - bhattacharyya first_expert first_clone (S steps) s
              * bhattacharyya first_expert first_clone (S steps) s).
Proof. intros s. rewrite first_gap. destruct (first_chain s) as (? & ? & ?). lra. Qed.

End RandomisedResponse.

(** ** One recurring state and a uniform policy: all responses tie for its reward *)

Section OneState.
Variable vocab : nat.
Hypothesis vocab_pos : (0 < vocab)%nat.

Lemma vocab_nonempty : seq 0 vocab <> [].
Proof. destruct vocab; [lia | discriminate]. Qed.

#[local] Instance one_state : Dynamics unit nat := {
  next := fun _ _ => tt;
  acts := fun _ => seq 0 vocab;
  acts_nonempty := fun _ => vocab_nonempty
}.

Definition uniform : table unit nat := fun _ _ _ => / INR vocab.

(** It gives the token [k] always. *)
Definition always (k : nat) : table unit nat := fun _ _ a => if a =? k then 1 else 0.

Lemma vocab_real : 0 < INR vocab.
Proof. now apply lt_0_INR. Qed.

Lemma uniform_pos : 0 < / INR vocab.
Proof. apply Rinv_0_lt_compat, vocab_real. Qed.

Lemma uniform_policy : forall n s, policy uniform n s.
Proof.
  intros n s. apply everywhere_all. intros m t. split.
  - intros a _. apply Rlt_le, uniform_pos.
  - cbn [acts one_state]. unfold uniform. rewrite sum_const, seq_length.
    apply Rinv_r. pose proof vocab_real. lra.
Qed.

Lemma always_policy : forall k n s, (k < vocab)%nat -> policy (always k) n s.
Proof.
  intros k n s k_lt. apply everywhere_all. intros m t. split.
  - intros a _. unfold always. destruct (a =? k); lra.
  - cbn [acts one_state]. unfold always.
    etransitivity; [| exact (sum_at vocab k (fun _ => 1) k_lt)].
    apply sum_ext. intros a _. ring.
Qed.

Lemma always_value : forall k (f : nat -> R) n s, (k < vocab)%nat ->
  value (always k) (fun _ _ a => f a) n s = INR n * f k.
Proof.
  intros k f n s k_lt. apply value_steps; [now apply always_policy |].
  apply everywhere_all. intros m t. now apply sum_at.
Qed.

(** Every policy is optimal for the endogenous reward of the uniform one. *)
Lemma all_optimal : forall alpha v q n s, gauge v -> policy q n s ->
  optimal_up_to 0 (endogenous alpha uniform v) q n s.
Proof.
  intros alpha v q n s zero q_pol q' q'_pol.
  assert (positive uniform n s) as pos
    by (apply everywhere_all; intros m t a _; apply uniform_pos).
  assert (forall q, policy q n s ->
    expect q n s (fun tau => ln (prob uniform n s tau)) = INR n * ln (/ INR vocab)) as tie.
  { intros other other_pol.
    rewrite <- (expect_const other n s (INR n * ln (/ INR vocab)) other_pol).
    apply expect_ext; [exact other_pol |]. intros tau tau_in _.
    rewrite ln_prob_positive by assumption. unfold uniform. now apply total_const. }
  rewrite !(value_endogenous alpha uniform), !tie by (assumption || apply uniform_policy). lra.
Qed.

(** The expert has the next-token distribution [x] for rewards [α log x + c]. *)
Section Expert.
Variables (alpha eps c : R) (x : nat -> R).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis x_law : distribution (seq 0 vocab) x.
Hypothesis x_pos : forall a, In a (seq 0 vocab) -> 0 < x a.

Definition logs : table unit nat := fun _ _ a => alpha * ln (x a) + c.

Lemma logs_expert : forall n s a, In a (seq 0 vocab) ->
  soft_policy alpha logs (S n) s a = x a.
Proof.
  intros n s a a_in.
  apply (soft_policy_level alpha logs x c (soft_values alpha logs n tt)); auto.
Qed.

Lemma logs_expert_value : forall n s,
  value (soft_policy alpha logs) logs n s
  = INR n * ∑ a ∈ seq 0 vocab, x a * (alpha * ln (x a) + c).
Proof.
  intros n s. apply value_steps; [now apply soft_policy_policy |].
  apply everywhere_all. intros m t. apply sum_ext. intros a a_in.
  now rewrite logs_expert.
Qed.

(** rl-average is attained, by any policy: all are optimal. *)
Theorem rl_average_attained : forall n s v rl, gauge v -> policy rl n s ->
  let expert := soft_policy alpha logs in
  optimal_up_to 0 (endogenous alpha uniform v) rl n s /\
  value expert logs n s - value rl logs n s
  = alpha * kl expert uniform n s - alpha * expect rl n s (log_ratio expert uniform n s).
Proof.
  intros n s v rl zero rl_pol expert. split; [now apply all_optimal |].
  assert (policy expert n s) as expert_pol by apply soft_policy_policy.
  pose proof (all_optimal alpha v rl n s zero rl_pol expert expert_pol) as above.
  pose proof (all_optimal alpha v expert n s zero expert_pol rl rl_pol) as below.
  rewrite (true_and_endogenous alpha logs uniform v n s alpha_pos (uniform_policy n s) zero)
    by (assumption || (apply everywhere_all; intros m t a _; apply uniform_pos)).
  fold expert. unfold kl. lra.
Qed.

Lemma logs_ball : forall n s,
  (forall a, In a (seq 0 vocab) -> Rabs (ln (x a) - ln (/ INR vocab)) <= eps) ->
  log_ratio_ball eps (soft_policy alpha logs) uniform n s.
Proof.
  intros n s near. apply everywhere_all. intros m t a a_in.
  rewrite logs_expert by exact a_in. auto using uniform_pos.
Qed.

End Expert.

(** rl-any-comparator is attained: with two tokens at the ends of the ball, by any vocabulary of
    [V ≥ 1 + e^ε] tokens. *)
Section AnyComparator.
Variables alpha eps : R.
Hypothesis alpha_pos : 0 < alpha.
Hypothesis eps_nonneg : 0 <= eps.
Hypothesis three : (3 <= vocab)%nat.
Hypothesis many : 1 + exp eps <= INR vocab.

(** The rest of the probability, shared by the other tokens. *)
Definition rest : R := (INR vocab - 2 * cosh eps) / (INR vocab - 2).

Definition two_ends (a : nat) : R :=
  match a with 0 => exp (- eps) | 1 => exp eps | _ => rest end / INR vocab.

Lemma vocab_at_least_3 : 3 <= INR vocab.
Proof. apply le_INR in three. simpl in three. lra. Qed.

Lemma rest_in_ball : exp (- eps) <= rest <= exp eps.
Proof.
  pose proof vocab_at_least_3. unfold rest, cosh.
  pose proof (exp_pos eps). pose proof (exp_pos (- eps)). pose proof (exp_opp_mul eps).
  pose proof (exp_ge_1 eps eps_nonneg) as up.
  assert (exp (- eps) <= 1) as down by (rewrite <- exp_0; apply exp_le; lra).
  set (hi := exp eps) in *. set (lo := exp (- eps)) in *.
  assert ((1 - lo) * (1 + hi) <= (1 - lo) * INR vocab) by (apply Rmult_le_compat_l; lra).
  assert ((hi - 1) * (1 + hi) <= (hi - 1) * INR vocab) by (apply Rmult_le_compat_l; lra).
  assert ((hi - 1) * (1 + lo) <= (hi - 1) * (1 + hi)) by (apply Rmult_le_compat_l; lra).
  split; apply Rmult_le_reg_r with (INR vocab - 2); try lra;
    unfold Rdiv; rewrite Rmult_assoc, Rinv_l by lra; lra.
Qed.

Lemma two_ends_tokens : seq 0 vocab = 0%nat :: 1%nat :: seq 2 (vocab - 2).
Proof. destruct vocab as [| [| m]]; [lia | lia |]. cbn [seq]. do 3 f_equal. lia. Qed.

Lemma two_ends_pos : forall a, 0 < two_ends a.
Proof.
  intros a. unfold two_ends. apply Rdiv_lt_0_compat; [| apply vocab_real].
  pose proof rest_in_ball as [above _]. pose proof (exp_pos (- eps)).
  destruct a as [| [| a]]; try apply exp_pos. lra.
Qed.

Lemma two_ends_distribution : distribution (seq 0 vocab) two_ends.
Proof.
  split; [intros a _; apply Rlt_le, two_ends_pos |].
  rewrite two_ends_tokens, !sum_cons.
  rewrite (sum_ext (seq 2 _) two_ends (fun _ => rest / INR vocab)).
  - rewrite sum_const, seq_length, minus_INR by lia.
    unfold two_ends, rest, cosh. simpl (INR 2). pose proof vocab_at_least_3. field. lra.
  - intros a a_in. apply in_seq in a_in. unfold two_ends.
    destruct a as [| [| a]]; [lia | lia | reflexivity].
Qed.

Lemma two_ends_log : forall a, ln (two_ends a) =
  ln (match a with 0 => exp (- eps) | 1 => exp eps | _ => rest end) + ln (/ INR vocab).
Proof.
  intros a. unfold two_ends, Rdiv. apply ln_mult; [| apply uniform_pos].
  pose proof rest_in_ball as [above _]. pose proof (exp_pos (- eps)).
  destruct a as [| [| a]]; try apply exp_pos. lra.
Qed.

Definition any_comparator_reward : table unit nat :=
  logs alpha (- alpha * ln (/ INR vocab)) two_ends.


Theorem rl_any_comparator_attained : forall n s v, gauge v ->
  let expert := soft_policy alpha any_comparator_reward in
  log_ratio_ball eps expert uniform n s /\
  optimal_up_to 0 (endogenous alpha uniform v) (always 0) n s /\
  policy (always 1) n s /\
  value (always 1) any_comparator_reward n s - value (always 0) any_comparator_reward n s
  = 2 * alpha * INR n * eps.
Proof.
  intros n s v zero expert. split; [| split; [| split]].
  - apply logs_ball; auto using two_ends_distribution, two_ends_pos.
    intros a _. rewrite two_ends_log. pose proof rest_in_ball as [below above].
    apply ln_mono in below; [| apply exp_pos]. apply ln_mono in above.
    2: { pose proof rest_in_ball. pose proof (exp_pos (- eps)). lra. }
    rewrite ln_exp in below, above.
    destruct a as [| [| a]]; rewrite ?ln_exp; apply Rabs_le; lra.
  - apply all_optimal; [exact zero | apply always_policy; lia].
  - apply always_policy. lia.
  - unfold any_comparator_reward, logs.
    rewrite !always_value by lia. rewrite !two_ends_log, !ln_exp. ring.
Qed.

End AnyComparator.

(** rl-expert is attained: [low] tokens pay nothing and the [high] others [2αε], for
    [ε = log(low/high)]. *)
Section IndifferentLearner.
Variables (alpha : R) (low high : nat).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis high_some : (0 < high)%nat.
Hypothesis low_more : (high <= low)%nat.
Hypothesis all_tokens : vocab = (low + high)%nat.

Let eps := ln (INR low / INR high).

Definition two_levels (a : nat) : R :=
  (if a <? low then exp (- eps) else exp eps) / INR vocab.

Lemma high_real : 0 < INR high.
Proof. now apply lt_0_INR. Qed.

Lemma low_real : INR high <= INR low.
Proof. now apply le_INR. Qed.

Lemma exp_eps : exp eps = INR low / INR high.
Proof.
  pose proof high_real. pose proof low_real.
  unfold eps. apply exp_ln. apply Rdiv_lt_0_compat; lra.
Qed.

Lemma indifferent_radius : 0 <= eps.
Proof.
  pose proof high_real. pose proof low_real. unfold eps.
  rewrite ln_div by lra. pose proof (ln_mono (INR high) (INR low)). lra.
Qed.

Lemma two_levels_pos : forall a, 0 < two_levels a.
Proof.
  intros a. apply Rdiv_lt_0_compat; [| apply vocab_real]. destruct (a <? low); apply exp_pos.
Qed.

Lemma sum_two_levels : forall (f : nat -> R) x y,
  (forall a, (a < low)%nat -> f a = x) -> (forall a, (low <= a)%nat -> f a = y) ->
  sum (seq 0 vocab) f = INR low * x + INR high * y.
Proof.
  intros f x y on_low on_high. rewrite all_tokens, seq_app, sum_app. cbn [Nat.add].
  rewrite (sum_ext (seq 0 low) f (fun _ => x)), (sum_ext (seq low high) f (fun _ => y)).
  - now rewrite !sum_const, !seq_length.
  - intros a a_in. apply in_seq in a_in. apply on_high. lia.
  - intros a a_in. apply in_seq in a_in. apply on_low. lia.
Qed.

Lemma on_levels : forall {A : Type} (x y : A) a,
  ((a < low)%nat -> (if a <? low then x else y) = x) /\
  ((low <= a)%nat -> (if a <? low then x else y) = y).
Proof. intros A x y a. destruct (Nat.ltb_spec a low); split; auto; lia. Qed.

Lemma vocab_sum : INR vocab = INR low + INR high.
Proof. rewrite all_tokens. apply plus_INR. Qed.

Lemma two_levels_distribution : distribution (seq 0 vocab) two_levels.
Proof.
  split; [intros a _; apply Rlt_le, two_levels_pos |].
  rewrite (sum_two_levels two_levels (exp (- eps) / INR vocab) (exp eps / INR vocab)).
  - rewrite exp_Ropp, exp_eps, vocab_sum. pose proof high_real. pose proof low_real. field. lra.
  - intros a a_low. unfold two_levels. f_equal. now apply on_levels.
  - intros a a_high. unfold two_levels. f_equal. now apply on_levels.
Qed.

Definition indifferent_reward : table unit nat :=
  logs alpha (alpha * eps - alpha * ln (/ INR vocab)) two_levels.

Lemma indifferent_pays : forall m t a,
  indifferent_reward m t a = if a <? low then 0 else 2 * alpha * eps.
Proof.
  intros m t a. unfold indifferent_reward, logs, two_levels, Rdiv.
  destruct (a <? low); rewrite ln_mult, ln_exp by (apply exp_pos || apply uniform_pos); ring.
Qed.

Lemma indifferent_range : forall n s,
  reward_range 0 (2 * alpha * eps) indifferent_reward n s.
Proof.
  intros n s. apply everywhere_all. intros m t a _. rewrite indifferent_pays.
  pose proof indifferent_radius. assert (0 <= alpha * eps) by (apply Rmult_le_pos; lra).
  destruct (a <? low); lra.
Qed.

Theorem rl_expert_attained : forall n s v, gauge v ->
  let expert := soft_policy alpha indifferent_reward in
  log_ratio_ball eps expert uniform n s /\
  policy (always 0) n s /\ optimal_up_to 0 (endogenous alpha uniform v) (always 0) n s /\
  value expert indifferent_reward n s - value (always 0) indifferent_reward n s
  = alpha * INR n * eps * (1 + tanh (eps / 2)).
Proof.
  intros n s v zero expert. pose proof high_real as high_pos. pose proof low_real as low_pos.
  pose proof indifferent_radius as radius.
  split; [| split; [| split]].
  - apply logs_ball; auto using two_levels_distribution, two_levels_pos.
    intros a _. unfold two_levels, Rdiv.
    rewrite ln_mult by ((destruct (a <? low); apply exp_pos) || apply uniform_pos).
    destruct (a <? low); rewrite ln_exp; apply Rabs_le; lra.
  - apply always_policy. lia.
  - apply all_optimal; [exact zero | apply always_policy; lia].
  - unfold expert. unfold indifferent_reward at 1 2.
    rewrite logs_expert_value by auto using two_levels_distribution, two_levels_pos.
    unfold indifferent_reward at 1. unfold logs at 1. rewrite always_value by lia.
    fold (logs alpha (alpha * eps - alpha * ln (/ INR vocab)) two_levels).
    rewrite (sum_two_levels _ 0 (exp eps / INR vocab * (2 * alpha * eps))).
    + pose proof (indifferent_pays 0 tt 0) as none. unfold indifferent_reward, logs in none.
      rewrite none, tanh_exp, exp_eps, vocab_sum.
      replace (0 <? low) with true by (symmetry; apply Nat.ltb_lt; lia).
      field. repeat split; lra.
    + intros a a_low. pose proof (indifferent_pays 0 tt a) as pays.
      unfold indifferent_reward, logs in pays. rewrite pays.
      rewrite (proj1 (on_levels 0 (2 * alpha * eps) a) a_low). ring.
    + intros a a_high. pose proof (indifferent_pays 0 tt a) as pays.
      unfold indifferent_reward, logs in pays. rewrite pays. unfold two_levels.
      rewrite (proj2 (on_levels 0 (2 * alpha * eps) a) a_high).
      now rewrite (proj2 (on_levels (exp (- eps)) (exp eps) a) a_high).
Qed.

(** So is rl-length: each step is a choice. *)
Theorem rl_length_attained : forall n s v, gauge v ->
  let expert := soft_policy alpha indifferent_reward in
  log_ratio_ball eps expert uniform n s /\
  policy (always 0) n s /\ optimal_up_to 0 (endogenous alpha uniform v) (always 0) n s /\
  value expert indifferent_reward n s - value (always 0) indifferent_reward n s
  = alpha * eps * (value expert choices n s * tanh (eps / 2) + value (always 0) choices n s).
Proof.
  intros n s v zero expert. destruct (rl_expert_attained n s v zero) as (ball & pol & best & gap).
  split; [exact ball | split; [exact pol | split; [exact best |]]].
  unfold expert. rewrite gap, !value_choices; [ring | | exact pol | | apply soft_policy_policy];
    apply everywhere_all; intros m t; cbn [acts one_state]; rewrite seq_length; lia.
Qed.

(** theorem-2-rl is attained, for rewards of the width [R = α(1 + tanh(ε/2))]. *)
Theorem theorem_2_rl_attained : forall n s v, gauge v -> 2 * eps <= 1 + tanh (eps / 2) ->
  let expert := soft_policy alpha indifferent_reward in
  let width := alpha * (1 + tanh (eps / 2)) in
  reward_range 0 width indifferent_reward n s /\
  log_ratio_ball eps expert uniform n s /\
  policy (always 0) n s /\ optimal_up_to 0 (endogenous alpha uniform v) (always 0) n s /\
  value expert indifferent_reward n s - value (always 0) indifferent_reward n s
  = width * (INR n * eps).
Proof.
  intros n s v zero narrow expert width.
  destruct (rl_expert_attained n s v zero) as (ball & pol & best & gap).
  split; [| split; [exact ball | split; [exact pol | split; [exact best |]]]].
  - pose proof (indifferent_range n s) as range. revert range. apply everywhere_imp.
    intros m t range a a_in. specialize (range a a_in).
    apply (Rmult_le_compat_l alpha) in narrow; [unfold width; lra | lra].
  - unfold expert. rewrite gap. unfold width. ring.
Qed.

End IndifferentLearner.
End OneState.

(** theorem-2-rl with the constant one is false where [α(1 + tanh(ε/2)) > R]: five tokens, rewards
    in [[0, 1]], [α = 1], [ε = log(3/2)], and RL loses [6/5 H ε] at every horizon. *)
Theorem theorem_2_rl_needs_its_condition :
  let D := one_state 5 (Nat.lt_0_succ 4) in
  let eps := ln (INR 3 / INR 2) in
  let r := indifferent_reward 5 1 3 2 in
  let expert := soft_policy 1 r in
  0 < eps /\ forall n, (0 < n)%nat ->
  reward_range 0 1 r n tt /\ log_ratio_ball eps expert (uniform 5) n tt /\
  policy (always 0) n tt /\
  optimal_up_to 0 (endogenous 1 (uniform 5) (fun _ _ => 0)) (always 0) n tt /\
  value expert r n tt - value (always 0) r n tt = 6 / 5 * INR n * eps /\
  INR n * eps < value expert r n tt - value (always 0) r n tt.
Proof.
  cbv zeta. set (eps := ln (INR 3 / INR 2)).
  assert (INR 3 / INR 2 = 3 / 2) as odds by (simpl; lra).
  assert (0 < eps <= / 2) as size.
  { unfold eps. rewrite odds. split.
    - rewrite <- ln_1. apply ln_increasing; lra.
    - pose proof (ln_le_sub_1 (3 / 2)). lra. }
  assert (1 + tanh (eps / 2) = 6 / 5) as constant.
  { rewrite tanh_exp. unfold eps. rewrite exp_ln by lra. rewrite odds. field. }
  split; [apply size |]. intros n n_pos.
  destruct (rl_expert_attained 5 (Nat.lt_0_succ 4) 1 3 2 Rlt_0_1 ltac:(lia) ltac:(lia) eq_refl
              n tt (fun _ _ => 0) (fun _ => eq_refl)) as (ball & pol & best & gap).
  fold eps in gap. rewrite constant in gap.
  split; [| split; [exact ball | split; [exact pol | split; [exact best |]]]].
  - pose proof (indifferent_range 5 (Nat.lt_0_succ 4) 1 3 2 Rlt_0_1 ltac:(lia) ltac:(lia) n tt)
      as range. fold eps in range. revert range.
    apply everywhere_imp. intros m t range a a_in. specialize (range a a_in). lra.
  - assert (0 < INR n) by now apply lt_0_INR.
    assert (0 < INR n * eps) by (apply Rmult_lt_0_compat; lra).
    rewrite gap. split; lra.
Qed.
