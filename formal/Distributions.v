(** Facts about distributions on a list of tokens: soft maxima, divergences, and what two
    distributions within [eps] of each other can differ by. *)

From Coq Require Import Reals Lra List.
From Endorm Require Import Definitions Scalars.
Import ListNotations.
Open Scope R_scope.

Section Distributions.
Context {A : Type}.
Implicit Types (l : list A) (p q x : A -> R) (alpha eps : R).

(** ** Means *)

Lemma mean_affine l p x a b :
  distribution l p -> (∑ i ∈ l, p i * (a + b * x i)) = a + b * ∑ i ∈ l, p i * x i.
Proof.
  intros [_ P].
  rewrite (sum_ext l _ (fun i => a * p i + b * (p i * x i))) by (intros; ring).
  rewrite sum_plus, !sum_scale, P. ring.
Qed.

Lemma mean_const l p a : distribution l p -> (∑ i ∈ l, p i * a) = a.
Proof. intros [_ P]. rewrite sum_scale_r, P. ring. Qed.

Lemma mean_le l p x y :
  distribution l p -> (forall i, In i l -> x i <= y i) ->
  (∑ i ∈ l, p i * x i) <= ∑ i ∈ l, p i * y i.
Proof. intros [P _] H. apply sum_le. intros i I. apply Rmult_le_compat_l; auto. Qed.

Lemma mean_le_const l p x a :
  distribution l p -> (forall i, In i l -> x i <= a) -> (∑ i ∈ l, p i * x i) <= a.
Proof. intros P H. rewrite <- (mean_const l p a P). now apply mean_le. Qed.

Lemma mean_ge_const l p x a :
  distribution l p -> (forall i, In i l -> a <= x i) -> a <= ∑ i ∈ l, p i * x i.
Proof. intros P H. rewrite <- (mean_const l p a P) at 1. now apply mean_le. Qed.

Lemma mean_minus l p x y :
  (∑ i ∈ l, p i * (x i - y i)) = (∑ i ∈ l, p i * x i) - ∑ i ∈ l, p i * y i.
Proof. rewrite <- sum_minus. apply sum_ext. intros. ring. Qed.

(** ** Soft maxima *)

Lemma sum_exp_pos l x alpha : l <> [] -> 0 < ∑ a ∈ l, exp (x a / alpha).
Proof. intros L. apply sum_pos; auto using exp_pos. Qed.

Lemma softmax_positive l x alpha a : l <> [] -> 0 < softmax alpha l x a.
Proof. intros L. apply Rdiv_lt_0_compat; auto using exp_pos, sum_exp_pos. Qed.

Lemma softmax_distribution l x alpha : l <> [] -> distribution l (softmax alpha l x).
Proof.
  intros L. pose proof (sum_exp_pos l x alpha L). split.
  - intros a _. left. now apply softmax_positive.
  - unfold softmax, Rdiv. rewrite sum_scale_r. field. lra.
Qed.

(** [α log softmax(x/α) = x − α log Σ exp(x/α)]. *)
Lemma ln_softmax l x alpha a :
  0 < alpha -> l <> [] -> alpha * ln (softmax alpha l x a) = x a - soft_maximum alpha l x.
Proof.
  intros Ha L. unfold softmax, soft_maximum.
  rewrite ln_div, ln_exp by auto using exp_pos, sum_exp_pos. field. lra.
Qed.

Lemma soft_maximum_mono l x y alpha :
  0 < alpha -> l <> [] -> (forall a, In a l -> x a <= y a) ->
  soft_maximum alpha l x <= soft_maximum alpha l y.
Proof.
  intros Ha L H. apply Rmult_le_compat_l; [lra |].
  apply ln_mono; [now apply sum_exp_pos |]. apply sum_le. intros a I.
  apply exp_le, Rmult_le_compat_r; [left; now apply Rinv_0_lt_compat | auto].
Qed.

Lemma soft_maximum_shift l x c alpha :
  0 < alpha -> l <> [] ->
  soft_maximum alpha l (fun a => x a + c) = soft_maximum alpha l x + c.
Proof.
  intros Ha L. unfold soft_maximum.
  rewrite (sum_ext l _ (fun a => exp (c / alpha) * exp (x a / alpha))).
  - rewrite sum_scale, ln_mult, ln_exp by auto using exp_pos, sum_exp_pos. field. lra.
  - intros a _. rewrite <- exp_plus. f_equal. field. lra.
Qed.

(** The soft maximum of [α log p + c] is [c], and its softmax is [p]. *)
Lemma soft_maximum_ln l p c alpha :
  0 < alpha -> l <> [] -> distribution l p -> (forall a, In a l -> 0 < p a) ->
  soft_maximum alpha l (fun a => alpha * ln (p a) + c) = c.
Proof.
  intros Ha L [_ P] Hp. rewrite soft_maximum_shift by assumption. unfold soft_maximum.
  rewrite (sum_ext l _ p), P, ln_1; [ring |].
  intros a I. replace (alpha * ln (p a) / alpha) with (ln (p a)) by (field; lra).
  now apply exp_ln, Hp.
Qed.

(** ** Divergence of two distributions *)

(** Gibbs: no distribution has a greater mean log-probability than [p] itself. *)
Lemma gibbs l p q :
  distribution l p -> distribution l q -> (forall a, In a l -> 0 < q a) ->
  0 <= ∑ a ∈ l, p a * (ln (p a) - ln (q a)).
Proof.
  intros [Pp Sp] [Pq Sq] Hq.
  replace 0 with (∑ a ∈ l, (p a - q a)) by (rewrite sum_minus; lra).
  apply sum_le. intros a I. pose proof (Hq a I).
  destruct (Pp a I) as [H0 | <-]; [| lra].
  pose proof (ln_le_sub_1 (q a / p a) ltac:(now apply Rdiv_lt_0_compat)) as L.
  rewrite ln_div in L by assumption.
  apply (Rmult_le_compat_l (p a)) in L; [| lra].
  replace (p a * (q a / p a - 1)) with (q a - p a) in L by (field; lra). lra.
Qed.

(** The soft maximum is the greatest mean of [x] plus [alpha] times the entropy. *)
Lemma mean_le_soft_maximum l p x alpha :
  0 < alpha -> l <> [] -> distribution l p ->
  (∑ a ∈ l, p a * (x a - alpha * ln (p a))) <= soft_maximum alpha l x.
Proof.
  intros Ha L P.
  pose proof (gibbs l p (softmax alpha l x) P (softmax_distribution l x alpha L)
                (fun a _ => softmax_positive l x alpha a L)) as G.
  apply (Rmult_le_compat_l alpha) in G; [| lra]. rewrite Rmult_0_r, <- sum_scale in G.
  rewrite <- (mean_const l p (soft_maximum alpha l x) P).
  enough (E : (∑ a ∈ l, alpha * (p a * (ln (p a) - ln (softmax alpha l x a))))
              = (∑ a ∈ l, p a * soft_maximum alpha l x)
                - ∑ a ∈ l, p a * (x a - alpha * ln (p a))) by lra.
  rewrite <- sum_minus. apply sum_ext. intros a _.
  pose proof (ln_softmax l x alpha a Ha L).
  replace (alpha * (p a * (ln (p a) - ln (softmax alpha l x a))))
    with (p a * (alpha * ln (p a) - alpha * ln (softmax alpha l x a))) by ring.
  rewrite H. ring.
Qed.

Lemma soft_maximum_attained l x alpha :
  0 < alpha -> l <> [] ->
  (∑ a ∈ l, softmax alpha l x a * (x a - alpha * ln (softmax alpha l x a)))
  = soft_maximum alpha l x.
Proof.
  intros Ha L.
  rewrite <- (mean_const l _ (soft_maximum alpha l x) (softmax_distribution l x alpha L)).
  apply sum_ext. intros a _. rewrite ln_softmax by assumption. ring.
Qed.

(** ** Within [eps] of each other *)

(** [|log p − log q| ≤ eps] at each token: one state of [log_ratio_ball]. *)
Definition near eps l p q : Prop :=
  forall a, In a l -> 0 < p a /\ 0 < q a /\ Rabs (ln (p a) - ln (q a)) <= eps.

Lemma near_sym eps l p q : near eps l p q -> near eps l q p.
Proof.
  intros H a I. destruct (H a I) as (Hp & Hq & E). repeat split; auto.
  now rewrite Rabs_minus_sym.
Qed.

Lemma near_ratio eps l p q a :
  near eps l p q -> In a l -> exp (- eps) <= q a / p a <= exp eps.
Proof.
  intros H I. destruct (H a I) as (Hp & Hq & E).
  replace (q a / p a) with (exp (ln (q a) - ln (p a))).
  - apply abs_le_inv in E. split; apply exp_le; lra.
  - rewrite exp_sub, !exp_ln by assumption. reflexivity.
Qed.

Lemma near_log eps l p q a : near eps l p q -> In a l -> ln (p a) - ln (q a) <= eps.
Proof. intros H I. destruct (H a I) as (_ & _ & E). apply abs_le_inv in E. lra. Qed.

Lemma near_eps_nonneg eps l p q : l <> [] -> near eps l p q -> 0 <= eps.
Proof.
  destruct l as [| a l]; [contradiction | intros _ H].
  destruct (H a (or_introl eq_refl)) as (_ & _ & E).
  pose proof (Rabs_pos (ln (p a) - ln (q a))). lra.
Qed.

(** Means of densities: [E_p (q/p)² …] are over [p], with [E_p (q/p) = 1]. *)
Lemma mean_density l p q (x : A -> R) :
  (forall a, In a l -> 0 < p a) ->
  (∑ a ∈ l, p a * (q a / p a * x a)) = ∑ a ∈ l, q a * x a.
Proof.
  intros Hp. apply sum_ext. intros a I. pose proof (Hp a I). field. lra.
Qed.

Lemma mean_density_1 l p q :
  distribution l q -> (forall a, In a l -> 0 < p a) -> (∑ a ∈ l, p a * (q a / p a)) = 1.
Proof.
  intros [_ Q] Hp. rewrite <- Q. apply sum_ext. intros a I. pose proof (Hp a I). field. lra.
Qed.

(** What is below an affine function of the density on the ball has a mean below its value at
    one. *)
Lemma mean_of_density_le eps l p q (f : R -> R) a b :
  distribution l p -> distribution l q -> near eps l p q ->
  (forall t, exp (- eps) <= t <= exp eps -> f t <= a + b * t) ->
  (∑ i ∈ l, p i * f (q i / p i)) <= a + b.
Proof.
  intros P Q N H.
  replace (a + b) with (∑ i ∈ l, p i * (a + b * (q i / p i))).
  - apply mean_le; auto. intros i I. apply H. eapply near_ratio; eauto.
  - rewrite mean_affine, mean_density_1; auto; [ring |]. intros i I. now apply N.
Qed.

(** A step of *kl-ball*: [KL(q‖p) ≤ eps tanh(eps/2)]. *)
Lemma near_kl eps l p q :
  0 <= eps -> distribution l p -> distribution l q -> near eps l p q ->
  (∑ a ∈ l, q a * (ln (q a) - ln (p a))) <= eps * tanh (eps / 2).
Proof.
  intros He P Q N.
  destruct (x_ln_x_ball eps 1 He) as (m & _ & Hm).
  { split; [rewrite <- exp_0; apply exp_le; lra | now apply exp_ge_1]. }
  pose proof (mean_of_density_le eps l p q (fun t => t * ln t) (eps * tanh (eps / 2) - m) m
                P Q N) as L.
  cbv beta in L. rewrite mean_density in L by (intros a I; now apply N).
  rewrite (sum_ext l (fun a => q a * (ln (q a) - ln (p a))) (fun a => q a * ln (q a / p a))).
  - enough (forall t, exp (- eps) <= t <= exp eps ->
              t * ln t <= eps * tanh (eps / 2) - m + m * t) by (specialize (L H); lra).
    intros t Ht. specialize (Hm t Ht). lra.
  - intros a I. destruct (N a I) as (? & ? & _). now rewrite ln_div.
Qed.

(** A step of *rl-anchored-sharp*: [Σ q²/p ≤ 2 cosh eps − 1]. *)
Lemma near_second_moment eps l p q :
  distribution l p -> distribution l q -> near eps l p q ->
  (∑ a ∈ l, q a * (q a / p a)) <= 2 * cosh eps - 1.
Proof.
  intros P Q N.
  assert (B : (∑ a ∈ l, q a * (q a / p a + p a / q a)) <= 2 * cosh eps).
  { apply mean_le_const; auto. intros a I.
    destruct (N a I) as (Hp & Hq & _).
    replace (p a / q a) with (/ (q a / p a)) by (field; lra).
    eapply add_inv_ball, near_ratio; eauto. }
  rewrite (sum_ext l _ (fun a => q a * (q a / p a) + q a * (p a / q a))) in B
    by (intros; ring).
  rewrite sum_plus, (mean_density_1 l q p P) in B by (intros a I; now apply N). lra.
Qed.

(** ** Total variation *)

Lemma total_variation_as_hockey_stick l p q :
  distribution l p -> distribution l q ->
  / 2 * (∑ a ∈ l, Rabs (p a - q a)) = ∑ a ∈ l, Rmax 0 (p a - q a).
Proof.
  intros [_ P] [_ Q].
  rewrite (sum_ext l (fun a => Rmax 0 (p a - q a))
             (fun a => / 2 * (Rabs (p a - q a) + (p a - q a)))).
  - rewrite sum_scale, sum_plus, sum_minus, P, Q. ring.
  - intros a _. unfold Rmax, Rabs. destruct (Rle_dec 0 (p a - q a)); destruct Rcase_abs; lra.
Qed.

(** Means of a bounded quantity differ by its width times the total variation. *)
Lemma mean_sub_le l p q x lo width :
  distribution l p -> distribution l q -> (forall a, In a l -> lo <= x a <= lo + width) ->
  (∑ a ∈ l, p a * x a) - (∑ a ∈ l, q a * x a)
  <= width * (/ 2 * ∑ a ∈ l, Rabs (p a - q a)).
Proof.
  intros P Q X. rewrite (total_variation_as_hockey_stick l p q P Q).
  replace ((∑ a ∈ l, p a * x a) - ∑ a ∈ l, q a * x a)
    with (∑ a ∈ l, (p a - q a) * (x a - lo)).
  - rewrite <- sum_scale. apply sum_le. intros a I. specialize (X a I).
    rewrite (Rmult_comm width).
    apply Rle_trans with (Rmax 0 (p a - q a) * (x a - lo)).
    + apply Rmult_le_compat_r; [lra | apply Rmax_r].
    + apply Rmult_le_compat_l; [apply Rmax_l | lra].
  - rewrite (sum_ext l _ (fun a => (p a * x a - q a * x a) - lo * (p a - q a)))
      by (intros; ring).
    rewrite sum_minus, sum_minus, sum_scale, sum_minus.
    destruct P as [_ ->]. destruct Q as [_ ->]. ring.
Qed.

Lemma pinsker l p q :
  distribution l p -> distribution l q -> (forall a, In a l -> 0 < q a) ->
  / 2 * (∑ a ∈ l, Rabs (p a - q a)) <= sqrt ((∑ a ∈ l, p a * (ln (p a) - ln (q a))) / 2).
Proof.
  intros P Q Hq. pose proof (gibbs l p q P Q Hq) as G.
  set (kl := ∑ a ∈ l, p a * (ln (p a) - ln (q a))) in *.
  replace (kl / 2) with (kl / 2 * 1) by ring.
  apply le_sqrt_of_weighted; [lra | lra |]. intros k Hk.
  assert (E : (∑ a ∈ l, q a * phi (p a / q a)) = kl).
  { transitivity (∑ a ∈ l, (p a * (ln (p a) - ln (q a)) - (p a - q a))).
    - apply sum_ext. intros a I. pose proof (Hq a I). unfold phi.
      destruct P as [P _]. destruct (P a I) as [Hp | Hp].
      + rewrite ln_div by assumption. field. lra.
      + rewrite <- Hp. unfold Rdiv. rewrite Rmult_0_l, ln_zero. ring.
    - rewrite !sum_minus. destruct P as [_ ->]. destruct Q as [_ ->].
      unfold kl. ring. }
  assert (B : (∑ a ∈ l, Rabs (p a - q a))
              <= ∑ a ∈ l, q a * ((k * phi (p a / q a) + (2 * (p a / q a) + 4) / (3 * k)) / 2)).
  { apply sum_le. intros a I. pose proof (Hq a I).
    replace (p a - q a) with (- (q a * (1 - p a / q a))) by (field; lra).
    rewrite Rabs_Ropp, Rabs_mult, Rabs_pos_eq by lra.
    apply Rmult_le_compat_l; [lra |]. apply pinsker_density; [lra |].
    apply Rmult_le_pos; [now apply P | left; now apply Rinv_0_lt_compat]. }
  rewrite (sum_ext l
             (fun a => q a * ((k * phi (p a / q a) + (2 * (p a / q a) + 4) / (3 * k)) / 2))
             (fun a => k / 2 * (q a * phi (p a / q a))
                       + q a * (2 / (3 * k) + / (3 * k) * (p a / q a)))) in B
    by (intros a _; generalize (p a / q a); intros; field; lra).
  rewrite sum_plus, sum_scale, E, (mean_affine l q _ _ _ Q), (mean_density_1 l q p P Hq) in B.
  replace (2 / (3 * k) + / (3 * k) * 1) with (1 / k) in B by (field; lra).
  lra.
Qed.

(** [TV ≤ √(1 − BC²)]. *)
Lemma hellinger l p q :
  distribution l p -> distribution l q ->
  / 2 * (∑ a ∈ l, Rabs (p a - q a))
  <= sqrt (1 - (∑ a ∈ l, sqrt (p a * q a)) * (∑ a ∈ l, sqrt (p a * q a))).
Proof.
  intros [Pp Sp] [Pq Sq]. set (bc := ∑ a ∈ l, sqrt (p a * q a)).
  assert (S : forall s, s * s = 1 ->
            (∑ a ∈ l, (sqrt (p a) + s * sqrt (q a)) * (sqrt (p a) + s * sqrt (q a)))
            = 2 + s * (2 * bc)).
  { intros s Hs. unfold bc. rewrite <- !sum_scale.
    rewrite (sum_ext l _ (fun a => (p a + q a) + s * (2 * sqrt (p a * q a)))).
    - rewrite !sum_plus, Sp, Sq, !sum_scale. ring.
    - intros a I. rewrite sqrt_mult by auto.
      pose proof (sqrt_sqrt (p a) (Pp a I)). pose proof (sqrt_sqrt (q a) (Pq a I)).
      replace ((sqrt (p a) + s * sqrt (q a)) * (sqrt (p a) + s * sqrt (q a)))
        with (sqrt (p a) * sqrt (p a) + (s * s) * (sqrt (q a) * sqrt (q a))
              + 2 * s * (sqrt (p a) * sqrt (q a))) by ring.
      rewrite Hs, H, H0. ring. }
  pose proof (S 1 ltac:(ring)) as Sum. pose proof (S (-1) ltac:(ring)) as Dif.
  assert (N : forall f : A -> R, 0 <= ∑ a ∈ l, f a * f a)
    by (intros f; apply sum_nonneg; intros; apply Rle_0_sqr).
  pose proof (N (fun a => sqrt (p a) + 1 * sqrt (q a))) as N1. cbv beta in N1.
  pose proof (N (fun a => sqrt (p a) + -1 * sqrt (q a))) as N2. cbv beta in N2.
  replace (1 - bc * bc) with ((1 - bc) * (1 + bc)) by ring.
  apply le_sqrt_of_weighted; [lra | lra |]. intros k Hk.
  assert (B : (∑ a ∈ l, Rabs (p a - q a))
     <= ∑ a ∈ l, (k / 2 * ((sqrt (p a) + -1 * sqrt (q a)) * (sqrt (p a) + -1 * sqrt (q a)))
        + / (2 * k) * ((sqrt (p a) + 1 * sqrt (q a)) * (sqrt (p a) + 1 * sqrt (q a))))).
  { apply sum_le. intros a I.
    pose proof (sqrt_sqrt (p a) (Pp a I)). pose proof (sqrt_sqrt (q a) (Pq a I)).
    replace (p a - q a)
      with ((sqrt (p a) + -1 * sqrt (q a)) * (sqrt (p a) + 1 * sqrt (q a))) by lra.
    eapply Rle_trans; [apply (mul_le_weighted k); assumption |].
    right. field. lra. }
  rewrite sum_plus, !sum_scale, Sum, Dif in B.
  replace ((k * (1 - bc) + (1 + bc) / k) / 2)
    with (/ 2 * (k / 2 * (2 + -1 * (2 * bc)) + / (2 * k) * (2 + 1 * (2 * bc)))) by (field; lra).
  lra.
Qed.

End Distributions.
