(** Facts about single real numbers and about sums over lists: exponentials, logarithms,
    hyperbolic and logistic functions. *)

From Coq Require Import Reals Lra List.
From Endorm Require Import Definitions.
Import ListNotations.
Open Scope R_scope.

(** ** Exponential and logarithm *)

Lemma exp_ge_1 x : 0 <= x -> 1 <= exp x.
Proof. intros H. pose proof (exp_ineq1_le x). lra. Qed.

Lemma exp_le x y : x <= y -> exp x <= exp y.
Proof. intros [H | ->]; [left; now apply exp_increasing | right; reflexivity]. Qed.

Lemma exp_sub x y : exp (x - y) = exp x / exp y.
Proof. unfold Rminus, Rdiv. now rewrite exp_plus, exp_Ropp. Qed.

Lemma exp_double x : exp x = exp (x / 2) * exp (x / 2).
Proof. rewrite <- exp_plus. f_equal. lra. Qed.

Lemma exp_opp_mul x : exp x * exp (- x) = 1.
Proof. rewrite <- exp_plus, Rplus_opp_r. apply exp_0. Qed.

Lemma ln_le_sub_1 x : 0 < x -> ln x <= x - 1.
Proof. intros H. pose proof (exp_ineq1_le (ln x)). rewrite exp_ln in H0; lra. Qed.

Lemma ln_mono x y : 0 < x -> x <= y -> ln x <= ln y.
Proof. intros H [L | ->]; [left; now apply ln_increasing | right; reflexivity]. Qed.

Lemma ln_div x y : 0 < x -> 0 < y -> ln (x / y) = ln x - ln y.
Proof. intros Hx Hy. unfold Rdiv. rewrite ln_mult, ln_Rinv; auto using Rinv_0_lt_compat. Qed.

Lemma ln_zero : ln 0 = 0.
Proof. unfold ln. destruct (Rlt_dec 0 0) as [H |]; [destruct (Rlt_irrefl _ H) | reflexivity]. Qed.

(** [x ln x] lies above its tangents. *)
Lemma x_ln_x_tangent t y : 0 < t -> 0 < y -> t * ln t + (1 + ln t) * (y - t) <= y * ln y.
Proof.
  intros Ht Hy.
  assert (L : ln (t / y) <= t / y - 1) by (apply ln_le_sub_1; now apply Rdiv_lt_0_compat).
  rewrite ln_div in L by assumption.
  apply (Rmult_le_compat_l y) in L; [| lra].
  replace (y * (t / y - 1)) with (t - y) in L by (field; lra).
  lra.
Qed.

(** What lies above its tangents lies below its chords. *)
Lemma chord (f : R -> R) a b t m :
  a <= t <= b -> f t + m * (a - t) <= f a -> f t + m * (b - t) <= f b ->
  (b - a) * f t <= (b - t) * f a + (t - a) * f b.
Proof.
  intros [Ha Hb] La Lb.
  apply (Rmult_le_compat_l (b - t)) in La; [| lra].
  apply (Rmult_le_compat_l (t - a)) in Lb; [| lra].
  lra.
Qed.

Lemma abs_le_inv x a : Rabs x <= a -> - a <= x <= a.
Proof. unfold Rabs. destruct Rcase_abs; lra. Qed.

(** ** Hyperbolic functions *)

Lemma cosh_ge_1 x : 1 <= cosh x.
Proof.
  unfold cosh. pose proof (exp_pos (x / 2)). pose proof (exp_pos (- x / 2)).
  rewrite (exp_double x), (exp_double (- x)).
  assert (E : exp (x / 2) * exp (- x / 2) = 1)
    by (rewrite <- exp_plus; replace (x / 2 + - x / 2) with 0 by lra; apply exp_0).
  pose proof (Rle_0_sqr (exp (x / 2) - exp (- x / 2))). unfold Rsqr in *. lra.
Qed.

Lemma cosh_positive x : 0 < cosh x.
Proof. pose proof (cosh_ge_1 x). lra. Qed.

Lemma cosh_opp x : cosh (- x) = cosh x.
Proof. unfold cosh. rewrite Ropp_involutive. lra. Qed.

Lemma sinh_opp x : sinh (- x) = - sinh x.
Proof. unfold sinh. rewrite Ropp_involutive. lra. Qed.

Lemma sinh_nonneg x : 0 <= x -> 0 <= sinh x.
Proof.
  intros H. unfold sinh. assert (exp (- x) <= exp x) by (apply exp_le; lra). lra.
Qed.

Lemma cosh_sinh_square x : cosh x * cosh x = 1 + sinh x * sinh x.
Proof. unfold cosh, sinh. pose proof (exp_opp_mul x). lra. Qed.

Lemma tanh_exp x : tanh (x / 2) = (exp x - 1) / (exp x + 1).
Proof.
  unfold tanh, sinh, cosh. rewrite (exp_double x).
  rewrite exp_Ropp. pose proof (exp_pos (x / 2)).
  field. repeat split; nra.
Qed.

Lemma tanh_nonneg x : 0 <= x -> 0 <= tanh x.
Proof.
  intros H. unfold tanh. apply Rmult_le_pos; [now apply sinh_nonneg |].
  left. apply Rinv_0_lt_compat, cosh_positive.
Qed.

Lemma tanh_opp x : tanh (- x) = - tanh x.
Proof. unfold tanh. rewrite sinh_opp, cosh_opp. field. pose proof (cosh_positive x). lra. Qed.

Lemma tanh_lt_1 x : tanh x < 1.
Proof.
  unfold tanh. apply Rmult_lt_reg_r with (cosh x); [apply cosh_positive |].
  replace (sinh x / cosh x * cosh x) with (sinh x)
    by (field; pose proof (cosh_positive x); lra).
  unfold sinh, cosh. pose proof (exp_pos (- x)). lra.
Qed.

Lemma tanh_square x : tanh x * tanh x = 1 - / (cosh x * cosh x).
Proof.
  pose proof (cosh_positive x). unfold tanh.
  replace (sinh x / cosh x * (sinh x / cosh x))
    with ((sinh x * sinh x) / (cosh x * cosh x)) by (field; lra).
  replace (sinh x * sinh x) with (cosh x * cosh x - 1) by (rewrite cosh_sinh_square; ring).
  field. lra.
Qed.

(** [tanh] is monotone, by its form [1 - 2/(e^{2x} + 1)]. *)
Lemma tanh_mono x y : x <= y -> tanh x <= tanh y.
Proof.
  intros H.
  replace x with (2 * x / 2) by lra. replace y with (2 * y / 2) by lra.
  rewrite !tanh_exp.
  pose proof (exp_pos (2 * x)). pose proof (exp_pos (2 * y)).
  assert (exp (2 * x) <= exp (2 * y)) by (apply exp_le; lra).
  replace ((exp (2 * x) - 1) / (exp (2 * x) + 1)) with (1 - 2 / (exp (2 * x) + 1))
    by (field; lra).
  replace ((exp (2 * y) - 1) / (exp (2 * y) + 1)) with (1 - 2 / (exp (2 * y) + 1))
    by (field; lra).
  assert (2 / (exp (2 * y) + 1) <= 2 / (exp (2 * x) + 1)).
  { unfold Rdiv. apply Rmult_le_compat_l; [lra |]. apply Rinv_le_contravar; lra. }
  lra.
Qed.

(** ** One use of derivatives: a function that does not fall *)

Lemma increasing_from (f f' : R -> R) a b :
  a <= b -> (forall x, a <= x <= b -> derivable_pt_lim f x (f' x)) ->
  (forall x, a <= x <= b -> 0 <= f' x) -> f a <= f b.
Proof.
  intros [L | ->] D P; [| lra].
  destruct (MVT_cor2 f f' a b L D) as [c [E I]].
  assert (0 <= f' c) by (apply P; lra).
  assert (0 <= f' c * (b - a)) by (apply Rmult_le_pos; lra).
  lra.
Qed.

Lemma sinh_le_mul_cosh x : 0 <= x -> sinh x <= x * cosh x.
Proof.
  intros H.
  assert (I : 0 * cosh 0 - sinh 0 <= x * cosh x - sinh x).
  { apply (increasing_from (fun y => y * cosh y - sinh y) (fun y => y * sinh y)); auto.
    - intros y _.
      replace (y * sinh y) with ((1 * cosh y + y * sinh y) - cosh y) by ring.
      apply (derivable_pt_lim_minus (fun y => y * cosh y) sinh).
      + apply (derivable_pt_lim_mult (fun y => y) cosh);
          [apply derivable_pt_lim_id | apply derivable_pt_lim_cosh].
      + apply derivable_pt_lim_sinh.
    - intros y Hy. apply Rmult_le_pos; [lra | apply sinh_nonneg; lra]. }
  rewrite sinh_0 in I. lra.
Qed.

Lemma tanh_le x : 0 <= x -> tanh x <= x.
Proof.
  intros H. unfold tanh. pose proof (cosh_positive x).
  apply Rmult_le_reg_r with (cosh x); [assumption |].
  replace (sinh x / cosh x * cosh x) with (sinh x) by (field; lra).
  now apply sinh_le_mul_cosh.
Qed.

(** ** Logistic function *)

Lemma logistic_sub x y :
  logistic x - logistic y
  = sinh ((x - y) / 2) / (cosh ((x + y) / 2) + cosh ((x - y) / 2)).
Proof.
  unfold logistic, sinh, cosh.
  set (u := exp (x / 2)). set (v := exp (y / 2)).
  assert (Hu : 0 < u) by apply exp_pos. assert (Hv : 0 < v) by apply exp_pos.
  replace (exp (- x)) with (/ (u * u))
    by (unfold u; rewrite <- exp_double, exp_Ropp; reflexivity).
  replace (exp (- y)) with (/ (v * v))
    by (unfold v; rewrite <- exp_double, exp_Ropp; reflexivity).
  replace (exp ((x - y) / 2)) with (u / v)
    by (unfold u, v; rewrite <- exp_sub; f_equal; lra).
  replace (exp (- ((x - y) / 2))) with (v / u)
    by (unfold u, v; rewrite <- exp_sub; f_equal; lra).
  replace (exp ((x + y) / 2)) with (u * v)
    by (unfold u, v; rewrite <- exp_plus; f_equal; lra).
  replace (exp (- ((x + y) / 2))) with (/ (u * v))
    by (unfold u, v; rewrite <- exp_plus, <- exp_Ropp; f_equal; lra).
  field. repeat split; nra.
Qed.

(** The logistic of two numbers at distance [d] differs by [tanh (d/4)] at most: by as much where
    they are opposite. *)
Lemma logistic_sub_le x y : Rabs (logistic x - logistic y) <= tanh (Rabs (x - y) / 4).
Proof.
  assert (P : forall x y, y <= x -> logistic x - logistic y <= tanh ((x - y) / 4)).
  { clear. intros x y H. rewrite logistic_sub.
    set (d := (x - y) / 2). assert (Hd : 0 <= d) by (unfold d; lra).
    replace ((x - y) / 4) with (d / 2) by (unfold d; lra).
    assert (T : tanh (d / 2) = sinh d / (1 + cosh d)).
    { rewrite tanh_exp. unfold sinh, cosh. rewrite exp_Ropp. pose proof (exp_pos d).
      field. repeat split; nra. }
    rewrite T. pose proof (cosh_ge_1 d). pose proof (cosh_ge_1 ((x + y) / 2)).
    unfold Rdiv at 1 3. apply Rmult_le_compat_l; [now apply sinh_nonneg |].
    apply Rinv_le_contravar; lra. }
  assert (S : forall x y, y <= x -> 0 <= logistic x - logistic y).
  { clear. intros x y H. rewrite logistic_sub.
    pose proof (cosh_positive ((x + y) / 2)). pose proof (cosh_positive ((x - y) / 2)).
    apply Rmult_le_pos; [apply sinh_nonneg; lra | left; apply Rinv_0_lt_compat; lra]. }
  destruct (Rle_dec y x) as [H | H].
  - rewrite !Rabs_pos_eq; [now apply P | lra | now apply S].
  - rewrite <- Rabs_Ropp, Ropp_minus_distr, <- (Rabs_Ropp (x - y)), Ropp_minus_distr.
    rewrite !Rabs_pos_eq; [apply P; lra | lra | apply S; lra].
Qed.

Lemma logistic_attained d : logistic (d / 2) - logistic (- (d / 2)) = tanh (d / 4).
Proof.
  rewrite logistic_sub.
  replace ((d / 2 - - (d / 2)) / 2) with (d / 2) by lra.
  replace ((d / 2 + - (d / 2)) / 2) with 0 by lra.
  rewrite cosh_0. replace (d / 4) with (d / 2 / 2) by lra.
  rewrite tanh_exp. unfold sinh, cosh. rewrite exp_Ropp. pose proof (exp_pos (d / 2)).
  field. repeat split; nra.
Qed.

(** ** In place of Cauchy–Schwarz *)

Lemma mul_le_weighted k x y : 0 < k -> Rabs (x * y) <= (k * (x * x) + y * y / k) / 2.
Proof.
  intros Hk.
  assert (E : forall s, s * s = 1 ->
             0 <= (k * (x * x) + y * y / k) / 2 - s * (x * y)).
  { intros s Hs.
    replace ((k * (x * x) + y * y / k) / 2 - s * (x * y))
      with (((k * x - s * y) * (k * x - s * y) + (1 - s * s) * (y * y)) / (2 * k))
      by (field; lra).
    rewrite Hs. pose proof (Rle_0_sqr (k * x - s * y)). unfold Rsqr in *.
    apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; lra]. }
  pose proof (E 1 ltac:(ring)). pose proof (E (-1) ltac:(ring)).
  unfold Rabs. destruct (Rcase_abs (x * y)); lra.
Qed.

(** What is below every [(k a + b/k)/2] is below [sqrt (a b)]. *)
Lemma le_sqrt_of_weighted x a b :
  0 <= a -> 0 <= b -> (forall k, 0 < k -> x <= (k * a + b / k) / 2) -> x <= sqrt (a * b).
Proof.
  intros Ha Hb H.
  destruct (Rle_dec x 0) as [N | N]; [pose proof (sqrt_pos (a * b)); lra |].
  assert (P : 0 < x) by lra. clear N.
  assert (Pa : 0 < a).
  { destruct Ha as [? | <-]; [assumption | exfalso].
    pose proof (H (b / x + 1)) as L.
    assert (0 <= b / x) by (apply Rmult_le_pos; [| left; apply Rinv_0_lt_compat]; lra).
    assert (b / (b / x + 1) <= x).
    { apply Rmult_le_reg_r with (b / x + 1); [lra |].
      replace (b / (b / x + 1) * (b / x + 1)) with b by (field; lra).
      replace (x * (b / x + 1)) with (b + x) by (field; lra). lra. }
    specialize (L ltac:(lra)). lra. }
  rewrite <- (sqrt_square x) by lra. apply sqrt_le_1_alt.
  pose proof (H (x / a) ltac:(now apply Rdiv_lt_0_compat)) as L.
  replace (x / a * a) with x in L by (field; lra).
  replace (b / (x / a)) with (a * b / x) in L by (field; lra).
  assert (M : x <= a * b / x) by lra.
  apply (Rmult_le_compat_r x) in M; [| lra].
  replace (a * b / x * x) with (a * b) in M by (field; lra). lra.
Qed.

(** ** A token of a ball: what one step contributes *)

(** [t ln t] between [e^{-eps}] and [e^eps] is below an affine function that is [eps tanh (eps/2)]
    at [t = 1]. *)
Lemma x_ln_x_ball eps t :
  0 <= eps -> exp (- eps) <= t <= exp eps ->
  exists m, t * ln t <= eps * tanh (eps / 2) + m * (t - 1)
            /\ forall u, exp (- eps) <= u <= exp eps ->
                         u * ln u <= eps * tanh (eps / 2) + m * (u - 1).
Proof.
  intros He Ht.
  assert (G : exists m, forall u, exp (- eps) <= u <= exp eps ->
                         u * ln u <= eps * tanh (eps / 2) + m * (u - 1)).
  { destruct He as [He | <-].
    - set (b := exp eps). set (a := exp (- eps)).
      assert (Ha : 0 < a) by apply exp_pos. assert (Hb : 0 < b) by apply exp_pos.
      assert (Hab : a * b = 1) by (unfold a, b; rewrite Rmult_comm; apply exp_opp_mul).
      assert (La : a < b) by (apply exp_increasing; lra).
      exists ((b * eps + a * eps) / (b - a)). intros u [L U].
      assert (Hu : 0 < u) by lra.
      assert (K : (b - a) * (u * ln u) <= (b - u) * (a * - eps) + (u - a) * (b * eps)).
      { replace (- eps) with (ln a) by apply ln_exp.
        replace (b * eps) with (b * ln b) by (unfold b; now rewrite ln_exp).
        now apply (chord (fun x => x * ln x) a b u (1 + ln u)); try apply x_ln_x_tangent. }
      rewrite tanh_exp. fold b.
      apply Rmult_le_reg_l with (b - a); [lra |].
      refine (Rle_trans _ _ _ K _). right.
      replace a with (/ b) by (apply Rmult_eq_reg_r with b; [rewrite Hab; field |]; lra).
      assert (1 < b) by (unfold b; rewrite <- exp_0; apply exp_increasing; lra).
      field. split; nra.
    - exists 0. intros u. rewrite Ropp_0, exp_0. intros Hu.
      replace u with 1 by lra. rewrite ln_1. lra. }
  destruct G as [m Hm]. exists m. split; auto.
Qed.

(** [u + 1/u] is largest at the ends of the ball. *)
Lemma add_inv_ball eps u :
  exp (- eps) <= u <= exp eps -> u + / u <= 2 * cosh eps.
Proof.
  intros [L U]. unfold cosh. pose proof (exp_pos (- eps)). pose proof (exp_pos eps).
  pose proof (exp_opp_mul eps).
  assert (0 < u) by lra.
  apply Rmult_le_reg_r with u; [assumption |].
  replace ((u + / u) * u) with (u * u + 1) by (field; lra).
  assert (0 <= (u - exp (- eps)) * (exp eps - u)) by (apply Rmult_le_pos; lra).
  nra.
Qed.

(** ** Pinsker, for a single density *)

Definition phi t := t * ln t - t + 1.

Lemma phi_nonneg t : 0 <= t -> 0 <= phi t.
Proof.
  intros [H | <-]; unfold phi; [| rewrite ln_zero; lra].
  pose proof (x_ln_x_tangent 1 t ltac:(lra) H). rewrite ln_1 in *. lra.
Qed.

Lemma ln_ge_ratio t : 1 <= t -> 2 * (t - 1) <= (t + 1) * ln t.
Proof.
  intros H. assert (0 <= ln t) by (rewrite <- ln_1; apply ln_mono; lra).
  pose proof (tanh_le (ln t / 2) ltac:(lra)) as T.
  rewrite tanh_exp, exp_ln in T by lra.
  apply (Rmult_le_compat_r (2 * (t + 1))) in T; [| lra].
  replace ((t - 1) / (t + 1) * (2 * (t + 1))) with (2 * (t - 1)) in T by (field; lra).
  lra.
Qed.

Lemma limit_eq f x l l' : derivable_pt_lim f x l -> l = l' -> derivable_pt_lim f x l'.
Proof. now intros ? <-. Qed.

Lemma pinsker_scalar t : 0 < t -> 3 * ((t - 1) * (t - 1)) <= (2 * t + 4) * phi t.
Proof.
  intros Ht.
  set (f := fun t => (2 * t + 4) * phi t - 3 * ((t - 1) * (t - 1))).
  set (f' := fun t => 4 * ((t + 1) * ln t - 2 * (t - 1))).
  assert (D : forall x, 0 < x -> derivable_pt_lim f x (f' x)).
  { intros x Hx. unfold f, f', phi.
    replace (4 * ((x + 1) * ln x - 2 * (x - 1)))
      with ((2 * (x * ln x - x + 1) + (2 * x + 4) * ((1 * ln x + x * / x) - 1))
            - 3 * (1 * (x - 1) + (x - 1) * 1)) by (field; lra).
    assert (Dl : forall k m, derivable_pt_lim (fun x => k * x + m) x k).
    { intros k m. apply limit_eq with (k * 1 + 0); [| ring].
      apply (derivable_pt_lim_plus (fun x => k * x) (fun _ => m));
        [| apply derivable_pt_lim_const].
      apply (derivable_pt_lim_scal (fun x => x)), derivable_pt_lim_id. }
    assert (D1 : derivable_pt_lim (fun x => x - 1) x 1).
    { apply limit_eq with (1 - 0); [| ring].
      apply (derivable_pt_lim_minus (fun x => x) (fun _ => 1));
        [apply derivable_pt_lim_id | apply derivable_pt_lim_const]. }
    apply (derivable_pt_lim_minus (fun x => (2 * x + 4) * (x * ln x - x + 1))
             (fun x => 3 * ((x - 1) * (x - 1)))).
    - apply (derivable_pt_lim_mult (fun x => 2 * x + 4) (fun x => x * ln x - x + 1)); [apply Dl |].
      replace (1 * ln x + x * / x - 1) with (1 * ln x + x * / x - 1 + 0) by ring.
      apply (derivable_pt_lim_plus (fun x => x * ln x - x) (fun _ => 1));
        [| apply derivable_pt_lim_const].
      apply (derivable_pt_lim_minus (fun x => x * ln x) (fun x => x)); [| apply derivable_pt_lim_id].
      apply (derivable_pt_lim_mult (fun x => x) ln);
        [apply derivable_pt_lim_id | now apply derivable_pt_lim_ln].
    - apply (derivable_pt_lim_scal (fun x => (x - 1) * (x - 1))).
      now apply (derivable_pt_lim_mult (fun x => x - 1) (fun x => x - 1)). }
  assert (Z : f 1 = 0) by (unfold f, phi; rewrite ln_1; ring).
  enough (f 1 <= f t) by (unfold f in *; lra).
  destruct (Rle_dec 1 t) as [H | H].
  - apply (increasing_from f f'); auto; intros x Hx; [apply D; lra |].
    unfold f'. pose proof (ln_ge_ratio x ltac:(lra)). lra.
  - enough (- f t <= - f 1) by lra.
    apply (increasing_from (fun x => - f x) (fun x => - f' x)); [lra | |].
    + intros x Hx. apply derivable_pt_lim_opp, D. lra.
    + intros x Hx. unfold f'.
      pose proof (ln_ge_ratio (/ x)) as L.
      assert (Px : 0 < x) by lra.
      assert (1 <= / x) by (rewrite <- Rinv_1; apply Rinv_le_contravar; lra).
      specialize (L H0). rewrite ln_Rinv in L by assumption.
      apply (Rmult_le_compat_l x) in L; [| lra].
      replace (x * (2 * (/ x - 1))) with (2 * (1 - x)) in L by (field; lra).
      replace (x * ((/ x + 1) * - ln x)) with (- ((x + 1) * ln x)) in L by (field; lra).
      lra.
Qed.

(** Pinsker before the sum: for any [k], where [phi] sums to a divergence. *)
Lemma pinsker_density k t :
  0 < k -> 0 <= t -> Rabs (1 - t) <= (k * phi t + (2 * t + 4) / (3 * k)) / 2.
Proof.
  intros Hk Ht.
  assert (S : 3 * ((t - 1) * (t - 1)) <= (2 * t + 4) * phi t).
  { destruct Ht as [Ht | <-]; [now apply pinsker_scalar |]. unfold phi. rewrite ln_zero. lra. }
  pose proof (phi_nonneg t Ht) as Hphi.
  rewrite <- (sqrt_square (Rabs (1 - t))) by apply Rabs_pos.
  rewrite <- Rabs_mult, Rabs_pos_eq by (pose proof (Rle_0_sqr (1 - t)); assumption).
  apply Rle_trans with (sqrt (phi t * ((2 * t + 4) / 3))).
  - apply sqrt_le_1_alt. lra.
  - rewrite sqrt_mult by lra.
    pose proof (mul_le_weighted k (sqrt (phi t)) (sqrt ((2 * t + 4) / 3)) Hk) as M.
    rewrite !sqrt_sqrt in M by lra.
    pose proof (Rle_abs (sqrt (phi t) * sqrt ((2 * t + 4) / 3))).
    replace ((2 * t + 4) / (3 * k)) with ((2 * t + 4) / 3 / k) by (field; lra). lra.
Qed.
