(** Responses, expectations and plain values: backward induction as lemmas.

    The definitions sum over all responses; here they are taken apart at the first token. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Definitions.
Import ListNotations.
Open Scope R_scope.

(** So that [auto] sees that these hold at a state's successors. *)
#[export] Hint Unfold policy positive log_ratio_ball reward_range vocabulary : core.

Section Values.
Context {St T : Type} {D : Dynamics St T}.
Implicit Types (p q r : table St T) (n : nat) (s : St) (tau : list T) (g : list T -> R).

(** ** What holds everywhere *)

Lemma everywhere_imp : forall (P Q : nat -> St -> Prop) n s,
  (forall m t, P m t -> Q m t) -> everywhere P n s -> everywhere Q n s.
Proof.
  intros P Q n. induction n as [| n IH]; intros s imp; cbn [everywhere]; [trivial |].
  intros [here below]. split; [now apply imp |].
  intros a a_in. apply IH; auto.
Qed.

Lemma everywhere_and : forall (P Q : nat -> St -> Prop) n s,
  everywhere P n s -> everywhere Q n s -> everywhere (fun m t => P m t /\ Q m t) n s.
Proof.
  intros P Q n. induction n as [| n IH]; intros s; cbn [everywhere]; [trivial |].
  intros [here below] [here' below']. split; [now split |].
  intros a a_in. apply IH; auto.
Qed.

Lemma everywhere_all : forall (P : nat -> St -> Prop) n s,
  (forall m t, P (S m) t) -> everywhere P n s.
Proof.
  intros P n. induction n as [| n IH]; intros s all; cbn [everywhere]; auto.
Qed.

Lemma ball_positive_l : forall eps p q n s, log_ratio_ball eps p q n s -> positive p n s.
Proof. intros eps p q n s. apply everywhere_imp. intros m t ball a a_in. now apply ball. Qed.

Lemma ball_positive_r : forall eps p q n s, log_ratio_ball eps p q n s -> positive q n s.
Proof. intros eps p q n s. apply everywhere_imp. intros m t ball a a_in. now apply ball. Qed.

Lemma ball_sym : forall eps p q n s, log_ratio_ball eps p q n s -> log_ratio_ball eps q p n s.
Proof.
  intros eps p q n s. apply everywhere_imp. intros m t ball a a_in.
  destruct (ball a a_in) as (pos & pos' & near). rewrite Rabs_minus_sym in near. auto.
Qed.

Lemma some_token : forall s, exists a, In a (acts s).
Proof.
  intros s. pose proof (acts_nonempty s) as nonempty.
  destruct (acts s) as [| a rest]; [contradiction |]. exists a. now left.
Qed.

(** The radius of a ball is not negative. *)
Lemma ball_radius : forall eps p q n s, log_ratio_ball eps p q (S n) s -> 0 <= eps.
Proof.
  intros eps p q n s [here _]. destruct (some_token s) as [a a_in].
  destruct (here a a_in) as (_ & _ & near). eapply Rle_trans; [apply Rabs_pos | exact near].
Qed.

(** The width of a reward range is not negative. *)
Lemma range_width : forall lo width r n s, reward_range lo width r (S n) s -> 0 <= width.
Proof.
  intros lo width r n s [here _]. destruct (some_token s) as [a a_in].
  specialize (here a a_in). lra.
Qed.

(** ** Responses *)

Lemma in_responses_cons : forall n s a rest,
  In (a :: rest) (responses (S n) s) <-> In a (acts s) /\ In rest (responses n (next s a)).
Proof.
  intros n s a rest. cbn [responses]. rewrite in_flat_map. split.
  - intros (b & b_in & found). apply in_map_iff in found as (rest' & same & rest_in).
    inversion same; subst. auto.
  - intros [a_in rest_in]. exists a. split; [exact a_in |]. now apply in_map.
Qed.

Lemma in_responses_S : forall n s tau, In tau (responses (S n) s) ->
  exists a rest, tau = a :: rest /\ In a (acts s) /\ In rest (responses n (next s a)).
Proof.
  intros n s [| a rest] tau_in.
  - cbn [responses] in tau_in. apply in_flat_map in tau_in as (b & _ & found).
    apply in_map_iff in found as (x & same & _). discriminate.
  - exists a, rest. split; [reflexivity |]. now apply in_responses_cons.
Qed.

Lemma responses_length : forall n s tau, In tau (responses n s) -> length tau = n.
Proof.
  intros n. induction n as [| n IH]; intros s tau tau_in.
  - destruct tau_in as [<- | []]. reflexivity.
  - apply in_responses_S in tau_in as (a & rest & -> & _ & rest_in).
    cbn [length]. f_equal. now apply IH in rest_in.
Qed.

Lemma responses_nonempty : forall n s, responses n s <> [].
Proof.
  intros n. induction n as [| n IH]; intros s; [discriminate |].
  destruct (some_token s) as [a a_in]. intros empty.
  destruct (responses n (next s a)) as [| rest others] eqn:below; [now apply (IH (next s a)) |].
  assert (In (a :: rest) (responses (S n) s)) as found.
  { apply in_responses_cons. split; [exact a_in |]. rewrite below. now left. }
  rewrite empty in found. contradiction.
Qed.

Lemma sum_responses_S : forall n s g,
  sum (responses (S n) s) g = ∑ a ∈ acts s, ∑ rest ∈ responses n (next s a), g (a :: rest).
Proof.
  intros n s g. cbn [responses]. rewrite sum_flat_map.
  apply sum_ext. intros a _. now rewrite sum_map.
Qed.

(** A table's sum along a response, for tables that agree on its way. *)
Lemma total_plus : forall r r' n s tau,
  total (fun m t a => r m t a + r' m t a) n s tau = total r n s tau + total r' n s tau.
Proof.
  intros r r' n. induction n as [| n IH]; intros s [| a rest]; cbn [total]; [lra .. |].
  rewrite IH. lra.
Qed.

Lemma total_scale : forall c r n s tau,
  total (fun m t a => c * r m t a) n s tau = c * total r n s tau.
Proof.
  intros c r n. induction n as [| n IH]; intros s [| a rest]; cbn [total]; [lra .. |].
  rewrite IH. lra.
Qed.

Lemma total_const : forall c n s tau, In tau (responses n s) ->
  total (fun _ _ _ => c) n s tau = INR n * c.
Proof.
  intros c n. induction n as [| n IH]; intros s tau tau_in.
  - cbn [total]. destruct tau; simpl; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & _ & rest_in).
    cbn [total]. rewrite IH, S_INR by assumption. lra.
Qed.

Lemma total_ext : forall r r' n s tau,
  everywhere (fun m t => forall a, In a (acts t) -> r m t a = r' m t a) n s ->
  In tau (responses n s) -> total r n s tau = total r' n s tau.
Proof.
  intros r r' n. induction n as [| n IH]; intros s tau same tau_in; [reflexivity |].
  apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
  destruct same as [here below]. cbn [total]. rewrite here, IH; auto.
Qed.

Lemma total_bounds : forall lo width r n s tau,
  reward_range lo width r n s -> In tau (responses n s) ->
  INR n * lo <= total r n s tau <= INR n * (lo + width).
Proof.
  intros lo width r n. induction n as [| n IH]; intros s tau range tau_in.
  - destruct tau; simpl; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
    destruct range as [here below]. cbn [total]. rewrite S_INR.
    specialize (here a a_in). specialize (IH (next s a) rest (below a a_in) rest_in). lra.
Qed.

(** ** Probabilities of responses *)

Lemma prob_nonneg : forall p n s tau,
  policy p n s -> In tau (responses n s) -> 0 <= prob p n s tau.
Proof.
  intros p n. induction n as [| n IH]; intros s tau pol tau_in.
  - destruct tau; simpl; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
    destruct pol as [[nonneg _] below]. cbn [prob].
    apply Rmult_le_pos; [now apply nonneg | apply IH; auto].
Qed.

Lemma prob_pos : forall p n s tau,
  positive p n s -> In tau (responses n s) -> 0 < prob p n s tau.
Proof.
  intros p n. induction n as [| n IH]; intros s tau pos tau_in.
  - destruct tau; simpl; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
    destruct pos as [here below]. cbn [prob].
    apply Rmult_lt_0_compat; [now apply here | apply IH; auto].
Qed.

Lemma expect_S : forall p n s g,
  expect p (S n) s g =
  ∑ a ∈ acts s, p (S n) s a * expect p n (next s a) (fun rest => g (a :: rest)).
Proof.
  intros p n s g. unfold expect. rewrite sum_responses_S.
  apply sum_ext. intros a _. rewrite <- sum_scale.
  apply sum_ext. intros rest _. cbn [prob]. ring.
Qed.

(** The probabilities of all responses sum to one. *)
Lemma prob_distribution : forall p n s,
  policy p n s -> distribution (responses n s) (prob p n s).
Proof.
  intros p n s pol. split; [intros tau tau_in; now apply prob_nonneg |].
  revert s pol. induction n as [| n IH]; intros s pol; [simpl; lra |].
  destruct pol as [[_ one] below]. rewrite sum_responses_S, <- one.
  apply sum_ext. intros a a_in. cbn [prob]. rewrite sum_scale, IH by auto. ring.
Qed.

Lemma expect_const : forall p n s c, policy p n s -> expect p n s (fun _ => c) = c.
Proof.
  intros p n s c pol. unfold expect. rewrite sum_scale_r.
  destruct (prob_distribution p n s pol) as [_ ->]. ring.
Qed.

Lemma expect_plus : forall p n s g g',
  expect p n s (fun tau => g tau + g' tau) = expect p n s g + expect p n s g'.
Proof.
  intros p n s g g'. unfold expect. rewrite <- sum_plus.
  apply sum_ext. intros tau _. ring.
Qed.

Lemma expect_minus : forall p n s g g',
  expect p n s (fun tau => g tau - g' tau) = expect p n s g - expect p n s g'.
Proof.
  intros p n s g g'. unfold expect. rewrite <- sum_minus.
  apply sum_ext. intros tau _. ring.
Qed.

Lemma expect_scale : forall p n s c g,
  expect p n s (fun tau => c * g tau) = c * expect p n s g.
Proof.
  intros p n s c g. unfold expect. rewrite <- sum_scale.
  apply sum_ext. intros tau _. ring.
Qed.

(** Only responses that the policy gives count. *)
Lemma expect_ext : forall p n s g g', policy p n s ->
  (forall tau, In tau (responses n s) -> 0 < prob p n s tau -> g tau = g' tau) ->
  expect p n s g = expect p n s g'.
Proof.
  intros p n s g g' pol same. apply sum_ext. intros tau tau_in.
  destruct (prob_nonneg p n s tau pol tau_in) as [pos | zero].
  - now rewrite same.
  - rewrite <- zero. ring.
Qed.

Lemma expect_le : forall p n s g g', policy p n s ->
  (forall tau, In tau (responses n s) -> 0 < prob p n s tau -> g tau <= g' tau) ->
  expect p n s g <= expect p n s g'.
Proof.
  intros p n s g g' pol below. apply sum_le. intros tau tau_in.
  destruct (prob_nonneg p n s tau pol tau_in) as [pos | zero].
  - apply Rmult_le_compat_l; [now apply Rlt_le | auto].
  - rewrite <- zero. lra.
Qed.

(** [log π(τ|s) = Σ_h log π(a_h|s_h)], for a response that the policy gives. *)
Lemma ln_prob : forall p n s tau, policy p n s -> In tau (responses n s) ->
  0 < prob p n s tau -> ln (prob p n s tau) = total (fun m t a => ln (p m t a)) n s tau.
Proof.
  intros p n. induction n as [| n IH]; intros s tau pol tau_in pos.
  - destruct tau; cbn [prob total]; apply ln_1.
  - apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
    destruct pol as [[nonneg _] below]. cbn [prob total] in *.
    specialize (nonneg a a_in). pose proof (prob_nonneg p n _ rest (below a a_in) rest_in).
    assert (0 < p (S n) s a) by (destruct nonneg as [| zero]; [easy | rewrite <- zero in pos; lra]).
    assert (0 < prob p n (next s a) rest) by (apply Rnot_le_lt; intros ?; nra).
    rewrite ln_mult, IH by auto. reflexivity.
Qed.

Lemma prob_ext : forall p p' n s tau,
  everywhere (fun m t => forall a, In a (acts t) -> p m t a = p' m t a) n s ->
  In tau (responses n s) -> prob p n s tau = prob p' n s tau.
Proof.
  intros p p' n. induction n as [| n IH]; intros s tau same tau_in; [reflexivity |].
  apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
  destruct same as [here below]. cbn [prob]. rewrite here, IH; auto.
Qed.

(** The same of a policy that forbids nothing. *)
Lemma ln_prob_positive : forall p n s tau, positive p n s -> In tau (responses n s) ->
  ln (prob p n s tau) = total (fun m t a => ln (p m t a)) n s tau.
Proof.
  intros p n. induction n as [| n IH]; intros s tau pos tau_in.
  - destruct tau; cbn [prob total]; apply ln_1.
  - apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
    destruct pos as [here below]. cbn [prob total].
    rewrite ln_mult, IH; auto. now apply prob_pos; auto.
Qed.

(** ** Plain values *)

(** Backward induction: [V(s) = Σ_a π(a|s) (r(s,a) + V(s⊕a))]. *)
Lemma value_S : forall p r n s, policy p (S n) s ->
  value p r (S n) s = ∑ a ∈ acts s, p (S n) s a * (r (S n) s a + value p r n (next s a)).
Proof.
  intros p r n s [_ below]. unfold value. rewrite expect_S.
  apply sum_ext. intros a a_in. cbn [total]. rewrite expect_plus, expect_const by auto.
  reflexivity.
Qed.

Lemma value_0 : forall p r s, value p r 0 s = 0.
Proof. intros p r s. unfold value, expect. simpl. lra. Qed.

Lemma value_plus : forall p r r' n s,
  value p (fun m t a => r m t a + r' m t a) n s = value p r n s + value p r' n s.
Proof.
  intros p r r' n s. unfold value. rewrite <- expect_plus.
  apply sum_ext. intros tau _. now rewrite total_plus.
Qed.

Lemma value_scale : forall p c r n s,
  value p (fun m t a => c * r m t a) n s = c * value p r n s.
Proof.
  intros p c r n s. unfold value. rewrite <- expect_scale.
  apply sum_ext. intros tau _. now rewrite total_scale.
Qed.

(** A constant added to every reward adds [n] times it to the value. *)
Lemma value_shift : forall p c r n s, policy p n s ->
  value p (fun m t a => c + r m t a) n s = INR n * c + value p r n s.
Proof.
  intros p c r n s pol. rewrite value_plus. f_equal.
  unfold value. rewrite (expect_ext p n s _ (fun _ => INR n * c) pol).
  - now apply expect_const.
  - intros tau tau_in _. now apply total_const.
Qed.

(** A value lies between the least and the greatest return. *)
Lemma value_le_greatest : forall p r n s, policy p n s ->
  value p r n s <= greatest (responses n s) (total r n s).
Proof.
  intros p r n s pol. rewrite <- (expect_const p n s (greatest _ _) pol).
  apply expect_le; [exact pol |]. intros tau tau_in _. now apply greatest_ge.
Qed.

Lemma value_ge_least : forall p r n s, policy p n s ->
  least (responses n s) (total r n s) <= value p r n s.
Proof.
  intros p r n s pol. rewrite <- (expect_const p n s (least _ _) pol).
  apply expect_le; [exact pol |]. intros tau tau_in _. now apply least_le.
Qed.

(** What is within [delta] of the greatest return is within [delta] of every policy's value. *)
Lemma optimal_of_greatest : forall delta r p n s,
  greatest (responses n s) (total r n s) <= value p r n s + delta ->
  optimal_up_to delta r p n s.
Proof.
  intros delta r p n s short q pol. pose proof (value_le_greatest q r n s pol). lra.
Qed.

End Values.
