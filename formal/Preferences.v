(** Theorem 1, preferences (docs/theory.md, sections 3 and 7). *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Distances.
Import ListNotations.
Open Scope R_scope.

Section Preferences.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha eps : R) (r p : table St T) (v : nat -> St -> R) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis pol : policy p n s.
Hypothesis gauge_v : gauge v.

Let expert := soft_policy alpha r.
Let r_hat := endogenous alpha p v.

(** Rows of one table, each at most [eps] in size, along two responses that share their first
    tokens. *)
Lemma total_difference : forall f m t shared rest rest',
  everywhere (fun m t => forall a, In a (acts t) -> Rabs (f m t a) <= eps) m t ->
  In (shared ++ rest) (responses m t) -> In (shared ++ rest') (responses m t) ->
  Rabs (total f m t (shared ++ rest) - total f m t (shared ++ rest'))
  <= 2 * INR (m - length shared) * eps.
Proof.
  intros f m t shared. revert m t. induction shared as [| a shared IH];
    intros m t rest rest' small rest_in rest_in'; cbn [app length].
  - rewrite Nat.sub_0_r. unfold Rminus. eapply Rle_trans; [apply Rabs_triang |].
    rewrite Rabs_Ropp. pose proof (total_abs eps f m t rest small rest_in).
    pose proof (total_abs eps f m t rest' small rest_in'). lra.
  - destruct m as [| m]; [destruct rest_in; [discriminate | contradiction] |].
    cbn [app] in *. apply in_responses_cons in rest_in as [a_in rest_in].
    apply in_responses_cons in rest_in' as [_ rest_in'].
    cbn [total Nat.sub]. destruct small as [_ below].
    replace (f (S m) t a + total f m (next t a) (shared ++ rest)
             - (f (S m) t a + total f m (next t a) (shared ++ rest')))
      with (total f m (next t a) (shared ++ rest) - total f m (next t a) (shared ++ rest'))
      by ring.
    apply IH; auto.
Qed.

(** [TV(P_r*, P_r̂) ≤ tanh(α|D(τ) − D(τ')|/4)] for a pair that [π̂] can give. *)
Lemma preference_of_pair : forall tau tau',
  In tau (responses n s) -> 0 < prob p n s tau ->
  In tau' (responses n s) -> 0 < prob p n s tau' ->
  preference_tv r r_hat n s tau tau'
  <= tanh (alpha * Rabs (log_ratio expert p n s tau - log_ratio expert p n s tau') / 4).
Proof.
  intros tau tau' tau_in given tau_in' given'. unfold preference_tv, preference.
  eapply Rle_trans; [apply logistic_sub_le |]. right.
  rewrite (telescoping alpha alpha_pos r n s tau), (telescoping alpha alpha_pos r n s tau')
    by assumption.
  unfold r_hat. rewrite (endogenous_telescoping alpha p v n s tau),
    (endogenous_telescoping alpha p v n s tau') by assumption.
  replace (alpha * Rabs (log_ratio expert p n s tau - log_ratio expert p n s tau'))
    with (Rabs (alpha * (log_ratio expert p n s tau - log_ratio expert p n s tau')))
    by (rewrite Rabs_mult, (Rabs_pos_eq alpha) by lra; reflexivity).
  do 3 f_equal. unfold log_ratio, expert. ring.
Qed.

(** It is the total variation of the two outcomes. *)
Lemma preference_tv_outcomes : forall r' r'' tau tau',
  preference_tv r' r'' n s tau tau' =
  / 2 * (Rabs (preference r' n s tau tau' - preference r'' n s tau tau') +
         Rabs (preference r' n s tau' tau - preference r'' n s tau' tau)).
Proof.
  assert (forall x y, logistic (y - x) = 1 - logistic (x - y)) as reversed.
  { intros x y. unfold logistic. replace (- (y - x)) with (x - y) by ring.
    replace (- (x - y)) with (y - x) by ring. replace (x - y) with (- (y - x)) by ring.
    rewrite exp_Ropp. pose proof (exp_pos (y - x)). field. lra. }
  intros r' r'' tau tau'. unfold preference_tv, preference.
  rewrite (reversed (total r' n s tau)), (reversed (total r'' n s tau)).
  match goal with |- Rabs ?d = _ =>
    replace (Rabs (_ - _ - (_ - _))) with (Rabs d); [lra |] end.
  rewrite <- Rabs_Ropp. f_equal. ring.
Qed.

(** Row theorem-1-sharp: [TV ≤ tanh(α(H−k)ε/2)] for responses that share their first [k] tokens. *)
Theorem theorem_1_sharp : forall shared rest rest',
  log_ratio_ball eps expert p n s ->
  In (shared ++ rest) (responses n s) -> In (shared ++ rest') (responses n s) ->
  preference_tv r r_hat n s (shared ++ rest) (shared ++ rest')
  <= tanh (alpha * INR (n - length shared) * eps / 2).
Proof.
  intros shared rest rest' ball rest_in rest_in'.
  assert (positive p n s) as pos by (eapply ball_positive_r; exact ball).
  eapply Rle_trans; [apply preference_of_pair; auto using prob_pos |].
  apply tanh_mono.
  rewrite !log_ratio_total by (assumption || now apply soft_policy_positive).
  assert (Rabs (total (fun m t a => ln (expert m t a) - ln (p m t a)) n s (shared ++ rest)
                - total (fun m t a => ln (expert m t a) - ln (p m t a)) n s (shared ++ rest'))
          <= 2 * INR (n - length shared) * eps) as near.
  { apply total_difference; [| assumption | assumption].
    revert ball. apply everywhere_imp. intros m t ball a a_in. now apply ball. }
  apply (Rmult_le_compat_l alpha) in near; lra.
Qed.

(** Row theorem-1, the paper's: [TV ≤ αHε/2]. *)
Theorem theorem_1 : forall tau tau', log_ratio_ball eps expert p n s ->
  In tau (responses n s) -> In tau' (responses n s) ->
  preference_tv r r_hat n s tau tau' <= alpha * INR n * eps / 2.
Proof.
  intros tau tau' ball tau_in tau_in'.
  eapply Rle_trans; [now apply (theorem_1_sharp []) |].
  cbn [length]. rewrite Nat.sub_0_r. apply tanh_le.
  destruct n as [| m]; [simpl; lra |].
  pose proof (ball_radius _ _ _ _ _ ball). pose proof (pos_INR (S m)).
  assert (0 <= alpha * INR (S m)) by (apply Rmult_le_pos; lra).
  assert (0 <= alpha * INR (S m) * eps) by now apply Rmult_le_pos. lra.
Qed.

(** Row preference-average: [mean TV ≤ mean tanh(α|D(τ) − D(τ')|/4)] over any distribution of
    pairs. *)
Theorem preference_average : forall (pairs : list (list T * list T)) (weight : _ -> R),
  distribution pairs weight ->
  (forall x, In x pairs ->
     (In (fst x) (responses n s) /\ 0 < prob p n s (fst x)) /\
     (In (snd x) (responses n s) /\ 0 < prob p n s (snd x))) ->
  (∑ x ∈ pairs, weight x * preference_tv r r_hat n s (fst x) (snd x)) <=
  ∑ x ∈ pairs, weight x * tanh (alpha *
    Rabs (log_ratio expert p n s (fst x) - log_ratio expert p n s (snd x)) / 4).
Proof.
  intros pairs weight [nonneg _] given. apply sum_le. intros x x_in.
  destruct (given x x_in) as [[? ?] [? ?]].
  apply Rmult_le_compat_l; [auto | now apply preference_of_pair].
Qed.

End Preferences.
