(** The exact adversary of cloning (docs/theory.md, section 5; theory/solve/worst_clone.py).

    The ball is rectangular over states, so its member of least plain value is found by backward
    induction, and each step is a fractional knapsack: the tokens of least continuation value that
    hold the first [1/(1 + e^ε)] of the expert's mass are raised to their caps [e^ε p], all others
    are left at their floors [e^{−ε} p]. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Distances.
Import ListNotations.
Open Scope R_scope.

(** ** One state *)

Section Knapsack.
Context {T : Type} (l : list T) (p x : T -> R) (eps : R).

(** [Σ p] over the tokens whose continuation value is at most, and below, a level. *)
Definition mass_upto (level : R) : R := ∑ a ∈ l, if Rle_dec (x a) level then p a else 0.
Definition mass_below (level : R) : R := ∑ a ∈ l, if Rlt_dec (x a) level then p a else 0.

(** The least level up to which the tokens hold [1/(1 + e^ε)] of the mass. *)
Definition level : R :=
  least (filter (fun a => if Rle_dec (/ (1 + exp eps)) (mass_upto (x a)) then true else false) l) x.

(** The ratio that is left for the tokens at that level. *)
Definition tilt_at_level : R :=
  (1 - exp eps * mass_below level - exp (- eps) * (1 - mass_upto level))
  / (mass_upto level - mass_below level).

Definition knapsack (a : T) : R :=
  p a * if Rlt_dec (x a) level then exp eps
        else if Rlt_dec level (x a) then exp (- eps)
        else tilt_at_level.

Hypothesis p_law : distribution l p.
Hypothesis p_pos : forall a, In a l -> 0 < p a.
Hypothesis eps_nonneg : 0 <= eps.

Let share := / (1 + exp eps).

(** Caps on the share and floors on the rest make one. *)
Lemma share_balance : exp eps * share + exp (- eps) * (1 - share) = 1.
Proof. unfold share. rewrite exp_Ropp. pose proof (exp_pos eps). field. lra. Qed.

Lemma nonempty : l <> [].
Proof. intros empty. destruct p_law as [_ one]. rewrite empty in one. simpl in one. lra. Qed.

Lemma level_reached : exists a, In a l /\ x a = level /\ share <= mass_upto level.
Proof.
  set (enough := fun a =>
    if Rle_dec (/ (1 + exp eps)) (mass_upto (x a)) then true else false).
  assert (filter enough l <> []) as some.
  { destruct (greatest_in l x nonempty) as (top & top_in & top_is).
    assert (In top (filter enough l)) as found; [| intros empty; now rewrite empty in found].
    apply filter_In. split; [exact top_in |]. unfold enough.
    destruct Rle_dec as [| short]; [reflexivity | exfalso; apply short].
    assert (mass_upto (x top) = 1) as ->.
    { destruct p_law as [_ one]. rewrite <- one. apply sum_ext. intros a a_in.
      destruct Rle_dec as [| above]; [reflexivity | exfalso; apply above].
      rewrite <- top_is. now apply greatest_ge. }
    pose proof (exp_pos eps). rewrite <- Rinv_1. apply Rinv_le_contravar; lra. }
  destruct (least_in _ x some) as (a & a_in & is_least). fold level in is_least.
  apply filter_In in a_in as [a_in holds]. unfold enough in holds.
  destruct Rle_dec as [reached |]; [| discriminate].
  exists a. rewrite <- is_least in reached. auto.
Qed.

Lemma below_level : mass_below level <= share.
Proof.
  assert (0 < share) as share_pos
    by (apply Rinv_0_lt_compat; pose proof (exp_pos eps); lra).
  set (lower := filter (fun a => if Rlt_dec (x a) level then true else false) l).
  destruct lower as [| b rest] eqn:tokens.
  - enough (mass_below level = 0) by lra. apply sum_zero. intros a a_in.
    destruct Rlt_dec as [low |]; [exfalso | reflexivity].
    assert (In a lower) as found.
    { apply filter_In. split; [exact a_in |]. now destruct Rlt_dec. }
    rewrite tokens in found. contradiction.
  - assert (lower <> []) as some by (rewrite tokens; discriminate).
    destruct (greatest_in lower x some) as (top & top_in & top_is).
    apply filter_In in top_in as [top_in low].
    destruct Rlt_dec as [top_below |] in low; [| discriminate]. clear low.
    assert (mass_below level <= mass_upto (x top)) as reaches.
    { apply sum_le. intros a a_in. specialize (p_pos a a_in).
      destruct Rlt_dec as [low |], Rle_dec as [| above]; try lra. exfalso. apply above.
      rewrite <- top_is. apply greatest_ge. apply filter_In. split; [exact a_in |].
      now destruct Rlt_dec. }
    apply Rnot_lt_le. intros too_much.
    assert (level <= x top); [| lra].
    apply least_le. apply filter_In. split; [exact top_in |].
    destruct Rle_dec as [| short]; [reflexivity | exfalso; apply short]. fold share. lra.
Qed.

Lemma mass_at_level : 0 < mass_upto level - mass_below level.
Proof.
  unfold mass_upto, mass_below. rewrite <- sum_minus.
  destruct level_reached as (a & a_in & at_level & _).
  eapply Rlt_le_trans; [apply (p_pos a a_in) |].
  eapply Rle_trans; [| apply (term_le_sum l _ a); [| exact a_in]].
  - cbv beta. rewrite at_level. destruct Rle_dec, Rlt_dec; lra.
  - intros b b_in. specialize (p_pos b b_in). destruct Rle_dec, Rlt_dec; lra.
Qed.

Lemma tilt_in_ball : exp (- eps) <= tilt_at_level <= exp eps.
Proof.
  pose proof mass_at_level as at_level. pose proof below_level as below.
  destruct level_reached as (_ & _ & _ & reached). pose proof share_balance as balance.
  assert (exp (- eps) <= exp eps) as ordered by (apply exp_le; lra).
  set (u := mass_upto level) in *. set (b := mass_below level) in *.
  assert ((exp eps - exp (- eps)) * b <= (exp eps - exp (- eps)) * share)
    by (apply Rmult_le_compat_l; lra).
  assert ((exp eps - exp (- eps)) * share <= (exp eps - exp (- eps)) * u)
    by (apply Rmult_le_compat_l; lra).
  unfold tilt_at_level. fold u b.
  split; apply Rmult_le_reg_r with (u - b); try assumption;
    unfold Rdiv; rewrite Rmult_assoc, Rinv_l by lra; lra.
Qed.


Lemma knapsack_in_ball : forall a, In a l ->
  exp (- eps) * p a <= knapsack a <= exp eps * p a.
Proof.
  intros a a_in. pose proof tilt_in_ball as tilt. specialize (p_pos a a_in).
  assert (exp (- eps) <= exp eps) as ordered by (apply exp_le; lra).
  unfold knapsack. rewrite !(Rmult_comm _ (p a)).
  destruct Rlt_dec; [| destruct Rlt_dec]; split; apply Rmult_le_compat_l; lra.
Qed.

Lemma knapsack_distribution : distribution l knapsack.
Proof.
  split.
  - intros a a_in. destruct (knapsack_in_ball a a_in) as [floor _].
    eapply Rle_trans; [| exact floor]. specialize (p_pos a a_in).
    apply Rmult_le_pos; [apply Rlt_le, exp_pos | lra].
  - transitivity (∑ a ∈ l,
      (exp eps * (if Rlt_dec (x a) level then p a else 0)
       + exp (- eps) * (p a - if Rle_dec (x a) level then p a else 0)
       + tilt_at_level * ((if Rle_dec (x a) level then p a else 0)
                          - if Rlt_dec (x a) level then p a else 0))).
    + apply sum_ext. intros a _. unfold knapsack.
      destruct (Rlt_dec (x a) level), (Rlt_dec level (x a)), (Rle_dec (x a) level); lra.
    + rewrite !sum_plus, !sum_scale, !sum_minus.
      fold (mass_upto level) (mass_below level). destruct p_law as [_ ->].
      pose proof mass_at_level. unfold tilt_at_level. field. lra.
Qed.

(** No distribution of the ball has a smaller mean. *)
Theorem knapsack_least : forall q, distribution l q ->
  (forall a, In a l -> exp (- eps) * p a <= q a <= exp eps * p a) ->
  (∑ a ∈ l, knapsack a * x a) <= ∑ a ∈ l, q a * x a.
Proof.
  intros q q_law in_ball.
  assert (0 <= ∑ a ∈ l, (q a - knapsack a) * (x a - level)) as exchange.
  { apply sum_nonneg. intros a a_in. specialize (in_ball a a_in). unfold knapsack.
    destruct (Rlt_dec (x a) level); [| destruct (Rlt_dec level (x a))].
    - rewrite <- Rmult_opp_opp. apply Rmult_le_pos; lra.
    - apply Rmult_le_pos; lra.
    - replace (x a - level) with 0 by lra. lra. }
  rewrite (sum_ext _ _ (fun a => (q a * x a - knapsack a * x a) - (q a - knapsack a) * level))
    in exchange by (intros; ring).
  rewrite sum_minus, sum_scale_r, !sum_minus in exchange.
  destruct q_law as [_ q_one], knapsack_distribution as [_ one]. rewrite q_one, one in exchange.
  lra.
Qed.

End Knapsack.

(** ** The tree *)

Section WorstClone.
Context {St T : Type} {D : Dynamics St T}.
Variables (eps : R) (expert r : table St T).

(** [W(s) = min Σ_a p̂(a) (r(s,a) + W(s⊕a))], the least over the ball around the expert's row. *)
Fixpoint worst_value (n : nat) (s : St) : R :=
  match n with
  | O => 0
  | S m => let x a := r n s a + worst_value m (next s a) in
           ∑ a ∈ acts s, knapsack (acts s) (expert n s) x eps a * x a
  end.

Definition worst_clone : table St T := fun n s =>
  knapsack (acts s) (expert n s) (fun a => r n s a + worst_value (pred n) (next s a)) eps.

Hypothesis eps_nonneg : 0 <= eps.

Lemma worst_clone_policy : forall n s, policy expert n s -> positive expert n s ->
  policy worst_clone n s.
Proof.
  intros n s pol pos. pose proof (everywhere_and _ _ _ _ pol pos) as states.
  revert states. apply everywhere_imp. intros m t [law positive_here].
  now apply knapsack_distribution.
Qed.

(** What lies between floor and cap is in the ball. *)
Lemma ball_bounds : forall p n s,
  positive expert n s ->
  everywhere (fun m t => forall a, In a (acts t) ->
    exp (- eps) * expert m t a <= p m t a <= exp eps * expert m t a) n s ->
  log_ratio_ball eps expert p n s.
Proof.
  intros p n s pos bounds. pose proof (everywhere_and _ _ _ _ pos bounds) as states.
  revert states. apply everywhere_imp. intros m t [positive_here within] a a_in.
  specialize (positive_here a a_in). specialize (within a a_in).
  assert (0 < exp (- eps) * expert m t a) as floor_pos
    by (apply Rmult_lt_0_compat; [apply exp_pos | assumption]).
  destruct within as [floor cap]. assert (0 < p m t a) as pos_token by lra.
  split; [assumption | split; [assumption |]].
  apply ln_mono in floor, cap; [| assumption ..].
  rewrite ln_mult, ln_exp in floor, cap by (assumption || apply exp_pos).
  apply Rabs_le. lra.
Qed.

Theorem worst_clone_in_ball : forall n s, policy expert n s -> positive expert n s ->
  log_ratio_ball eps expert worst_clone n s.
Proof.
  intros n s pol pos. apply ball_bounds; [exact pos |].
  pose proof (everywhere_and _ _ _ _ pol pos) as states.
  revert states. apply everywhere_imp. intros m t [law positive_here] a a_in.
  now apply knapsack_in_ball.
Qed.

Theorem worst_clone_value : forall n s, policy expert n s -> positive expert n s ->
  value worst_clone r n s = worst_value n s.
Proof.
  intros n. induction n as [| n IH]; intros s pol pos; [apply value_0 |].
  rewrite value_S by now apply worst_clone_policy.
  destruct pol as [_ pol], pos as [_ pos]. cbn [worst_value].
  apply sum_ext. intros a a_in. rewrite IH by auto. reflexivity.
Qed.

(** No policy of the ball has a smaller plain value. *)
Theorem worst_clone_least : forall p n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  value worst_clone r n s <= value p r n s.
Proof.
  intros p n s expert_pol pol ball.
  rewrite worst_clone_value by eauto using ball_positive_l.
  revert s expert_pol pol ball.
  induction n as [| n IH]; intros s expert_pol pol ball; [rewrite value_0; simpl; lra |].
  rewrite value_S by exact pol.
  destruct expert_pol as [expert_law expert_pol], pol as [law pol], ball as [within ball].
  cbn [worst_value]. set (x a := r (S n) s a + worst_value n (next s a)).
  apply Rle_trans with (∑ a ∈ acts s, p (S n) s a * x a).
  - apply knapsack_least; auto.
    + intros a a_in. now apply within.
    + intros a a_in. destruct (within a a_in) as (expert_pos & _).
      pose proof (near_ratio eps (acts s) (expert (S n) s) (p (S n) s) a within a_in)
        as [floor cap].
      split; apply Rmult_le_reg_r with (/ expert (S n) s a);
        try (now apply Rinv_0_lt_compat); rewrite Rmult_assoc, Rinv_r by lra;
        unfold Rdiv in *; lra.
  - apply sum_le. intros a a_in. destruct law as [nonneg _].
    apply Rmult_le_compat_l; [auto |]. apply Rplus_le_compat_l. apply IH; auto.
Qed.

(** So the worst clone loses the most of all policies of the ball. *)
Theorem worst_clone_gap : forall p n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  value expert r n s - value p r n s <= value expert r n s - value worst_clone r n s.
Proof.
  intros p n s expert_pol pol ball.
  pose proof (worst_clone_least p n s expert_pol pol ball). lra.
Qed.

End WorstClone.
