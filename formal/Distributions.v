(** Inequalities between two distributions on one list: Gibbs, Donsker–Varadhan, Pinsker, Le Cam,
    and the two-point distributions at which a ratio's convex functions are largest. *)

From Coq Require Import Reals List Lra.
From Endorm Require Export Definitions Scalars.
Open Scope R_scope.

(** [log y < y - 1] but at [y = 1]. *)
Lemma ln_eq_sub_1 : forall y, 0 < y -> ln y = y - 1 -> y = 1.
Proof.
  intros y pos same. destruct (Req_dec (ln y) 0) as [zero | nonzero]; [lra |].
  pose proof (exp_ineq1 (ln y) nonzero) as strict. rewrite exp_ln in strict; lra.
Qed.

Section Distributions.
Context {A : Type} (l : list A) (p q : A -> R).

Hypothesis p_law : distribution l p.
Hypothesis q_law : distribution l q.

Lemma p_nonneg : forall x, In x l -> 0 <= p x.
Proof. now destruct p_law. Qed.

Lemma q_nonneg : forall x, In x l -> 0 <= q x.
Proof. now destruct q_law. Qed.

(** ** KL *)

Section Positive.
Hypothesis q_pos : forall x, In x l -> 0 < q x.

Let divergence := ∑ x ∈ l, p x * (ln (p x) - ln (q x)).

Lemma kl_term : forall x, In x l -> p x - q x <= p x * (ln (p x) - ln (q x)).
Proof.
  intros x x_in. specialize (q_pos x x_in).
  destruct (p_nonneg x x_in) as [pos | <-]; [| lra].
  pose proof (ln_le_sub_1 (q x / p x) (Rdiv_lt_0_compat _ _ q_pos pos)) as tangent.
  rewrite ln_div in tangent by assumption.
  apply (Rmult_le_compat_l (p x)) in tangent; [| lra].
  replace (p x * (q x / p x - 1)) with (q x - p x) in tangent by (field; lra). lra.
Qed.

(** Gibbs: [KL(p‖q) ≥ 0]. *)
Lemma gibbs : 0 <= ∑ x ∈ l, p x * (ln (p x) - ln (q x)).
Proof.
  pose proof (sum_le _ _ _ kl_term) as below. rewrite sum_minus in below.
  destruct p_law as [_ p_one], q_law as [_ q_one]. lra.
Qed.

(** [KL(p‖q) = 0] only where [p = q]. *)
Lemma gibbs_eq :
  (∑ x ∈ l, p x * (ln (p x) - ln (q x))) = 0 -> forall x, In x l -> p x = q x.
Proof.
  intros zero x x_in.
  assert (p x * (ln (p x) - ln (q x)) - (p x - q x) = 0) as tight.
  { apply (sum_zero_terms l (fun x => p x * (ln (p x) - ln (q x)) - (p x - q x))).
    - intros y y_in. pose proof (kl_term y y_in). lra.
    - rewrite sum_minus, zero, sum_minus.
      destruct p_law as [_ p_one], q_law as [_ q_one]. lra.
    - exact x_in. }
  specialize (q_pos x x_in).
  destruct (p_nonneg x x_in) as [pos | zero_x]; [| rewrite <- zero_x in tight; lra].
  assert (q x / p x = 1) as one.
  { apply ln_eq_sub_1; [now apply Rdiv_lt_0_compat |].
    rewrite ln_div by assumption. apply Rmult_eq_reg_l with (p x); [| lra].
    replace (p x * (q x / p x - 1)) with (q x - p x) by (field; lra). lra. }
  apply Rmult_eq_reg_r with (/ p x); [| apply Rinv_neq_0_compat; lra].
  rewrite Rinv_r by lra. unfold Rdiv in one. lra.
Qed.

(** Donsker–Varadhan: [E_p f − KL(p‖q) ≤ log E_q e^f]. *)
Lemma donsker_varadhan : forall f : A -> R,
  (∑ x ∈ l, p x * f x) - divergence <= ln (∑ x ∈ l, q x * exp (f x)).
Proof.
  intros f. set (mass := ∑ x ∈ l, q x * exp (f x)).
  assert (l <> nil) as nonempty.
  { intros empty. destruct p_law as [_ one]. rewrite empty in one. simpl in one. lra. }
  assert (0 < mass) as mass_pos.
  { apply sum_pos; [exact nonempty |]. intros x x_in.
    apply Rmult_lt_0_compat; [now apply q_pos | apply exp_pos]. }
  assert ((∑ x ∈ l, (p x - q x * exp (f x) / mass)) <=
          ∑ x ∈ l, (p x * ln mass - (p x * f x - p x * (ln (p x) - ln (q x))))) as below.
  { apply sum_le. intros x x_in. specialize (q_pos x x_in). pose proof (exp_pos (f x)).
    destruct (p_nonneg x x_in) as [pos | <-].
    - pose proof (ln_le_sub_1 (q x * exp (f x) / mass / p x)) as tangent.
      assert (0 < q x * exp (f x)) by now apply Rmult_lt_0_compat.
      rewrite !ln_div, ln_mult, ln_exp in tangent by auto using Rdiv_lt_0_compat.
      specialize (tangent ltac:(auto using Rdiv_lt_0_compat)).
      apply (Rmult_le_compat_l (p x)) in tangent; [| lra].
      replace (p x * (q x * exp (f x) / mass / p x - 1))
        with (q x * exp (f x) / mass - p x) in tangent by (field; lra). lra.
    - assert (0 < q x * exp (f x) / mass) by auto using Rdiv_lt_0_compat, Rmult_lt_0_compat. lra. }
  rewrite !sum_minus, sum_scale_r in below. unfold Rdiv in below. rewrite sum_scale_r in below.
  fold mass divergence in below. rewrite Rinv_r in below by lra.
  destruct p_law as [_ p_one]. rewrite p_one in below. lra.
Qed.

(** Pinsker: [TV ≤ √(KL/2)]. *)
Lemma pinsker : / 2 * (∑ x ∈ l, Rabs (p x - q x)) <= sqrt (divergence / 2).
Proof.
  pose proof gibbs as nonneg. fold divergence in nonneg.
  replace (divergence / 2) with (divergence * (/ 2)) by lra.
  apply le_sqrt_of_weighted; [assumption | lra |].
  intros k k_pos.
  assert ((∑ x ∈ l, Rabs (p x - q x)) <=
          ∑ x ∈ l, (k * (p x * (ln (p x) - ln (q x)) - p x + q x)
                    + (p x + 2 * q x) * / (6 * k))) as below.
  { apply sum_le. intros x x_in. specialize (q_pos x x_in). pose proof (p_nonneg x x_in) as pos.
    replace (p x - q x) with (- q x * (1 - p x / q x)) by (field; lra).
    rewrite Rabs_mult, Rabs_Ropp, Rabs_pos_eq by lra.
    apply Rle_trans with
      (q x * ((2 * k * phi (p x / q x) + (2 * (p x / q x) + 4) / (3 * (2 * k))) / 2)).
    - apply Rmult_le_compat_l; [lra |]. apply pinsker_density; [lra |].
      apply Rmult_le_pos; [exact pos | left; now apply Rinv_0_lt_compat].
    - right. unfold phi. destruct pos as [pos | <-].
      + rewrite ln_div by assumption. field. lra.
      + unfold Rdiv. rewrite Rmult_0_l, ln_zero. field. lra. }
  rewrite sum_plus, sum_scale, sum_plus, sum_minus, sum_scale_r, sum_plus, sum_scale in below.
  fold divergence in below. destruct p_law as [_ p_one], q_law as [_ q_one].
  rewrite p_one, q_one in below.
  apply (Rmult_le_compat_l (/ 2)) in below; [| lra].
  eapply Rle_trans; [exact below |]. right. field. lra.
Qed.

End Positive.

(** ** Total variation *)

Lemma tv_le_1 : / 2 * (∑ x ∈ l, Rabs (p x - q x)) <= 1.
Proof.
  assert ((∑ x ∈ l, Rabs (p x - q x)) <= ∑ x ∈ l, (p x + q x)) as below.
  { apply sum_le. intros x x_in. pose proof (p_nonneg x x_in). pose proof (q_nonneg x x_in).
    apply Rabs_le. lra. }
  rewrite sum_plus in below. destruct p_law as [_ p_one], q_law as [_ q_one]. lra.
Qed.

(** [TV] is the sum of what [p] has above [q]. *)
Lemma tv_above : / 2 * (∑ x ∈ l, Rabs (p x - q x)) = ∑ x ∈ l, Rmax 0 (p x - q x).
Proof.
  assert ((∑ x ∈ l, (2 * Rmax 0 (p x - q x) - Rabs (p x - q x))) = ∑ x ∈ l, (p x - q x)) as same.
  { apply sum_ext. intros x _. unfold Rmax, Rabs.
    destruct (Rle_dec 0 (p x - q x)), (Rcase_abs (p x - q x)); lra. }
  rewrite !sum_minus, sum_scale in same. destruct p_law as [_ p_one], q_law as [_ q_one]. lra.
Qed.

(** Means of [f] differ by the width of its range times [TV] at most. *)
Lemma mean_difference : forall (f : A -> R) lo hi,
  (forall x, In x l -> lo <= f x <= hi) ->
  (∑ x ∈ l, p x * f x) - (∑ x ∈ l, q x * f x)
  <= (hi - lo) * (/ 2 * ∑ x ∈ l, Rabs (p x - q x)).
Proof.
  intros f lo hi range.
  assert ((∑ x ∈ l, (p x * f x - q x * f x - (p x - q x) * ((lo + hi) / 2))) <=
          ∑ x ∈ l, (hi - lo) / 2 * Rabs (p x - q x)) as below.
  { apply sum_le. intros x x_in. specialize (range x x_in).
    replace (p x * f x - q x * f x - (p x - q x) * ((lo + hi) / 2))
      with ((f x - (lo + hi) / 2) * (p x - q x)) by ring.
    eapply Rle_trans; [apply Rle_abs |]. rewrite Rabs_mult.
    apply Rmult_le_compat_r; [apply Rabs_pos | apply Rabs_le; lra]. }
  rewrite !sum_minus, sum_scale_r, sum_scale, sum_minus in below.
  destruct p_law as [_ p_one], q_law as [_ q_one]. rewrite p_one, q_one in below. lra.
Qed.

(** Le Cam: [TV ≤ √(1 − BC²)]. *)
Lemma le_cam :
  / 2 * (∑ x ∈ l, Rabs (p x - q x)) <=
  sqrt (1 - (∑ x ∈ l, sqrt (p x * q x)) * ∑ x ∈ l, sqrt (p x * q x)).
Proof.
  set (overlap := ∑ x ∈ l, sqrt (p x * q x)).
  assert (forall k, 0 < k -> (∑ x ∈ l, Rabs (p x - q x)) <=
    (k * (2 - 2 * overlap) + (2 + 2 * overlap) * / k) / 2) as weighted.
  { intros k k_pos.
    apply Rle_trans with (∑ x ∈ l,
      (k * (p x + q x - 2 * sqrt (p x * q x)) + (p x + q x + 2 * sqrt (p x * q x)) * / k) * / 2).
    - apply sum_le. intros x x_in.
      rewrite sqrt_mult by auto using p_nonneg, q_nonneg.
      assert (p x = sqrt (p x) * sqrt (p x)) as ->
        by (symmetry; apply sqrt_sqrt; now apply p_nonneg).
      assert (q x = sqrt (q x) * sqrt (q x)) as ->
        by (symmetry; apply sqrt_sqrt; now apply q_nonneg).
      rewrite !sqrt_square by apply sqrt_pos. set (u := sqrt (p x)). set (v := sqrt (q x)).
      replace (u * u - v * v) with ((u - v) * (u + v)) by ring.
      eapply Rle_trans; [now apply (mul_le_weighted k) |]. right. field. lra.
    - right. rewrite sum_scale_r, sum_plus, sum_scale, sum_scale_r, sum_minus, !sum_plus, sum_scale.
      fold overlap. destruct p_law as [_ p_one], q_law as [_ q_one]. rewrite p_one, q_one.
      field. lra. }
  assert (0 <= overlap) by (apply sum_nonneg; intros; apply sqrt_pos).
  assert (overlap <= 1) as at_most_one.
  { assert (0 <= ∑ x ∈ l, (p x + q x - 2 * sqrt (p x * q x))) as square.
    { apply sum_nonneg. intros x x_in.
      pose proof (p_nonneg x x_in) as p_x. pose proof (q_nonneg x x_in) as q_x.
      rewrite sqrt_mult by assumption.
      pose proof (sqrt_sqrt (p x) p_x). pose proof (sqrt_sqrt (q x) q_x).
      pose proof (Rle_0_sqr (sqrt (p x) - sqrt (q x))). unfold Rsqr in *. lra. }
    rewrite sum_minus, sum_plus, sum_scale in square. fold overlap in square.
    destruct p_law as [_ p_one], q_law as [_ q_one]. lra. }
  replace (1 - overlap * overlap)
    with ((2 - 2 * overlap) / 2 * ((2 + 2 * overlap) / 2)) by field.
  apply le_sqrt_of_weighted; [lra | lra |].
  intros k k_pos. specialize (weighted k k_pos). lra.
Qed.

(** ** Ratios in a ball *)

(** Where [φ] of the ratio [p/q] lies below a line through [(1, c)], its mean is at most [c]. *)
Lemma mean_of_ratio : forall (phi : R -> R) c m,
  (forall x, In x l -> 0 < q x) ->
  (forall x, In x l -> phi (p x / q x) <= c + m * (p x / q x - 1)) ->
  (∑ x ∈ l, q x * phi (p x / q x)) <= c.
Proof.
  intros phi c m q_pos line.
  apply Rle_trans with (∑ x ∈ l, (c * q x + m * (p x - q x))).
  - apply sum_le. intros x x_in. specialize (q_pos x x_in). specialize (line x x_in).
    apply (Rmult_le_compat_l (q x)) in line; [| lra].
    replace (q x * (c + m * (p x / q x - 1))) with (c * q x + m * (p x - q x)) in line
      by (field; lra). exact line.
  - right. rewrite sum_plus, !sum_scale, sum_minus.
    destruct p_law as [_ p_one], q_law as [_ q_one]. rewrite p_one, q_one. ring.
Qed.

End Distributions.

(** A token of the ball: the ratio of its probabilities lies in [[e^{−ε}, e^ε]]. *)
Lemma ratio_in_ball : forall eps x y,
  0 < x -> 0 < y -> Rabs (ln x - ln y) <= eps -> exp (- eps) <= x / y <= exp eps.
Proof.
  intros eps x y x_pos y_pos near.
  assert (x / y = exp (ln x - ln y)) as ->.
  { rewrite <- ln_div, exp_ln; auto using Rdiv_lt_0_compat. }
  assert (- eps <= ln x - ln y <= eps) by (revert near; unfold Rabs; destruct Rcase_abs; lra).
  split; apply exp_le; lra.
Qed.
