(** Token MDPs without end, as in docs/theory.md, section 6: rewards discounted by [γ], stationary
    policies. A value is the bounded solution of its Bellman equation: there is exactly one
    ([discounted_value_unique], [discounted_value_exists]).

    States are all those that the first one leads to; a theorem "for all states" is one for each
    first state. *)

From Coq Require Import Reals Lra Lia List.
From Endorm Require Import Definitions Scalars Distributions.
Import ListNotations.
Open Scope R_scope.

Definition bounded {X : Type} (f : X -> R) : Prop := exists m, forall x, Rabs (f x) <= m.

(** ** Bounded functions *)

Lemma bounded_above {X : Type} (f : X -> R) : bounded f -> exists m, forall x, f x <= m.
Proof. intros [m H]. exists m. intros x. pose proof (abs_le_inv _ _ (H x)). lra. Qed.

Lemma bounded_plus {X : Type} (f h : X -> R) :
  bounded f -> bounded h -> bounded (fun x => f x + h x).
Proof.
  intros [m F] [n G]. exists (m + n). intros x. specialize (F x). specialize (G x).
  eapply Rle_trans; [apply Rabs_triang | lra].
Qed.

Lemma bounded_scale {X : Type} c (f : X -> R) : bounded f -> bounded (fun x => c * f x).
Proof.
  intros [m F]. exists (Rabs c * m). intros x. rewrite Rabs_mult.
  apply Rmult_le_compat_l; [apply Rabs_pos | apply F].
Qed.

Lemma bounded_minus {X : Type} (f h : X -> R) :
  bounded f -> bounded h -> bounded (fun x => f x - h x).
Proof.
  intros F H. destruct (bounded_plus f (fun x => -1 * h x) F (bounded_scale (-1) h H)) as [m B].
  exists m. intros x. replace (f x - h x) with (f x + -1 * h x) by ring. apply B.
Qed.

Lemma bounded_const {X : Type} c : bounded (fun _ : X => c).
Proof. exists (Rabs c). intros. lra. Qed.

Lemma bounded_at {X Y : Type} (f : X -> R) (h : Y -> X) : bounded f -> bounded (fun y => f (h y)).
Proof. intros [m F]. exists m. intros y. apply F. Qed.

Section Discounted.
Context {St T : Type} {D : Dynamics St T} (gamma : R).

Implicit Types (p q x r : St -> T -> R) (v g : St -> R) (s : St) (tau : nat -> T).

(** ** Definitions *)

Definition stationary_policy p : Prop := forall s, distribution (acts s) (p s).

(** [|log p(a|s) − log q(a|s)| ≤ ε] for all states and tokens, in nats. *)
Definition stationary_ball (eps : R) p q : Prop :=
  forall s a, In a (acts s) -> 0 < p s a /\ 0 < q s a /\ Rabs (ln (p s a) - ln (q s a)) <= eps.

(** Rewards lie in [[lo, lo + width]]. *)
Definition stationary_range (lo width : R) r : Prop :=
  forall s a, In a (acts s) -> lo <= r s a <= lo + width.

(** [v(s) = E_p Σ_h γ^{h−1} x(s_h, a_h)] from each state. *)
Definition is_discounted_value p x v : Prop :=
  bounded v /\ forall s, v s = ∑ a ∈ acts s, p s a * (x s a + gamma * v (next s a)).

(** The greatest such sum. *)
Definition is_discounted_best_value x v : Prop :=
  bounded v /\ forall s, v s = greatest (acts s) (fun a => x s a + gamma * v (next s a)).

(** [E_p Σ_h γ^{h−1} (r − α log p)]: rewards and entropies, discounted alike. *)
Definition is_discounted_regularised alpha p r v : Prop :=
  is_discounted_value p (fun s a => r s a - alpha * ln (p s a)) v.

(** Discounted [KL(p‖q)], nats. *)
Definition is_discounted_kl p q v : Prop :=
  is_discounted_value p (fun s a => ln (p s a) - ln (q s a)) v.

(** [V* = α log Σ_a exp(Q*/α)], [Q*(s,a) = r(s,a) + γ V*(s')]. *)
Definition is_discounted_soft_value alpha r v : Prop :=
  bounded v /\ forall s, v s = soft_maximum alpha (acts s) (fun a => r s a + gamma * v (next s a)).

(** [π_E = softmax(Q*/α)], with [V*]. *)
Definition discounted_soft_policy alpha r v s : T -> R :=
  softmax alpha (acts s) (fun a => r s a + gamma * v (next s a)).

(** [r̂(s,a) = α log π̂(a|s) + V̂(s) − γ V̂(s')], [V̂] any bounded gauge. *)
Definition discounted_endogenous alpha p g s a : R :=
  alpha * ln (p s a) + g s - gamma * g (next s a).

(** The state after [n] tokens of an endless response. *)
Fixpoint state_after s tau n : St :=
  match n with O => s | S m => next (state_after s tau m) (tau m) end.

Definition response s tau : Prop := forall n, In (tau n) (acts (state_after s tau n)).

(** [u n] is what a response still earns after [n] tokens; [u 0] is its discounted return. *)
Definition is_discounted_return x s tau (u : nat -> R) : Prop :=
  bounded u /\ forall n, u n = x (state_after s tau n) (tau n) + gamma * u (S n).

(** ** Contraction *)

Hypothesis gamma_range : 0 <= gamma < 1.

Lemma pow_gamma_small e c : 0 < e -> exists n, gamma ^ n * c < e.
Proof.
  intros He. destruct (pow_lt_1_zero gamma) with (y := e / (Rabs c + 1)) as [n Hn].
  - rewrite Rabs_pos_eq; lra.
  - apply Rdiv_lt_0_compat; [lra | pose proof (Rabs_pos c); lra].
  - exists n. specialize (Hn n (Nat.le_refl n)).
    rewrite Rabs_pos_eq in Hn by (apply pow_le; lra).
    pose proof (Rabs_pos c). pose proof (Rle_abs c). pose proof (pow_le gamma n ltac:(lra)).
    apply (Rmult_lt_compat_r (Rabs c + 1)) in Hn; [| lra].
    replace (e / (Rabs c + 1) * (Rabs c + 1)) with e in Hn by (field; lra).
    assert (gamma ^ n * c <= gamma ^ n * Rabs c) by (apply Rmult_le_compat_l; lra).
    lra.
Qed.

(** What any upper bound [m] improves to [c + γ m] is below the fixed point [c/(1−γ)] of that. *)
Lemma contraction {X : Type} (P : X -> Prop) (f : X -> R) c :
  (exists m, forall i, P i -> f i <= m) ->
  (forall m, (forall i, P i -> f i <= m) -> forall i, P i -> f i <= c + gamma * m) ->
  forall i, P i -> f i <= c / (1 - gamma).
Proof.
  intros [m0 H0] H i Pi.
  assert (L : forall n i, P i -> f i <= c / (1 - gamma) + gamma ^ n * (m0 - c / (1 - gamma))).
  { induction n as [| n IH]; intros y Py.
    - cbn. specialize (H0 y Py). lra.
    - specialize (H _ IH y Py). refine (Rle_trans _ _ _ H _). right. cbn [pow]. field. lra. }
  apply le_epsilon. intros e He.
  destruct (pow_gamma_small e (m0 - c / (1 - gamma)) He) as [n Hn].
  specialize (L n i Pi). lra.
Qed.

(** A policy form: what is at most a mean of [x + γ·itself] where the means of [x] are at most
    [c]. *)
Lemma policy_contraction p f x c :
  stationary_policy p -> bounded f ->
  (forall s, f s <= ∑ a ∈ acts s, p s a * (x s a + gamma * f (next s a))) ->
  (forall s, (∑ a ∈ acts s, p s a * x s a) <= c) ->
  forall s, f s <= c / (1 - gamma).
Proof.
  intros P B H X s. apply (contraction (fun _ => True)); [| | exact I].
  - destruct (bounded_above f B) as [m Hm]. now exists m.
  - intros m Hm t _. eapply Rle_trans; [apply H |].
    rewrite (sum_ext _ _ (fun a => p t a * x t a + p t a * (gamma * f (next t a))))
      by (intros; ring).
    rewrite sum_plus. apply Rplus_le_compat; [apply X |].
    apply mean_le_const; [apply P |]. intros a _. apply Rmult_le_compat_l; [lra | now apply Hm].
Qed.

(** A response's form: at most [c + γ·itself] at some next state. *)
Lemma token_contraction f c :
  bounded f ->
  (forall s, exists a, In a (acts s) /\ f s <= c + gamma * f (next s a)) ->
  forall s, f s <= c / (1 - gamma).
Proof.
  intros B H s. apply (contraction (fun _ => True)); [| | exact I].
  - destruct (bounded_above f B) as [m Hm]. now exists m.
  - intros m Hm t _. destruct (H t) as (a & _ & L). eapply Rle_trans; [exact L |].
    apply Rplus_le_compat_l, Rmult_le_compat_l; [lra | now apply Hm].
Qed.

(** ** Values are determined by their equations *)

Theorem discounted_value_unique p x v w :
  stationary_policy p -> is_discounted_value p x v -> is_discounted_value p x w -> forall s, v s = w s.
Proof.
  intros P.
  assert (H : forall v w, is_discounted_value p x v -> is_discounted_value p x w ->
              forall s, v s <= w s).
  { clear v w. intros v w [Bv V] [Bw W] s.
    enough (v s - w s <= 0 / (1 - gamma)) by lra.
    apply (policy_contraction p (fun s => v s - w s) (fun _ _ => 0) 0 P).
    - now apply bounded_minus.
    - intros t. rewrite (V t), (W t), <- sum_minus. right. apply sum_ext. intros. ring.
    - intros t. rewrite sum_zero; [lra |]. intros. ring. }
  intros V W s. apply Rle_antisym; now apply H.
Qed.

Lemma discounted_soft_value_le alpha r v w :
  0 < alpha -> is_discounted_soft_value alpha r v -> is_discounted_soft_value alpha r w ->
  forall s, v s - w s <= 0.
Proof.
  intros Ha [Bv V] [Bw W] s. replace 0 with (0 / (1 - gamma)) by (field; lra).
  apply (contraction (fun _ => True) (fun s => v s - w s)); [| | exact I].
  - destruct (bounded_above _ (bounded_minus v w Bv Bw)) as [m Hm]. now exists m.
  - intros m Hm t _. rewrite (V t), (W t).
    enough (soft_maximum alpha (acts t) (fun a => r t a + gamma * v (next t a))
            <= soft_maximum alpha (acts t) (fun a => r t a + gamma * w (next t a)) + gamma * m)
      by lra.
    rewrite <- soft_maximum_shift by auto using acts_nonempty.
    apply soft_maximum_mono; auto using acts_nonempty. intros a _.
    specialize (Hm (next t a) I).
    assert (gamma * (v (next t a) - w (next t a)) <= gamma * m)
      by (apply Rmult_le_compat_l; lra). lra.
Qed.

Theorem discounted_soft_value_unique alpha r v w :
  0 < alpha -> is_discounted_soft_value alpha r v -> is_discounted_soft_value alpha r w ->
  forall s, v s = w s.
Proof.
  intros Ha V W s. pose proof (discounted_soft_value_le alpha r v w Ha V W s).
  pose proof (discounted_soft_value_le alpha r w v Ha W V s). lra.
Qed.

(** A return is the limit of the partial sums [Σ_{h<n} γ^h x(s_h, a_h)]. *)
Theorem discounted_return_is_series x s tau u :
  is_discounted_return x s tau u ->
  infinite_sum (fun n => gamma ^ n * x (state_after s tau n) (tau n)) (u O).
Proof.
  intros [[m B] U].
  assert (E : forall n, sum_f_R0 (fun n => gamma ^ n * x (state_after s tau n) (tau n)) n
              = u O - gamma ^ S n * u (S n)).
  { induction n as [| n IH].
    - cbn [sum_f_R0 pow]. rewrite (U O). ring.
    - cbn [sum_f_R0]. rewrite IH, (U (S n)). cbn [pow]. ring. }
  intros e He. destruct (pow_gamma_small e (m + 1) He) as [N HN].
  exists N. intros n Hn. unfold R_dist. rewrite E.
  replace (u O - gamma ^ S n * u (S n) - u O) with (- (gamma ^ S n * u (S n))) by ring.
  rewrite Rabs_Ropp, Rabs_mult, (Rabs_pos_eq (gamma ^ S n)) by (apply pow_le; lra).
  assert (0 <= m) by (pose proof (Rabs_pos (u O)); specialize (B O); lra).
  apply Rle_lt_trans with (gamma ^ N * (m + 1)); [| assumption].
  apply Rmult_le_compat; [apply pow_le; lra | apply Rabs_pos | |].
  - replace (S n) with (N + (S n - N))%nat by lia. rewrite pow_add.
    rewrite <- (Rmult_1_r (gamma ^ N)) at 2. apply Rmult_le_compat_l; [apply pow_le; lra |].
    rewrite <- (pow1 (S n - N)). apply pow_incr. lra.
  - specialize (B (S n)). lra.
Qed.

(** ** And the equations have solutions, where rewards are bounded *)

Section FixedPoint.
Variable operator : (St -> R) -> St -> R.
Hypothesis operator_contracts : forall v w m,
  (forall s, Rabs (v s - w s) <= m) -> forall s, Rabs (operator v s - operator w s) <= gamma * m.
Hypothesis operator_bounded : bounded (operator (fun _ => 0)).

Fixpoint iterate (n : nat) : St -> R :=
  match n with O => fun _ => 0 | S m => operator (iterate m) end.

Lemma fixed_point_exists : exists v, bounded v /\ forall s, v s = operator v s.
Proof.
  destruct operator_bounded as [m0 B0].
  assert (Step : forall n s, Rabs (iterate (S n) s - iterate n s) <= gamma ^ n * Rabs m0).
  { induction n as [| n IH]; intros s.
    - cbn [iterate pow]. rewrite Rminus_0_r, Rmult_1_l.
      eapply Rle_trans; [apply B0 | apply Rle_abs].
    - cbn [pow]. rewrite Rmult_assoc. apply operator_contracts. exact IH. }
  set (K := Rabs m0 / (1 - gamma)).
  assert (HK : 0 <= K)
    by (apply Rmult_le_pos; [apply Rabs_pos | left; apply Rinv_0_lt_compat; lra]).
  assert (Far : forall n k s, Rabs (iterate (n + k) s - iterate n s) <= gamma ^ n * K).
  { assert (F : forall k n s,
               Rabs (iterate (n + k) s - iterate n s) <= gamma ^ n * K * (1 - gamma ^ k)).
    { induction k as [| k IH]; intros n s.
      - rewrite Nat.add_0_r, Rminus_diag_eq, Rabs_R0 by reflexivity. cbn. lra.
      - replace (iterate (n + S k) s - iterate n s)
          with ((iterate (S (n + k)) s - iterate (n + k) s) + (iterate (n + k) s - iterate n s))
          by (rewrite Nat.add_succ_r; ring).
        eapply Rle_trans; [apply Rabs_triang |].
        pose proof (Step (n + k)%nat s) as L. rewrite pow_add in L. specialize (IH n s).
        replace (Rabs m0) with (K * (1 - gamma)) in L by (unfold K; field; lra).
        cbn [pow]. lra. }
    intros n k s. eapply Rle_trans; [apply F |].
    pose proof (pow_le gamma n ltac:(lra)). pose proof (pow_le gamma k ltac:(lra)).
    assert (0 <= gamma ^ n * K) by (apply Rmult_le_pos; lra).
    assert (0 <= gamma ^ n * K * gamma ^ k) by (apply Rmult_le_pos; lra). lra. }
  assert (Cauchy : forall s, Cauchy_crit (fun n => iterate n s)).
  { intros s e He. destruct (pow_gamma_small (e / 2) K ltac:(lra)) as [N HN].
    exists N. intros n k Hn Hk. unfold R_dist.
    pose proof (Far N (n - N)%nat s) as A1. pose proof (Far N (k - N)%nat s) as A2.
    replace (N + (n - N))%nat with n in A1 by lia. replace (N + (k - N))%nat with k in A2 by lia.
    replace (iterate n s - iterate k s)
      with ((iterate n s - iterate N s) + - (iterate k s - iterate N s)) by ring.
    eapply Rle_lt_trans; [apply Rabs_triang |]. rewrite Rabs_Ropp. lra. }
  set (v := fun s => proj1_sig (R_complete _ (Cauchy s))).
  assert (Near : forall n s, Rabs (v s - iterate n s) <= gamma ^ n * K).
  { intros n s. apply le_epsilon. intros e He.
    destruct (proj2_sig (R_complete _ (Cauchy s)) e He) as [N HN].
    specialize (HN (n + N)%nat ltac:(lia)). fold (v s) in HN. unfold R_dist in HN.
    replace (v s - iterate n s)
      with ((iterate (n + N) s - iterate n s) + - (iterate (n + N) s - v s)) by ring.
    eapply Rle_trans; [apply Rabs_triang |]. rewrite Rabs_Ropp. specialize (Far n N s). lra. }
  exists v. split.
  - exists K. intros s. specialize (Near O s). cbn in Near. rewrite Rminus_0_r in Near. lra.
  - intros s. apply cond_eq. intros e He.
    destruct (pow_gamma_small e (2 * K) He) as [n Hn].
    pose proof (operator_contracts v (iterate n) (gamma ^ n * K) (Near n) s) as C1.
    pose proof (Near (S n) s) as C2. cbn [iterate pow] in C2.
    assert (gamma * (gamma ^ n * K) <= 1 * (gamma ^ n * K)).
    { apply Rmult_le_compat_r; [| lra]. apply Rmult_le_pos; [apply pow_le; lra | assumption]. }
    apply abs_le_inv in C1. apply abs_le_inv in C2. apply Rabs_def1; lra.
Qed.

End FixedPoint.

Lemma abs_sub_le a b m : a <= b + m -> b <= a + m -> Rabs (a - b) <= m.
Proof. unfold Rabs. destruct Rcase_abs; lra. Qed.

Theorem discounted_value_exists p x m :
  stationary_policy p -> (forall s a, In a (acts s) -> Rabs (x s a) <= m) ->
  exists v, is_discounted_value p x v.
Proof.
  intros P X.
  apply (fixed_point_exists
           (fun v s => ∑ a ∈ acts s, p s a * (x s a + gamma * v (next s a)))).
  - intros v w d H s. rewrite <- sum_minus.
    eapply Rle_trans; [apply sum_abs |].
    rewrite <- (mean_const (acts s) (p s) (gamma * d) (P s)).
    apply sum_le. intros a I. specialize (H (next s a)).
    replace (p s a * (x s a + gamma * v (next s a)) - p s a * (x s a + gamma * w (next s a)))
      with (p s a * (gamma * (v (next s a) - w (next s a)))) by ring.
    destruct (P s) as [Pp _].
    rewrite !Rabs_mult, (Rabs_pos_eq (p s a)), (Rabs_pos_eq gamma) by (try apply Pp; auto; lra).
    apply Rmult_le_compat_l; [now apply Pp |]. apply Rmult_le_compat_l; lra.
  - exists m. intros s. eapply Rle_trans; [apply sum_abs |].
    rewrite <- (mean_const (acts s) (p s) m (P s)).
    apply sum_le. intros a I. destruct (P s) as [Pp _].
    rewrite Rmult_0_r, Rplus_0_r, Rabs_mult, (Rabs_pos_eq (p s a)) by now apply Pp.
    apply Rmult_le_compat_l; [now apply Pp | now apply X].
Qed.

Theorem discounted_soft_value_exists alpha r m vocab :
  0 < alpha -> (forall s a, In a (acts s) -> Rabs (r s a) <= m) ->
  (forall s, (length (acts s) <= vocab)%nat) ->
  exists v, is_discounted_soft_value alpha r v.
Proof.
  intros Ha X V.
  apply (fixed_point_exists
           (fun v s => soft_maximum alpha (acts s) (fun a => r s a + gamma * v (next s a)))).
  - intros v w d H s.
    assert (L : forall v w : St -> R, (forall s, v s <= w s + d) ->
      soft_maximum alpha (acts s) (fun a => r s a + gamma * v (next s a))
      <= soft_maximum alpha (acts s) (fun a => r s a + gamma * w (next s a)) + gamma * d).
    { clear v w H. intros v w H. rewrite <- soft_maximum_shift by auto using acts_nonempty.
      apply soft_maximum_mono; auto using acts_nonempty. intros a _. specialize (H (next s a)).
      assert (gamma * v (next s a) <= gamma * (w (next s a) + d))
        by (apply Rmult_le_compat_l; lra). lra. }
    apply abs_sub_le; apply L; intros t; specialize (H t); apply abs_le_inv in H; lra.
  - exists (m + alpha * ln (INR vocab)). intros s.
    set (x := fun a => r s a + gamma * 0).
    assert (Hx : forall a, In a (acts s) -> - m <= x a <= m).
    { intros a I. unfold x. rewrite Rmult_0_r, Rplus_0_r. now apply abs_le_inv, X. }
    destruct (acts s) as [| b rest] eqn:E; [now destruct (acts_nonempty s) |].
    pose proof (Hx b (or_introl eq_refl)) as Hb.
    assert (N : 1 <= INR (length (b :: rest)) <= INR vocab).
    { split; [apply (le_INR 1); cbn; lia | apply le_INR; rewrite <- E; apply V]. }
    assert (Hl : 0 <= alpha * ln (INR vocab)).
    { apply Rmult_le_pos; [lra |]. rewrite <- ln_1. apply ln_mono; lra. }
    unfold soft_maximum. apply Rabs_le. split.
    + apply Rle_trans with (alpha * ln (exp (x b / alpha))).
      * rewrite ln_exp. replace (alpha * (x b / alpha)) with (x b) by (field; lra). lra.
      * apply Rmult_le_compat_l; [lra |]. apply ln_mono; [apply exp_pos |].
        apply (term_le_sum (b :: rest) (fun a => exp (x a / alpha)) b); [| now left].
        intros. left. apply exp_pos.
    + apply Rle_trans with (alpha * ln (INR vocab * exp (m / alpha))).
      * apply Rmult_le_compat_l; [lra |].
        apply ln_mono; [apply sum_pos; [discriminate | intros; apply exp_pos] |].
        apply Rle_trans with (∑ a ∈ b :: rest, exp (m / alpha)).
        -- apply sum_le. intros a I. apply exp_le, Rmult_le_compat_r;
             [left; now apply Rinv_0_lt_compat | now apply Hx].
        -- rewrite sum_const. apply Rmult_le_compat_r; [left; apply exp_pos | lra].
      * rewrite ln_mult, ln_exp by (try apply exp_pos; lra). right. field. lra.
Qed.

(** ** A value is near what nearly solves its equation *)

Theorem discounted_value_near p x v w d :
  stationary_policy p -> is_discounted_value p x v -> bounded w ->
  (forall s, Rabs (w s - ∑ a ∈ acts s, p s a * (x s a + gamma * w (next s a)))
             <= d * (1 - gamma)) ->
  forall s, Rabs (v s - w s) <= d.
Proof.
  intros P [Bv V] Bw W s.
  assert (E : forall t, v t - (∑ a ∈ acts t, p t a * (x t a + gamma * w (next t a)))
              = ∑ a ∈ acts t, p t a * (gamma * (v (next t a) - w (next t a)))).
  { intros t. rewrite (V t), <- sum_minus. apply sum_ext. intros. ring. }
  assert (C : forall c t, (∑ a ∈ acts t, p t a * (c + gamma * (v (next t a) - w (next t a))))
              = c + ∑ a ∈ acts t, p t a * (gamma * (v (next t a) - w (next t a)))).
  { intros c t.
    rewrite (sum_ext _ _ (fun a => p t a * c + p t a * (gamma * (v (next t a) - w (next t a)))))
      by (intros; ring).
    now rewrite sum_plus, mean_const. }
  replace d with (d * (1 - gamma) / (1 - gamma)) by (field; lra).
  apply abs_sub_le.
  - enough (v s - w s <= d * (1 - gamma) / (1 - gamma)) by lra.
    apply (policy_contraction p (fun s => v s - w s) (fun _ _ => d * (1 - gamma)));
      auto using bounded_minus.
    + intros t. rewrite C, <- E. pose proof (abs_le_inv _ _ (W t)). lra.
    + intros t. rewrite mean_const by apply P. lra.
  - enough (-1 * (v s - w s) <= d * (1 - gamma) / (1 - gamma)) by lra.
    apply (policy_contraction p (fun s => -1 * (v s - w s)) (fun _ _ => d * (1 - gamma)));
      auto using bounded_minus, bounded_scale.
    + intros t. pose proof (C (- (d * (1 - gamma))) t) as C'. rewrite <- E in C'.
      pose proof (abs_le_inv _ _ (W t)).
      rewrite (sum_ext _ _ (fun a => -1 * (p t a * (- (d * (1 - gamma))
                 + gamma * (v (next t a) - w (next t a)))))) by (intros; ring).
      rewrite sum_scale, C'. lra.
    + intros t. rewrite mean_const by apply P. lra.
Qed.

(** So it is of any operator that is monotone and moves by [γ m] where values move by [m]. *)
Lemma solution_near (operator : (St -> R) -> St -> R) v w d :
  (forall v w m, (forall s, v s <= w s + m) -> forall s, operator v s <= operator w s + gamma * m) ->
  bounded v -> bounded w -> (forall s, v s = operator v s) ->
  (forall s, Rabs (w s - operator w s) <= d * (1 - gamma)) -> forall s, Rabs (v s - w s) <= d.
Proof.
  intros M Bv Bw V W s. replace d with (d * (1 - gamma) / (1 - gamma)) by (field; lra).
  apply abs_sub_le.
  - enough (v s - w s <= d * (1 - gamma) / (1 - gamma)) by lra.
    apply (contraction (fun _ => True) (fun s => v s - w s)); [| | exact I].
    + destruct (bounded_above _ (bounded_minus v w Bv Bw)) as [m Hm]. now exists m.
    + intros m Hm t _. pose proof (abs_le_inv _ _ (W t)). rewrite (V t).
      pose proof (M v w m (fun s => ltac:(specialize (Hm s I); lra)) t). lra.
  - enough (w s - v s <= d * (1 - gamma) / (1 - gamma)) by lra.
    apply (contraction (fun _ => True) (fun s => w s - v s)); [| | exact I].
    + destruct (bounded_above _ (bounded_minus w v Bw Bv)) as [m Hm]. now exists m.
    + intros m Hm t _. pose proof (abs_le_inv _ _ (W t)). rewrite (V t).
      pose proof (M w v m (fun s => ltac:(specialize (Hm s I); lra)) t). lra.
Qed.

Theorem discounted_soft_value_near alpha r v w d :
  0 < alpha -> is_discounted_soft_value alpha r v -> bounded w ->
  (forall s, Rabs (w s - soft_maximum alpha (acts s) (fun a => r s a + gamma * w (next s a)))
             <= d * (1 - gamma)) ->
  forall s, Rabs (v s - w s) <= d.
Proof.
  intros Ha [Bv V] Bw W.
  apply (solution_near
    (fun v s => soft_maximum alpha (acts s) (fun a => r s a + gamma * v (next s a)))); auto.
  clear v w Bv V Bw W. intros v w m H s. rewrite <- soft_maximum_shift by auto using acts_nonempty.
  apply soft_maximum_mono; auto using acts_nonempty. intros a _. specialize (H (next s a)).
  assert (gamma * v (next s a) <= gamma * (w (next s a) + m)) by (apply Rmult_le_compat_l; lra).
  lra.
Qed.

Theorem discounted_best_value_near x v w d :
  is_discounted_best_value x v -> bounded w ->
  (forall s, Rabs (w s - greatest (acts s) (fun a => x s a + gamma * w (next s a)))
             <= d * (1 - gamma)) ->
  forall s, Rabs (v s - w s) <= d.
Proof.
  intros [Bv V] Bw W.
  apply (solution_near (fun v s => greatest (acts s) (fun a => x s a + gamma * v (next s a)))); auto.
  clear v w Bv V Bw W. intros v w m H s.
  destruct (greatest_in (acts s) (fun a => x s a + gamma * v (next s a)) (acts_nonempty s))
    as (a & I & ->).
  pose proof (greatest_ge (acts s) (fun a => x s a + gamma * w (next s a)) a I) as G. cbv beta in G.
  specialize (H (next s a)).
  assert (gamma * v (next s a) <= gamma * (w (next s a) + m)) by (apply Rmult_le_compat_l; lra).
  lra.
Qed.

Theorem discounted_return_near x s tau u (w : nat -> R) d :
  is_discounted_return x s tau u -> bounded w ->
  (forall n, Rabs (w n - (x (state_after s tau n) (tau n) + gamma * w (S n))) <= d * (1 - gamma)) ->
  forall n, Rabs (u n - w n) <= d.
Proof.
  intros [Bu U] Bw W n. replace d with (d * (1 - gamma) / (1 - gamma)) by (field; lra).
  apply abs_sub_le.
  - enough (u n - w n <= d * (1 - gamma) / (1 - gamma)) by lra.
    apply (contraction (fun _ => True) (fun n => u n - w n)); [| | exact I].
    + destruct (bounded_above _ (bounded_minus u w Bu Bw)) as [m Hm]. now exists m.
    + intros m Hm i _. pose proof (abs_le_inv _ _ (W i)). rewrite (U i). specialize (Hm (S i) I).
      apply (Rmult_le_compat_l gamma) in Hm; lra.
  - enough (w n - u n <= d * (1 - gamma) / (1 - gamma)) by lra.
    apply (contraction (fun _ => True) (fun n => w n - u n)); [| | exact I].
    + destruct (bounded_above _ (bounded_minus w u Bw Bu)) as [m Hm]. now exists m.
    + intros m Hm i _. pose proof (abs_le_inv _ _ (W i)). rewrite (U i). specialize (Hm (S i) I).
      apply (Rmult_le_compat_l gamma) in Hm; lra.
Qed.

End Discounted.
