(** Bounds by length (docs/theory.md, sections 3 and 4): only states with a choice count, so that
    with end tokens it is the length of responses that matters, and not where they are cut. *)

From Coq Require Import Reals List Lra Lia PeanoNat.
From Endorm Require Export Preferences Cloning ReinforcementLearning.
Import ListNotations.
Open Scope R_scope.

(** ** States with a choice *)

Section Choices.
Context {St T : Type} {D : Dynamics St T}.
Implicit Types (p q r expert : table St T) (n : nat) (s : St) (eps : R).

(** One in a state that allows more than one token, else zero. Its sum along a response is [T(τ)],
    the number of states with a choice on the way, and its value [E_π[T]]. *)
Definition choices : table St T := fun _ s _ => if (1 <? length (acts s))%nat then 1 else 0.

(** [T] of what follows the first tokens of a response. *)
Definition choices_after n s (shared rest : list T) : R :=
  total choices (n - length shared) (fold_left next shared s) rest.

(** Where every state has a choice, [T = H]: the rows by length are then those by the horizon. *)
Lemma total_choices : forall n s tau, everywhere (fun _ t => (1 < length (acts t))%nat) n s ->
  In tau (responses n s) -> total choices n s tau = INR n.
Proof.
  intros n s tau many tau_in.
  rewrite (total_ext choices (fun _ _ _ => 1)), total_const by
    (exact tau_in || (revert many; apply everywhere_imp; intros m t many a _; unfold choices;
                      now apply Nat.ltb_lt in many as ->)).
  ring.
Qed.

Lemma value_choices : forall p n s, everywhere (fun _ t => (1 < length (acts t))%nat) n s ->
  policy p n s -> value p choices n s = INR n.
Proof.
  intros p n s many pol. rewrite <- (expect_const p n s (INR n) pol).
  apply expect_ext; [exact pol |]. intros tau tau_in _. now apply total_choices.
Qed.

(** In a state without a choice two policies are the same. *)
Lemma one_token : forall s (x y : T -> R), (length (acts s) <= 1)%nat ->
  distribution (acts s) x -> distribution (acts s) y -> forall a, In a (acts s) -> x a = y a.
Proof.
  intros s x y short [_ x_one] [_ y_one] a a_in.
  destruct (acts s) as [| b [| c rest]]; [contradiction | | cbn [length] in short; lia].
  rewrite sum_cons, sum_nil in x_one, y_one. destruct a_in as [<- | []]. lra.
Qed.

Lemma ball_choices : forall eps p q n s, policy p n s -> policy q n s ->
  log_ratio_ball eps p q n s ->
  everywhere (fun m t => forall a, In a (acts t) ->
    Rabs (ln (p m t a) - ln (q m t a)) <= eps * choices m t a) n s.
Proof.
  intros eps p q n s p_pol q_pol ball.
  pose proof (states_of_ball _ _ _ _ _ p_pol q_pol ball) as states.
  revert states. apply everywhere_imp. intros m t (p_law & q_law & within) a a_in.
  unfold choices. destruct (Nat.ltb_spec 1 (length (acts t))) as [_ | short].
  - rewrite Rmult_1_r. now apply within.
  - rewrite (one_token t (p m t) (q m t) short p_law q_law a a_in).
    rewrite Rminus_diag_eq, Rabs_R0 by reflexivity. lra.
Qed.

Lemma total_abs_le : forall r r' n s tau,
  everywhere (fun m t => forall a, In a (acts t) -> Rabs (r m t a) <= r' m t a) n s ->
  In tau (responses n s) -> Rabs (total r n s tau) <= total r' n s tau.
Proof.
  intros r r' n. induction n as [| n IH]; intros s tau small tau_in.
  - destruct tau; cbn [total]; rewrite Rabs_R0; lra.
  - apply in_responses_S in tau_in as (a & rest & -> & a_in & rest_in).
    destruct small as [here below]. cbn [total].
    eapply Rle_trans; [apply Rabs_triang |]. apply Rplus_le_compat; auto.
Qed.

(** In the ball, [|D(τ)| ≤ ε T(τ)]. *)
Lemma log_ratio_choices : forall eps p q n s tau, policy p n s -> policy q n s ->
  log_ratio_ball eps p q n s -> In tau (responses n s) ->
  Rabs (log_ratio p q n s tau) <= eps * total choices n s tau.
Proof.
  intros eps p q n s tau p_pol q_pol ball tau_in.
  rewrite log_ratio_total, <- total_scale by eauto using ball_positive_l, ball_positive_r.
  apply total_abs_le; [now apply ball_choices | exact tau_in].
Qed.

Lemma expect_log_ratio_choices : forall eps p q rl n s, policy p n s -> policy q n s ->
  log_ratio_ball eps p q n s -> policy rl n s ->
  - eps * value rl choices n s <= expect rl n s (log_ratio p q n s).
Proof.
  intros eps p q rl n s p_pol q_pol ball rl_pol.
  unfold value. rewrite <- expect_scale. apply expect_le; [exact rl_pol |]. intros tau tau_in _.
  pose proof (log_ratio_choices eps p q n s tau p_pol q_pol ball tau_in) as near.
  apply abs_le_inv in near. lra.
Qed.

(** Row kl-length: [KL(π̂‖π_E) ≤ E_π̂[T] ε tanh(ε/2)]. By the symmetry of the ball (ball_sym) the
    same is true with the two policies swapped. *)
Theorem kl_length : forall eps expert p n s,
  policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  kl p expert n s <= value p choices n s * eps * tanh (eps / 2).
Proof.
  intros eps expert p [| n] s expert_pol pol ball.
  - rewrite value_0. unfold kl, expect, log_ratio. simpl. rewrite ln_1. lra.
  - pose proof (ball_radius _ _ _ _ _ ball) as eps_nonneg.
    rewrite kl_value, <- value_mean by eauto using ball_positive_l.
    replace (value p choices (S n) s * eps * tanh (eps / 2))
      with (eps * tanh (eps / 2) * value p choices (S n) s) by ring.
    rewrite <- value_scale. apply value_le; [exact pol |].
    pose proof (states_of_ball _ _ _ _ _ expert_pol pol ball) as states.
    revert states. apply everywhere_imp. intros m t (expert_law & law & within) a _.
    unfold choices. destruct (Nat.ltb_spec 1 (length (acts t))) as [_ | short].
    + rewrite Rmult_1_r. now apply near_kl.
    + rewrite Rmult_0_r. right. apply sum_zero. intros b b_in.
      rewrite (one_token t (p m t) (expert m t) short law expert_law b b_in). ring.
Qed.

End Choices.

(** ** Preferences *)

Section PreferenceLength.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha eps : R) (r p : table St T) (v : nat -> St -> R) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis pol : policy p n s.
Hypothesis gauge_v : gauge v.

Let expert := soft_policy alpha r.
Let r_hat := endogenous alpha p v.

(** Along two responses that share their first tokens, a table differs only where they part. *)
Lemma total_parted : forall (f g : table St T) m t shared rest rest',
  everywhere (fun m t => forall a, In a (acts t) -> Rabs (f m t a) <= g m t a) m t ->
  In (shared ++ rest) (responses m t) -> In (shared ++ rest') (responses m t) ->
  Rabs (total f m t (shared ++ rest) - total f m t (shared ++ rest'))
  <= total g (m - length shared) (fold_left next shared t) rest
     + total g (m - length shared) (fold_left next shared t) rest'.
Proof.
  intros f g m t shared. revert m t. induction shared as [| a shared IH];
    intros m t rest rest' small rest_in rest_in'; cbn [app length fold_left].
  - rewrite Nat.sub_0_r. unfold Rminus. eapply Rle_trans; [apply Rabs_triang |].
    rewrite Rabs_Ropp. now apply Rplus_le_compat; apply total_abs_le.
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

(** Row preference-length: [TV ≤ tanh(αε(T + T')/4)] for responses that share their first tokens,
    [T] and [T'] the number of states with a choice on the way of either after these. *)
Theorem preference_length : forall shared rest rest',
  log_ratio_ball eps expert p n s ->
  In (shared ++ rest) (responses n s) -> In (shared ++ rest') (responses n s) ->
  preference_tv r r_hat n s (shared ++ rest) (shared ++ rest')
  <= tanh (alpha * eps * (choices_after n s shared rest + choices_after n s shared rest') / 4).
Proof.
  intros shared rest rest' ball rest_in rest_in'.
  assert (positive p n s) as pos by (eapply ball_positive_r; exact ball).
  eapply Rle_trans; [now apply preference_of_pair; auto using prob_pos |].
  apply tanh_mono.
  rewrite !log_ratio_total by (assumption || now apply soft_policy_positive).
  pose proof (total_parted _ _ n s shared rest rest'
    (ball_choices eps _ p n s (soft_policy_policy alpha r n s) pol ball) rest_in rest_in') as near.
  rewrite !(total_scale eps choices) in near. unfold choices_after.
  apply (Rmult_le_compat_l alpha) in near; lra.
Qed.

End PreferenceLength.

(** ** RL on the endogenous reward *)

Section RLLength.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha eps delta : R) (r p rl : table St T) (v : nat -> St -> R) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis pol : policy p n s.
Hypothesis gauge_v : gauge v.

Let expert := soft_policy alpha r.
Let r_hat := endogenous alpha p v.

Hypothesis rl_pol : policy rl n s.
Hypothesis rl_optimal : optimal_up_to delta r_hat rl n s.

(** Row rl-length: [V^{π_E} − V^{π_RL} ≤ αε(E_{π_E}[T] tanh(ε/2) + E_{π_RL}[T])]. Where [rl] plays
    one response [τ_RL], the last term is [T(τ_RL)]. *)
Theorem rl_length : log_ratio_ball eps expert p n s ->
  value expert r n s - value rl r n s <=
  alpha * eps * (value expert choices n s * tanh (eps / 2) + value rl choices n s) + delta.
Proof.
  intros ball. assert (positive p n s) as pos by (eapply ball_positive_r; exact ball).
  eapply Rle_trans; [now apply (rl_average alpha delta r p rl v n s) |].
  assert (policy expert n s) as expert_pol by apply soft_policy_policy.
  pose proof (kl_length eps p expert n s pol expert_pol (ball_sym _ _ _ _ _ ball)) as divergence.
  pose proof (expect_log_ratio_choices eps _ _ rl n s expert_pol pol ball rl_pol) as below.
  apply (Rmult_le_compat_l alpha) in divergence; [| lra].
  apply (Rmult_le_compat_l alpha) in below; [| lra]. unfold expert in *. lra.
Qed.

End RLLength.
