(** The paper's setting as the instance in which each row is restated.

    A state is a token prefix, a token is a number below [vocab], the transition appends it, and
    prompts [s₁ ~ ρ] have [horizon] tokens to come. Values, divergences and bounds are averages
    over the prompts; rows on responses hold at each prompt. *)

From Coq Require Import Reals List FinFun Permutation Lra Lia.
From Endorm Require Import Definitions.
From Endorm Require SoftValues Distances Preferences Cloning Composition ReinforcementLearning
  Anchored.
From Endorm Require Lengths OneResponse Moments.
From Endorm Require Import Values.
Import ListNotations.
Open Scope R_scope.

Section Paper.

(** ** Prefixes, words and prompts *)

Variable vocab : nat.
Hypothesis vocab_pos : (0 < vocab)%nat.

Lemma tokens_nonempty : seq 0 vocab <> [].
Proof. destruct vocab; [lia | discriminate]. Qed.

#[local] Instance prefix_tree : Dynamics (list nat) nat := {
  next := fun prefix a => prefix ++ [a];
  acts := fun _ => seq 0 vocab;
  acts_nonempty := fun _ => tokens_nonempty
}.

(** The responses are the words of [n] tokens below [vocab] ... *)
Theorem responses_are_words : forall n prefix tau,
  In tau (responses n prefix) <-> length tau = n /\ Forall (fun a => (a < vocab)%nat) tau.
Proof.
  intros n. induction n as [| n IH]; intros prefix tau.
  - split.
    + intros [<- | []]. auto.
    + intros [empty _]. left. symmetry. now apply length_zero_iff_nil.
  - destruct tau as [| a rest].
    + split; [| intros [wrong _]; discriminate].
      intros tau_in. now apply responses_length in tau_in.
    + rewrite in_responses_cons, IH. cbn [acts prefix_tree length].
      rewrite in_seq, Forall_cons_iff. split; [intros (? & ? & ?) | intros (? & ? & ?)];
        repeat split; auto; lia.
Qed.

(** ... each once. *)
Theorem responses_once : forall n prefix, NoDup (responses n prefix).
Proof.
  assert (forall l l' : list (list nat), NoDup l -> NoDup l' ->
    (forall tau, In tau l -> ~ In tau l') -> NoDup (l ++ l')) as disjoint.
  { intros l l' l_once l'_once apart.
    induction l_once as [| tau l new l_once IH]; [exact l'_once |]. cbn [app]. constructor.
    - rewrite in_app_iff. intros [old | old]; [now apply new | now apply (apart tau); [left |]].
    - apply IH. intros other other_in. apply apart. now right. }
  intros n. induction n as [| n IH]; intros prefix; cbn [responses acts prefix_tree].
  - constructor; [intros [] | constructor].
  - generalize (seq_NoDup vocab 0). generalize (seq 0 vocab).
    intros l distinct. induction distinct as [| a l new distinct IHl]; [constructor |].
    cbn [flat_map]. apply disjoint; [| exact IHl |].
    + apply Injective_map_NoDup; [| apply IH]. intros tau tau' same. now inversion same.
    + intros tau here there. apply in_map_iff in here as (rest & <- & _).
      apply in_flat_map in there as (b & b_in & found).
      apply in_map_iff in found as (rest' & same & _). inversion same; subst. contradiction.
Qed.

Variable horizon : nat.
Variables (prompts : list (list nat)) (rho : list nat -> R).
Hypothesis rho_law : distribution prompts rho.

(** [E_{s₁ ~ ρ}]. *)
Definition average (f : list nat -> R) : R := ∑ x ∈ prompts, rho x * f x.

(** A response to a prompt: a word of [horizon] tokens. *)
Definition word (tau : list nat) : Prop :=
  length tau = horizon /\ Forall (fun a => (a < vocab)%nat) tau.

(** At each prompt that can occur. *)
Definition at_prompts (P : list nat -> Prop) : Prop := forall x, In x prompts -> P x.

Lemma word_is_response : forall x tau, word tau -> In tau (responses horizon x).
Proof. intros x tau. apply responses_are_words. Qed.

Lemma average_le : forall f g, at_prompts (fun x => f x <= g x) -> average f <= average g.
Proof.
  intros f g below. apply sum_le. intros x x_in.
  apply Rmult_le_compat_l; [now apply rho_law | now apply below].
Qed.

Lemma average_ext : forall f g, at_prompts (fun x => f x = g x) -> average f = average g.
Proof. intros f g same. apply sum_ext. intros x x_in. now rewrite same. Qed.

Lemma average_const : forall c, average (fun _ => c) = c.
Proof. intros c. unfold average. rewrite sum_scale_r. destruct rho_law as [_ ->]. ring. Qed.

Lemma average_plus : forall f g, average (fun x => f x + g x) = average f + average g.
Proof. intros f g. unfold average. rewrite <- sum_plus. apply sum_ext. intros. ring. Qed.

Lemma average_minus : forall f g, average (fun x => f x - g x) = average f - average g.
Proof. intros f g. unfold average. rewrite <- sum_minus. apply sum_ext. intros. ring. Qed.

Lemma average_scale : forall c f, average (fun x => c * f x) = c * average f.
Proof. intros c f. unfold average. rewrite <- sum_scale. apply sum_ext. intros. ring. Qed.

(** An average of differences that are at most [c] each. *)
Lemma average_difference : forall f g c,
  at_prompts (fun x => f x - g x <= c) -> average f - average g <= c.
Proof.
  intros f g c below. rewrite <- average_minus, <- (average_const c). now apply average_le.
Qed.

(** ** The true reward, the expert, the policy and the reward inside it *)

Variables (alpha eps : R) (r_star p_hat : table (list nat) nat) (v_hat : nat -> list nat -> R).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis p_policy : at_prompts (policy p_hat horizon).
Hypothesis gauge_v : gauge v_hat.

Let expert : table (list nat) nat := soft_policy alpha r_star.
Let r_hat : table (list nat) nat := endogenous alpha p_hat v_hat.

(** Otherwise the tokens that [π̂] forbids are left out of the tree, as in Support.v. *)
Definition forbids_nothing : Prop := at_prompts (positive p_hat horizon).

(** [max |log π_E − log π̂| ≤ ε]. *)
Definition in_ball : Prop := at_prompts (log_ratio_ball eps expert p_hat horizon).

(** Rewards [r*] lie in [[lo, lo + width]]. *)
Definition in_range (lo width : R) : Prop := at_prompts (reward_range lo width r_star horizon).

(** [V^π_r], averaged over the prompts. *)
Definition plain (pi r : table (list nat) nat) : R := average (value pi r horizon).

Definition clone_gap : R := plain expert r_star - plain p_hat r_star.

Lemma expert_policy : at_prompts (policy expert horizon).
Proof. intros x _. apply SoftValues.soft_policy_policy. Qed.

Lemma expert_positive : at_prompts (positive expert horizon).
Proof. intros x _. apply SoftValues.soft_policy_positive. Qed.

Lemma ball_forbids_nothing : in_ball -> forbids_nothing.
Proof. intros ball x x_in. exact (ball_positive_r _ _ _ _ _ (ball x x_in)). Qed.

(** *** The reward inside a policy *)

Theorem soft_value :
  average (regularised alpha expert r_star horizon) = average (soft_values alpha r_star horizon).
Proof. apply average_ext. intros x _. now apply SoftValues.soft_value. Qed.

Theorem telescoping : forall x tau, word tau ->
  total r_star horizon x tau =
  alpha * ln (prob expert horizon x tau) + soft_values alpha r_star horizon x.
Proof. intros x tau is_word. now apply SoftValues.telescoping, word_is_response. Qed.

Theorem endogenous_telescoping : forall x tau,
  In x prompts -> word tau -> 0 < prob p_hat horizon x tau ->
  total r_hat horizon x tau = alpha * ln (prob p_hat horizon x tau) + v_hat horizon x.
Proof.
  intros x tau x_in is_word given.
  now apply SoftValues.endogenous_telescoping; auto using word_is_response.
Qed.

Theorem soft_rl_fixed_point : forbids_nothing -> at_prompts (fun x =>
  forall q, policy q horizon x ->
  (forall q', policy q' horizon x ->
     regularised alpha q' r_hat horizon x <= regularised alpha q r_hat horizon x) <->
  (forall tau, word tau -> prob q horizon x tau = prob p_hat horizon x tau)).
Proof.
  intros pos x x_in q q_pol.
  destruct (SoftValues.soft_rl_fixed_point alpha alpha_pos p_hat v_hat horizon x
              (p_policy x x_in) (pos x x_in) gauge_v q q_pol) as [only attained].
  split.
  - intros best tau is_word. apply only; [exact best | now apply word_is_response].
  - intros same. apply attained. intros tau tau_in.
    apply same. now apply responses_are_words in tau_in.
Qed.

(** *** Inverse RL *)

Definition irl_dual (data : table (list nat) nat) : R :=
  plain data r_hat - average (soft_values alpha r_hat horizon).

Theorem irl_saddle : forbids_nothing ->
  irl_dual p_hat = - (alpha * average (entropy p_hat horizon)).
Proof.
  intros pos. unfold irl_dual, plain. rewrite <- average_minus, <- average_scale.
  replace (- average _) with (average (fun x => - (alpha * entropy p_hat horizon x))).
  - apply average_ext. intros x x_in. now apply SoftValues.irl_saddle; auto.
  - rewrite (average_ext _ (fun x => -1 * (alpha * entropy p_hat horizon x))), average_scale
      by (intros x _; ring). ring.
Qed.

Theorem irl_gap : forbids_nothing ->
  - (alpha * average (entropy expert horizon)) - irl_dual expert =
  alpha * average (kl expert p_hat horizon).
Proof.
  intros pos. unfold irl_dual, plain.
  rewrite (average_ext (kl expert p_hat horizon) (fun x => / alpha *
    (- (alpha * entropy expert horizon x) - SoftValues.irl_dual alpha expert r_hat horizon x))).
  - rewrite average_scale, average_minus. unfold SoftValues.irl_dual. rewrite average_minus.
    rewrite (average_ext (fun x => - (alpha * _)) (fun x => - alpha * entropy expert horizon x)),
      average_scale by (intros x _; ring). field. lra.
  - intros x x_in. unfold r_hat.
    rewrite SoftValues.irl_gap by auto using expert_policy. field. lra.
Qed.

Theorem inverse_soft_q : forbids_nothing ->
  let q_hat := soft_q alpha r_hat in
  plain expert (fun m t a => q_hat m t a - soft_maximum alpha (acts t) (q_hat m t)) =
  alpha * average (fun x => expect expert horizon x (fun tau => ln (prob p_hat horizon x tau))).
Proof.
  intros pos q_hat. rewrite <- average_scale. apply average_ext. intros x x_in.
  apply SoftValues.inverse_soft_q; auto using expert_policy.
Qed.

(** *** Theorem 1: preferences *)

Theorem theorem_1 : in_ball -> forall x tau tau', In x prompts -> word tau -> word tau' ->
  preference_tv r_star r_hat horizon x tau tau' <= alpha * INR horizon * eps / 2.
Proof.
  intros ball x tau tau' x_in is_word is_word'.
  apply Preferences.theorem_1; auto using word_is_response.
Qed.

Theorem theorem_1_sharp : in_ball -> forall x shared rest rest',
  In x prompts -> word (shared ++ rest) -> word (shared ++ rest') ->
  preference_tv r_star r_hat horizon x (shared ++ rest) (shared ++ rest')
  <= tanh (alpha * INR (horizon - length shared) * eps / 2).
Proof.
  intros ball x shared rest rest' x_in is_word is_word'.
  apply Preferences.theorem_1_sharp; auto using word_is_response.
Qed.

Theorem preference_length : in_ball -> forall x shared rest rest',
  In x prompts -> word (shared ++ rest) -> word (shared ++ rest') ->
  let t := Lengths.choices_after horizon x shared in
  preference_tv r_star r_hat horizon x (shared ++ rest) (shared ++ rest')
  <= tanh (alpha * eps * (t rest + t rest') / 4).
Proof.
  intros ball x shared rest rest' x_in is_word is_word' t.
  apply Lengths.preference_length; auto using word_is_response.
Qed.

Theorem preference_average : forall x pairs weight, In x prompts -> distribution pairs weight ->
  (forall pair, In pair pairs -> (word (fst pair) /\ 0 < prob p_hat horizon x (fst pair)) /\
                                 (word (snd pair) /\ 0 < prob p_hat horizon x (snd pair))) ->
  let d := log_ratio expert p_hat horizon x in
  (∑ pair ∈ pairs, weight pair * preference_tv r_star r_hat horizon x (fst pair) (snd pair)) <=
  ∑ pair ∈ pairs, weight pair * tanh (alpha * Rabs (d (fst pair) - d (snd pair)) / 4).
Proof.
  intros x pairs weight x_in law given d. apply Preferences.preference_average; auto.
  intros pair pair_in. destruct (given pair pair_in) as [[? ?] [? ?]].
  auto using word_is_response.
Qed.

(** *** Theorem 2: cloning *)

Section Cloning.
Variables lo width : R.

Theorem theorem_2_clone : in_ball -> in_range lo width ->
  clone_gap <= width * (INR horizon ^ 2 * eps).
Proof.
  intros ball range. apply average_difference. intros x x_in.
  eapply Cloning.theorem_2_clone; eauto using expert_policy.
Qed.

Theorem clone_elementary : in_ball -> in_range lo width ->
  clone_gap <= width * (tanh (eps / 2) * (INR horizon * (INR horizon + 1) / 2)).
Proof.
  intros ball range. apply average_difference. intros x x_in.
  eapply Cloning.clone_elementary; eauto using expert_policy.
Qed.

Theorem clone_three_halves : in_ball -> in_range lo width ->
  clone_gap <= width * (INR horizon * sqrt (INR horizon) * eps / 2).
Proof.
  intros ball range. apply average_difference. intros x x_in.
  eapply Cloning.clone_three_halves; eauto using expert_policy.
Qed.

Theorem clone_stepwise : in_ball -> in_range lo width ->
  clone_gap <= width * ∑ h ∈ seq 1 horizon, Composition.tv_rr h eps.
Proof.
  intros ball range. apply average_difference. intros x x_in.
  eapply Cloning.clone_stepwise; eauto using expert_policy.
Qed.

Theorem clone_composition : in_ball -> in_range lo width ->
  clone_gap <= width * INR horizon * Composition.tv_rr horizon eps.
Proof.
  intros ball range. apply average_difference. intros x x_in.
  eapply Cloning.clone_composition; eauto using expert_policy.
Qed.

End Cloning.

Theorem clone_entropy : in_ball ->
  clone_gap <= alpha * ln (INR vocab) *
    ((∑ h ∈ seq 0 horizon, Composition.tv_rr h eps) + INR horizon * (exp eps - 1)).
Proof.
  intros ball. apply average_difference. intros x x_in.
  apply Cloning.clone_entropy; auto.
  apply everywhere_all. intros m t. cbn [acts prefix_tree]. now rewrite seq_length.
Qed.

Theorem clone_tv :
  clone_gap <=
  average (fun x => return_range r_star horizon x * tv expert p_hat horizon x).
Proof.
  unfold clone_gap, plain. rewrite <- average_minus. apply average_le. intros x x_in.
  apply Cloning.clone_tv; auto using expert_policy.
Qed.

Theorem clone_hellinger :
  clone_gap <= average (fun x => return_range r_star horizon x *
    sqrt (1 - bhattacharyya expert p_hat horizon x * bhattacharyya expert p_hat horizon x)).
Proof.
  unfold clone_gap, plain. rewrite <- average_minus. apply average_le. intros x x_in.
  apply Cloning.clone_hellinger; auto using expert_policy.
Qed.

Theorem clone_pinsker :
  clone_gap <= average (fun x => return_range r_star horizon x *
    Rmin (sqrt (kl p_hat expert horizon x / 2)) 1).
Proof.
  unfold clone_gap, plain. rewrite <- average_minus. apply average_le. intros x x_in.
  apply Cloning.clone_pinsker; auto using expert_policy, expert_positive.
Qed.

Theorem clone_one_response :
  let d2 := OneResponse.squared_distance expert p_hat horizon in
  let eta := OneResponse.missing expert horizon in
  clone_gap <= average (fun x => return_range r_star horizon x *
    Rmin (d2 x + 2 * sqrt (eta x * d2 x)) 1).
Proof.
  unfold clone_gap, plain. rewrite <- average_minus. apply average_le. intros x x_in.
  apply OneResponse.clone_one_response; auto using expert_policy.
Qed.

Theorem clone_variance : forall c : list nat -> R,
  let root pi x tau := sqrt (prob pi horizon x tau) in
  clone_gap <= average (fun x =>
    sqrt (∑ tau ∈ responses horizon x, (root expert x tau - root p_hat x tau) ^ 2) *
    sqrt (∑ tau ∈ responses horizon x,
      (root expert x tau + root p_hat x tau) ^ 2 * (total r_star horizon x tau - c x) ^ 2)).
Proof.
  intros c. unfold clone_gap, plain. rewrite <- average_minus. apply average_le. intros x x_in.
  apply Moments.clone_variance; auto using expert_policy.
Qed.

Theorem clone_le_cam : forall c : list nat -> R,
  clone_gap <= average (fun x => sqrt (Moments.le_cam expert p_hat horizon x) *
    sqrt (∑ tau ∈ responses horizon x,
      (prob expert horizon x tau + prob p_hat horizon x tau)
      * (total r_star horizon x tau - c x) ^ 2)).
Proof.
  intros c. unfold clone_gap, plain. rewrite <- average_minus. apply average_le. intros x x_in.
  apply Moments.clone_le_cam; auto using expert_policy.
Qed.

(** *** The policy of one response for each prompt *)

Section Plays.

Variable tau : list nat -> list nat.
Hypothesis tau_word : at_prompts (fun x => word (tau x)).

(** With [n] steps left the prompt is what the prefix has before its last [horizon - n] tokens. *)
Definition plays : table (list nat) nat := fun n prefix a =>
  let prompt := firstn (length prefix - (horizon - n)) prefix in
  if a =? nth (horizon - n) (tau prompt) 0%nat then 1 else 0.

Lemma plays_here : forall x (written : list nat) m a, (length written + m = horizon)%nat ->
  plays m (x ++ written) a = if a =? nth (length written) (tau x) 0%nat then 1 else 0.
Proof.
  intros x written m a steps. unfold plays.
  replace (horizon - m)%nat with (length written) by lia.
  rewrite app_length, Nat.add_sub, firstn_app, Nat.sub_diag, firstn_all, app_nil_r. reflexivity.
Qed.

Lemma played_token : forall x (written : list nat) m,
  In x prompts -> (length written + S m = horizon)%nat ->
  (nth (length written) (tau x) 0 < vocab)%nat /\
  skipn (length written) (tau x) =
  nth (length written) (tau x) 0%nat :: skipn (S (length written)) (tau x).
Proof.
  intros x written m x_in steps. destruct (tau_word x x_in) as [size small].
  assert (length written < length (tau x))%nat as inside by lia.
  split.
  - rewrite Forall_forall in small. apply small. now apply nth_In.
  - revert inside. generalize (length written) (tau x). clear.
    intros k l. revert k. induction l as [| a l IH]; intros [| k] inside; cbn in *; try lia; auto.
    apply IH. lia.
Qed.

Lemma plays_from : forall x m (written : list nat) r,
  In x prompts -> (length written + m = horizon)%nat ->
  policy plays m (x ++ written) /\
  value plays r m (x ++ written) = total r m (x ++ written) (skipn (length written) (tau x)).
Proof.
  intros x m. induction m as [| m IH]; intros written r x_in steps.
  - rewrite value_0. split; [exact I | reflexivity].
  - destruct (played_token x written m x_in steps) as [small parts].
    assert (policy plays (S m) (x ++ written)) as pol.
    { split.
      - split; [intros a _; rewrite plays_here by exact steps; destruct Nat.eqb; lra |].
        rewrite (sum_ext _ _ (fun a =>
          (if a =? nth (length written) (tau x) 0%nat then 1 else 0) * 1))
          by (intros a _; rewrite plays_here by exact steps; ring).
        now apply (sum_at vocab _ (fun _ => 1)).
      - intros a _. cbn [next prefix_tree]. rewrite <- app_assoc.
        apply (IH (written ++ [a]) r x_in). rewrite app_length. simpl. lia. }
    split; [exact pol |]. rewrite value_S by exact pol. cbn [acts prefix_tree].
    rewrite (sum_ext _ _ (fun a =>
      (if a =? nth (length written) (tau x) 0%nat then 1 else 0)
      * (r (S m) (x ++ written) a + value plays r m (next (x ++ written) a))))
      by (intros a _; now rewrite plays_here).
    rewrite (sum_at vocab _ (fun a => r (S m) (x ++ written) a
               + value plays r m (next (x ++ written) a))) by exact small.
    rewrite parts. cbn [total next prefix_tree]. f_equal. rewrite <- app_assoc.
    destruct (IH (written ++ [nth (length written) (tau x) 0%nat]) r x_in) as [_ ->];
      rewrite app_length; cbn [length]; [lia |].
    now rewrite Nat.add_1_r.
Qed.

Lemma plays_policy : at_prompts (policy plays horizon).
Proof.
  intros x x_in. rewrite <- (app_nil_r x). now apply (plays_from x horizon [] r_star).
Qed.

(** It is worth the return of its responses. *)
Theorem plays_value : forall r, plain plays r = average (fun x => total r horizon x (tau x)).
Proof.
  intros r. apply average_ext. intros x x_in. rewrite <- (app_nil_r x) at 1 2.
  now apply (plays_from x horizon [] r).
Qed.

(** Playing a response of [π̂] that is within [shortfall] nats of the most probable one maximises
    [r̂] up to [α] times that. *)
Theorem most_probable_is_optimal : forall shortfall, forbids_nothing ->
  (forall x other, In x prompts -> word other ->
     ln (prob p_hat horizon x other) <= ln (prob p_hat horizon x (tau x)) + shortfall x) ->
  forall q, at_prompts (policy q horizon) ->
  plain q r_hat <= plain plays r_hat + alpha * average shortfall.
Proof.
  intros shortfall pos most q q_policy.
  rewrite plays_value, <- average_scale, <- average_plus. apply average_le. intros x x_in.
  eapply Rle_trans; [apply value_le_greatest; auto |].
  destruct (greatest_in (responses horizon x) (total r_hat horizon x)
              (responses_nonempty horizon x)) as (other & other_in & ->).
  assert (In (tau x) (responses horizon x)) as tau_in by now apply word_is_response, tau_word.
  unfold r_hat. rewrite !SoftValues.endogenous_telescoping by auto using prob_pos.
  assert (word other) as is_word by now apply responses_are_words in other_in.
  pose proof (Rmult_le_compat_l alpha _ _ (Rlt_le _ _ alpha_pos) (most x other x_in is_word)). lra.
Qed.

End Plays.

(** *** Theorem 2: RL on the endogenous reward *)

Section RL.

(** [π_RL ∈ argmax_π V^π_{r̂}], up to [delta]. *)
Variables (delta : R) (rl : table (list nat) nat).
Hypothesis rl_policy : at_prompts (policy rl horizon).
Hypothesis rl_optimal : forall q, at_prompts (policy q horizon) ->
  plain q r_hat <= plain rl r_hat + delta.

Let d (x : list nat) : list nat -> R := log_ratio expert p_hat horizon x.

Lemma rl_gap : forall q, forbids_nothing -> at_prompts (policy q horizon) ->
  plain q r_star - plain rl r_star <=
  alpha * (average (fun x => expect q horizon x (d x))
           - average (fun x => expect rl horizon x (d x))) + delta.
Proof.
  intros q pos q_policy. pose proof (rl_optimal q q_policy).
  assert (plain q r_star - plain rl r_star - (plain q r_hat - plain rl r_hat) =
    alpha * (average (fun x => expect q horizon x (d x))
             - average (fun x => expect rl horizon x (d x)))) as swap; [| lra].
  unfold plain. rewrite <- !average_minus, <- average_scale.
  apply average_ext. intros x x_in.
  rewrite (ReinforcementLearning.true_and_endogenous alpha r_star p_hat v_hat horizon x) by auto.
  fold expert r_hat. unfold d. ring.
Qed.

Theorem rl_average : forbids_nothing ->
  plain expert r_star - plain rl r_star <=
  alpha * average (kl expert p_hat horizon)
  - alpha * average (fun x => expect rl horizon x (d x)) + delta.
Proof.
  intros pos. pose proof (rl_gap expert pos expert_policy) as gap.
  change (fun x => expect expert horizon x (d x)) with (kl expert p_hat horizon) in gap. lra.
Qed.

Lemma average_log_ratio : in_ball -> forall q, at_prompts (policy q horizon) ->
  - (INR horizon * eps) <= average (fun x => expect q horizon x (d x)) <= INR horizon * eps.
Proof.
  intros ball q q_policy.
  split; [rewrite <- (average_const (- _)) | rewrite <- (average_const (INR horizon * eps))];
    apply average_le; intros x x_in;
    now apply (ReinforcementLearning.expect_log_ratio alpha eps r_star p_hat); auto.
Qed.

Theorem rl_any_comparator : in_ball -> forall q, at_prompts (policy q horizon) ->
  plain q r_star - plain rl r_star <= 2 * alpha * INR horizon * eps + delta.
Proof.
  intros ball q q_policy.
  eapply Rle_trans; [apply rl_gap; auto using ball_forbids_nothing |].
  pose proof (average_log_ratio ball q q_policy) as [_ above].
  pose proof (average_log_ratio ball rl rl_policy) as [below _].
  assert (alpha * (average (fun x => expect q horizon x (d x))
                   - average (fun x => expect rl horizon x (d x)))
          <= alpha * (2 * (INR horizon * eps))) by (apply Rmult_le_compat_l; lra). lra.
Qed.

Theorem rl_expert : in_ball ->
  plain expert r_star - plain rl r_star <=
  alpha * INR horizon * eps * (1 + tanh (eps / 2)) + delta.
Proof.
  intros ball. eapply Rle_trans; [apply rl_average; auto using ball_forbids_nothing |].
  pose proof (average_log_ratio ball rl rl_policy) as [below _].
  assert (average (kl expert p_hat horizon) <= INR horizon * eps * tanh (eps / 2)) as divergence.
  { rewrite <- (average_const (INR horizon * eps * tanh (eps / 2))). apply average_le.
    intros x x_in. apply Distances.kl_ball; auto using expert_policy, ball_sym. }
  apply (Rmult_le_compat_l alpha) in divergence; [| lra].
  apply (Rmult_le_compat_l alpha) in below; lra.
Qed.

Theorem rl_length : in_ball ->
  plain expert r_star - plain rl r_star <=
  alpha * eps * (plain expert Lengths.choices * tanh (eps / 2) + plain rl Lengths.choices) + delta.
Proof.
  intros ball. eapply Rle_trans; [apply rl_average; auto using ball_forbids_nothing |].
  assert (- (eps * plain rl Lengths.choices) <= average (fun x => expect rl horizon x (d x)))
    as below.
  { replace (- (eps * plain rl Lengths.choices)) with (- eps * plain rl Lengths.choices) by ring.
    unfold plain. rewrite <- average_scale. apply average_le. intros x x_in.
    apply Lengths.expect_log_ratio_choices; auto using expert_policy. }
  assert (average (kl expert p_hat horizon)
          <= eps * tanh (eps / 2) * plain expert Lengths.choices) as divergence.
  { unfold plain. rewrite <- average_scale. apply average_le. intros x x_in.
    eapply Rle_trans; [apply Lengths.kl_length; auto using expert_policy, ball_sym |].
    right. ring. }
  apply (Rmult_le_compat_l alpha) in divergence; [| lra].
  apply (Rmult_le_compat_l alpha) in below; lra.
Qed.

Theorem theorem_2_rl : forall width, in_ball -> alpha * (1 + tanh (eps / 2)) <= width ->
  plain expert r_star - plain rl r_star <= width * (INR horizon * eps) + delta.
Proof.
  intros width ball wide. eapply Rle_trans; [now apply rl_expert |].
  assert (0 <= INR horizon * eps) as nonneg.
  { pose proof (average_log_ratio ball rl rl_policy). lra. }
  apply (Rmult_le_compat_r (INR horizon * eps)) in wide; lra.
Qed.

End RL.

(** *** RL with a KL anchor, at [β = α] *)

Let anchored : table (list nat) nat := kl_optimal alpha r_hat p_hat.

(** [π_{β=α}] is the maximiser of [V^π_{r̂} − α KL(π‖π̂)]. *)
Theorem anchored_optimum : forbids_nothing -> forall q, at_prompts (policy q horizon) ->
  plain q r_hat - alpha * average (kl q p_hat horizon)
  <= plain anchored r_hat - alpha * average (kl anchored p_hat horizon).
Proof.
  intros pos q q_policy. unfold plain. rewrite <- !average_scale, <- !average_minus.
  apply average_le. intros x x_in. now apply Anchored.anchored_optimum; auto.
Qed.

Theorem anchored_two_ways : forbids_nothing -> forall x tau, In x prompts -> word tau ->
  prob anchored horizon x tau = prob (power_policy 2 p_hat) horizon x tau.
Proof.
  intros pos x tau x_in is_word. apply Anchored.anchored_two_ways; auto using word_is_response.
Qed.

Theorem rl_anchored : in_ball ->
  plain expert r_star - plain anchored r_star <=
  alpha * (INR horizon * eps + 2 * average (kl expert p_hat horizon)).
Proof.
  intros ball. unfold plain. rewrite <- average_minus, <- average_scale.
  rewrite <- (average_const (INR horizon * eps)), <- average_plus, <- average_scale.
  apply average_le. intros x x_in.
  apply Anchored.rl_anchored; auto using ball_forbids_nothing.
  now apply ball_forbids_nothing.
Qed.

Theorem rl_anchored_renyi : forbids_nothing ->
  plain expert r_star - plain anchored r_star <=
  alpha * (2 * average (kl expert p_hat horizon) + average (renyi 2 p_hat expert horizon)).
Proof.
  intros pos. unfold plain.
  rewrite <- average_minus, <- average_scale, <- average_plus, <- average_scale.
  apply average_le. intros x x_in. now apply Anchored.rl_anchored_renyi; auto.
Qed.

Theorem rl_anchored_sharp : in_ball ->
  plain expert r_star - plain anchored r_star <=
  alpha * INR horizon * (2 * eps * tanh (eps / 2) + ln (2 * cosh eps - 1)).
Proof.
  intros ball. apply average_difference. intros x x_in.
  apply Anchored.rl_anchored_sharp; auto using ball_forbids_nothing.
  now apply ball_forbids_nothing.
Qed.

(** *** Distances between the policies *)

Theorem regularised_equality :
  average (regularised alpha expert r_star horizon)
  - average (regularised alpha p_hat r_star horizon)
  = alpha * average (kl p_hat expert horizon).
Proof.
  rewrite <- average_minus, <- average_scale. apply average_ext. intros x x_in.
  apply Distances.regularised_equality; auto.
Qed.

Theorem kl_ball : in_ball ->
  average (kl p_hat expert horizon) <= INR horizon * eps * tanh (eps / 2).
Proof.
  intros ball. rewrite <- (average_const (INR horizon * eps * tanh (eps / 2))).
  apply average_le. intros x x_in.
  apply Distances.kl_ball; auto using expert_policy.
Qed.

Theorem kl_length : in_ball ->
  average (kl p_hat expert horizon) <= plain p_hat Lengths.choices * eps * tanh (eps / 2).
Proof.
  intros ball.
  replace (plain p_hat Lengths.choices * eps * tanh (eps / 2))
    with (eps * tanh (eps / 2) * plain p_hat Lengths.choices) by ring.
  unfold plain. rewrite <- average_scale. apply average_le. intros x x_in.
  eapply Rle_trans; [apply Lengths.kl_length; auto using expert_policy |]. right. ring.
Qed.

Theorem coverage : forbids_nothing -> forall ratio, 1 < ratio ->
  average (Moments.coverage_profile ratio expert p_hat horizon)
  <= average (kl expert p_hat horizon) / (ln ratio - (ratio - 1) / ratio).
Proof.
  intros pos ratio ratio_gt. unfold Rdiv at 1. rewrite Rmult_comm, <- average_scale.
  apply average_le. intros x x_in. rewrite Rmult_comm.
  apply Moments.coverage; auto using expert_policy.
Qed.

Theorem best_of_n : forall draws ranked, (0 < draws)%nat ->
  at_prompts (fun x => Permutation (ranked x) (responses horizon x)) ->
  average (fun x => Moments.best_of_kl draws (prob p_hat horizon x) 0 (ranked x))
  <= ln (INR draws) - (INR draws - 1) / INR draws.
Proof.
  intros draws ranked draws_pos every.
  rewrite <- (average_const (ln (INR draws) - (INR draws - 1) / INR draws)).
  apply average_le. intros x x_in. apply Moments.best_of_n; auto.
Qed.

Theorem hellinger_ball : in_ball ->
  average (fun x => 1 - bhattacharyya expert p_hat horizon x) <= 1 - / cosh (eps / 2) ^ horizon.
Proof.
  intros ball. rewrite <- (average_const (1 - / cosh (eps / 2) ^ horizon)).
  apply average_le. intros x x_in.
  apply Moments.hellinger_ball; auto using expert_policy.
Qed.

Theorem tv_composition : 0 <= eps -> in_ball ->
  average (tv expert p_hat horizon) <= Composition.tv_rr horizon eps.
Proof.
  intros eps_nonneg ball. rewrite <- (average_const (Composition.tv_rr horizon eps)).
  apply average_le. intros x x_in.
  apply Cloning.tv_composition; auto using expert_policy.
Qed.

End Paper.
