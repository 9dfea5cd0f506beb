(** Policies that forbid tokens: the rows that read a reward inside [π̂], on the tree of the tokens
    that [π̂] can give.

    The endogenous reward of a forbidden token is [−∞]; the Python leaves such tokens out, and so
    does the tree below. Elsewhere nothing changes: probabilities, returns and values of policies
    that stay inside are what they were. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Anchored.
Import ListNotations.
Open Scope R_scope.

Section Support.
Context {St T : Type} {D : Dynamics St T}.
Variable p : table St T.
Implicit Types (q r : table St T) (n : nat) (s : St) (g : list T -> R).

Definition given n s : list T :=
  filter (fun a => if Rlt_dec 0 (p n s a) then true else false) (acts s).

(** Where [p] gives no token it is no policy, and nothing is left out. *)
Definition offered n s : list T := match given n s with [] => acts s | some => some end.

Lemma offered_nonempty : forall x : nat * St, offered (fst x) (snd x) <> [].
Proof.
  intros x. unfold offered.
  destruct (given (fst x) (snd x)); [apply acts_nonempty | discriminate].
Qed.

(** A state of the tree carries the steps left. *)
#[local] Instance support : Dynamics (nat * St) T := {
  next := fun x a => (pred (fst x), next (snd x) a);
  acts := fun x => offered (fst x) (snd x);
  acts_nonempty := offered_nonempty
}.

(** A table on the tree of what [p] can give. *)
Definition inside (t : table St T) : table (nat * St) T := fun n x a => t n (snd x) a.

(** [q] forbids what [p] forbids. *)
Definition stays_inside q n s : Prop :=
  everywhere (fun m t => forall a, In a (acts t) -> p m t a <= 0 -> q m t a = 0) n s.

Lemma in_given : forall n s a, In a (given n s) <-> In a (acts s) /\ 0 < p n s a.
Proof.
  intros n s a. unfold given. rewrite filter_In.
  destruct Rlt_dec; split; intros [a_in pos]; (split; [exact a_in | easy]).
Qed.

Lemma given_nonempty : forall n s, distribution (acts s) (p n s) -> given n s <> [].
Proof.
  intros n s [nonneg one] none.
  assert (sum (acts s) (p n s) = 0); [| lra].
  apply sum_zero. intros a a_in. destruct (nonneg a a_in) as [pos |]; [| congruence].
  assert (In a (given n s)) as found by now apply in_given. rewrite none in found. contradiction.
Qed.

Lemma acts_given : forall n s, distribution (acts s) (p n s) -> acts (n, s) = given n s.
Proof.
  intros n s law. cbn [acts support fst snd]. unfold offered.
  destruct (given n s) eqn:some; [now apply given_nonempty in some | reflexivity].
Qed.

(** A sum over what is allowed is one over what is given, where the rest is zero. *)
Lemma sum_given : forall n s (f : T -> R), distribution (acts s) (p n s) ->
  (forall a, In a (acts s) -> p n s a <= 0 -> f a = 0) -> sum (acts (n, s)) f = sum (acts s) f.
Proof.
  intros n s f law zero. rewrite acts_given by exact law. unfold given.
  revert zero. generalize (acts s). intros l zero. induction l as [| a l IH]; [reflexivity |].
  assert (forall b, In b l -> p n s b <= 0 -> f b = 0) as rest_zero
    by (intros b b_in; apply zero; now right).
  rewrite sum_cons, <- (IH rest_zero). cbn [filter].
  destruct Rlt_dec as [pos | forbidden]; [apply sum_cons |].
  rewrite zero; [ring | now left | lra].
Qed.

Lemma inside_prob : forall q n s tau, prob (inside q) n (n, s) tau = prob q n s tau.
Proof.
  intros q n. induction n as [| n IH]; intros s [| a rest]; cbn [prob]; auto.
  cbn [next support fst snd pred]. now rewrite IH.
Qed.

Lemma inside_total : forall r n s tau, total (inside r) n (n, s) tau = total r n s tau.
Proof.
  intros r n. induction n as [| n IH]; intros s [| a rest]; cbn [total]; auto.
  cbn [next support fst snd pred]. now rewrite IH.
Qed.

Lemma inside_everywhere : forall (P : nat -> St -> Prop) n s, policy p n s ->
  everywhere P n s -> everywhere (fun m x => P m (snd x) /\ fst x = m /\
    distribution (acts (snd x)) (p m (snd x))) n (n, s).
Proof.
  intros P n. induction n as [| n IH]; intros s pol all; cbn [everywhere]; [exact I |].
  destruct pol as [law pol], all as [here below]. split; [cbn [fst snd]; auto |].
  intros a a_in. rewrite acts_given in a_in by exact law. apply in_given in a_in as [a_in _].
  cbn [next support fst snd pred]. apply IH; auto.
Qed.

Lemma inside_positive : forall n s, policy p n s -> positive (inside p) n (n, s).
Proof.
  intros n s pol. pose proof (inside_everywhere _ n s pol pol) as states.
  revert states. apply everywhere_imp. intros m [k t] (_ & same & law) a a_in.
  cbn [fst snd] in *. subst k. rewrite acts_given in a_in by exact law.
  now apply in_given in a_in.
Qed.

Lemma inside_policy : forall q n s, policy p n s -> policy q n s -> stays_inside q n s ->
  policy (inside q) n (n, s).
Proof.
  intros q n s pol q_pol inside_q.
  pose proof (inside_everywhere _ n s pol (everywhere_and _ _ _ _ q_pol inside_q)) as states.
  revert states. apply everywhere_imp.
  intros m [k t] (([nonneg one] & zero) & same & law). cbn [fst snd] in *. subst k. split.
  - intros a a_in. rewrite acts_given in a_in by exact law. apply in_given in a_in as [a_in _].
    now apply nonneg.
  - change (sum (acts (m, t)) (q m t) = 1). rewrite sum_given; auto.
Qed.

Lemma inside_expect : forall q n s g, policy p n s -> stays_inside q n s ->
  expect (inside q) n (n, s) g = expect q n s g.
Proof.
  intros q n. induction n as [| n IH]; intros s g pol inside_q.
  - unfold expect. simpl. ring.
  - destruct pol as [law pol], inside_q as [zero inside_q].
    rewrite !expect_S. rewrite sum_given.
    + apply sum_ext. intros a a_in. cbn [next support fst snd pred].
      now rewrite IH by (now apply pol || now apply inside_q).
    + exact law.
    + intros a a_in forbidden. change (inside q (S n) (S n, s) a) with (q (S n) s a).
      rewrite zero by assumption. ring.
Qed.

Lemma itself_inside : forall n s, policy p n s -> stays_inside p n s.
Proof.
  intros n s. apply everywhere_imp. intros m t [nonneg _] a a_in forbidden.
  specialize (nonneg a a_in). lra.
Qed.

Lemma inside_value : forall q r n s, policy p n s -> stays_inside q n s ->
  value (inside q) (inside r) n (n, s) = value q r n s.
Proof.
  intros q r n s pol inside_q. unfold value. rewrite <- (inside_expect q) by assumption.
  apply sum_ext. intros tau _. now rewrite inside_total.
Qed.

Lemma inside_entropy : forall q n s, policy p n s -> stays_inside q n s ->
  entropy (inside q) n (n, s) = entropy q n s.
Proof.
  intros q n s pol inside_q. unfold entropy. rewrite <- (inside_expect q) by assumption.
  f_equal. apply sum_ext. intros tau _. now rewrite inside_prob.
Qed.

Lemma inside_kl : forall q q' n s, policy p n s -> stays_inside q n s ->
  kl (inside q) (inside q') n (n, s) = kl q q' n s.
Proof.
  intros q q' n s pol inside_q. unfold kl. rewrite <- (inside_expect q) by assumption.
  apply sum_ext. intros tau _. unfold log_ratio. now rewrite !inside_prob.
Qed.

(** ** The rows *)

Variables (alpha : R) (v : nat -> St -> R).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis gauge_v : gauge v.

(** The gauge on the tree of what [p] can give. *)
Let v_inside (n : nat) (x : nat * St) : R := v n (snd x).

Let r_hat : table (nat * St) T := inside (endogenous alpha p v).

(** It is the endogenous reward there. *)
Lemma r_hat_inside : r_hat = endogenous alpha (inside p) v_inside.
Proof. reflexivity. Qed.

Lemma gauge_inside : gauge v_inside.
Proof. intros x. apply gauge_v. Qed.

(** The responses that [p] can give. *)
Lemma responses_inside : forall n s tau, policy p n s ->
  In tau (responses n (n, s)) <-> In tau (responses n s) /\ 0 < prob p n s tau.
Proof.
  intros n. induction n as [| n IH]; intros s tau pol.
  - cbn [responses In]. split; [| now intros [same _]].
    intros [<- | []]. simpl. auto with real.
  - destruct pol as [law pol]. split.
    + intros tau_in. apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
      rewrite acts_given in a_in by exact law. apply in_given in a_in as [a_in pos].
      apply IH in rest_in as [rest_in rest_pos]; [| now apply pol].
      split; [now apply in_responses_cons |]. cbn [prob]. now apply Rmult_lt_0_compat.
    + intros [tau_in pos]. apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
      cbn [prob] in pos. pose proof (prob_nonneg p n _ rest (pol a a_in) rest_in) as rest_nonneg.
      pose proof (proj1 law a a_in) as a_nonneg.
      assert (0 < p (S n) s a) by (apply Rnot_le_lt; intros none; nra).
      assert (0 < prob p n (next s a) rest) by (apply Rnot_le_lt; intros none; nra).
      apply in_responses_cons. rewrite acts_given, in_given by exact law.
      split; [now split |]. apply IH; [now apply pol | now split].
Qed.

(** soft-rl-fixed-point: the maximiser is [π̂], among the policies that forbid what it forbids. *)
Theorem soft_rl_fixed_point_inside : forall (q : table (nat * St) T) n s, policy p n s ->
  policy q n (n, s) ->
  (forall q' : table (nat * St) T, policy q' n (n, s) ->
     regularised alpha q' r_hat n (n, s) <= regularised alpha q r_hat n (n, s)) <->
  (forall tau, In tau (responses n s) -> 0 < prob p n s tau ->
     prob q n (n, s) tau = prob p n s tau).
Proof.
  intros q n s pol q_pol. pose proof (itself_inside n s pol) as itself.
  rewrite r_hat_inside, (soft_rl_fixed_point alpha alpha_pos (inside p) v_inside n (n, s))
    by auto using inside_policy, inside_positive, gauge_inside.
  split; intros same tau.
  - intros tau_in pos. rewrite same; [apply inside_prob | now apply responses_inside].
  - intros tau_in. apply responses_inside in tau_in as [tau_in pos]; [| exact pol].
    rewrite inside_prob. now apply same.
Qed.

(** irl-saddle. *)
Theorem irl_saddle_inside : forall n s, policy p n s ->
  value p (endogenous alpha p v) n s - soft_values alpha r_hat n (n, s)
  = - (alpha * entropy p n s).
Proof.
  intros n s pol. pose proof (itself_inside n s pol) as itself.
  rewrite <- inside_entropy, <- inside_value by assumption.
  exact (irl_saddle alpha alpha_pos (inside p) v_inside n (n, s)
           (inside_policy p n s pol pol itself) (inside_positive n s pol) gauge_inside).
Qed.

(** irl-gap and inverse-soft-q, of data that forbid what [π̂] forbids: elsewhere the divergence is
    infinite. *)
Theorem irl_gap_inside : forall expert n s, policy p n s -> policy expert n s ->
  stays_inside expert n s ->
  - (alpha * entropy expert n s)
  - (value expert (endogenous alpha p v) n s - soft_values alpha r_hat n (n, s))
  = alpha * kl expert p n s.
Proof.
  intros expert n s pol expert_pol expert_inside. pose proof (itself_inside n s pol) as itself.
  rewrite <- (inside_entropy expert), <- (inside_value expert), <- (inside_kl expert)
    by assumption.
  exact (irl_gap alpha alpha_pos (inside p) v_inside (inside expert) n (n, s)
           (inside_policy p n s pol pol itself) (inside_positive n s pol) gauge_inside
           (inside_policy expert n s pol expert_pol expert_inside)).
Qed.

Theorem inverse_soft_q_inside : forall expert n s, policy p n s -> policy expert n s ->
  stays_inside expert n s ->
  let q_hat := soft_q alpha r_hat in
  value (inside expert) (fun m x a => q_hat m x a - soft_maximum alpha (acts x) (q_hat m x))
    n (n, s)
  = alpha * expect expert n s (fun tau => ln (prob p n s tau)).
Proof.
  intros expert n s pol expert_pol expert_inside. pose proof (itself_inside n s pol) as itself.
  rewrite <- (inside_expect expert) by assumption.
  transitivity (alpha * expect (inside expert) n (n, s)
                          (fun tau => ln (prob (inside p) n (n, s) tau))).
  2: { f_equal. apply sum_ext. intros tau _. now rewrite !inside_prob. }
  exact (inverse_soft_q alpha alpha_pos (inside p) v_inside (inside expert) n (n, s)
           (inside_policy p n s pol pol itself) (inside_positive n s pol) gauge_inside
           (inside_policy expert n s pol expert_pol expert_inside)).
Qed.

(** anchored-two-ways. *)
Theorem anchored_two_ways_inside : forall n s tau, policy p n s ->
  In tau (responses n s) -> 0 < prob p n s tau ->
  prob (kl_optimal alpha r_hat (inside p)) n (n, s) tau
  = prob (power_policy 2 (inside p)) n (n, s) tau.
Proof.
  intros n s tau pol tau_in pos. pose proof (itself_inside n s pol) as itself.
  apply (anchored_two_ways alpha (inside p) v_inside n (n, s) alpha_pos
           (inside_policy p n s pol pol itself) (inside_positive n s pol) gauge_inside).
  now apply responses_inside.
Qed.

End Support.
