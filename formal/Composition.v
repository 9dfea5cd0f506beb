(** Composition: how far apart two distributions can be that are within [eps] of each other at
    every one of [n] steps. As far as [n] randomised responses. *)

From Coq Require Import Reals Lra Lia List ZArith.
From Endorm Require Import Definitions Scalars Distributions.
Import ListNotations.
Open Scope R_scope.

(** Randomised response tells the truth with odds [e^eps]. *)
Definition odds_right (eps : R) := exp eps / (1 + exp eps).
Definition odds_wrong (eps : R) := / (1 + exp eps).

(** The hockey-stick divergence [Σ max(0, P − g Q)] of [n] randomised responses: true of both
    questions [P] and [Q], by its first step. *)
Fixpoint hockey_stick (eps : R) (n : nat) (g : R) : R :=
  match n with
  | O => Rmax 0 (1 - g)
  | S m => odds_right eps * hockey_stick eps m (g * exp (- eps))
           + odds_wrong eps * hockey_stick eps m (g * exp eps)
  end.

(** The total variation [TV_RR(n, eps)] of [n] randomised responses. *)
Definition tv_rr (n : nat) (eps : R) : R := hockey_stick eps n 1.

Section Composition.
Variable eps : R.
Hypothesis eps_nonneg : 0 <= eps.

Let p := odds_right eps.
Let q := odds_wrong eps.

Lemma odds_pos : 0 < p /\ 0 < q.
Proof.
  unfold p, q, odds_right, odds_wrong. pose proof (exp_pos eps).
  split; [apply Rdiv_lt_0_compat | apply Rinv_0_lt_compat]; lra.
Qed.

Lemma odds_sum : p + q = 1.
Proof. unfold p, q, odds_right, odds_wrong. pose proof (exp_pos eps). field. lra. Qed.

Lemma odds_mean : p * exp (- eps) + q * exp eps = 1.
Proof.
  unfold p, q, odds_right, odds_wrong. rewrite exp_Ropp. pose proof (exp_pos eps). field. lra.
Qed.

Lemma right_down : p * exp (- eps) = q.
Proof.
  unfold p, q, odds_right, odds_wrong. rewrite exp_Ropp. pose proof (exp_pos eps). field. lra.
Qed.

Lemma wrong_up : q * exp eps = p.
Proof. unfold p, q, odds_right, odds_wrong. pose proof (exp_pos eps). field. lra. Qed.

Lemma odds_difference : p - q = tanh (eps / 2).
Proof.
  rewrite tanh_exp. unfold p, q, odds_right, odds_wrong. pose proof (exp_pos eps). field. lra.
Qed.

Lemma odds_product : 4 * (p * q) = / (cosh (eps / 2) * cosh (eps / 2)).
Proof.
  pose proof (tanh_square (eps / 2)) as T. rewrite <- odds_difference in T.
  pose proof odds_sum. replace (4 * (p * q)) with ((p + q) * (p + q) - (p - q) * (p - q)) by ring.
  rewrite T, H. ring.
Qed.

(** ** The divergence is convex, so a step of a tree is below a step of randomised response *)

Definition convex (f : R -> R) : Prop :=
  forall x y a, 0 <= a <= 1 -> f (a * x + (1 - a) * y) <= a * f x + (1 - a) * f y.

Lemma hockey_stick_convex n : convex (hockey_stick eps n).
Proof.
  induction n as [| n IH]; intros x y a Ha; cbn [hockey_stick].
  - assert (0 <= a * Rmax 0 (1 - x)) by (apply Rmult_le_pos; [lra | apply Rmax_l]).
    assert (0 <= (1 - a) * Rmax 0 (1 - y)) by (apply Rmult_le_pos; [lra | apply Rmax_l]).
    assert (a * (1 - x) <= a * Rmax 0 (1 - x)) by (apply Rmult_le_compat_l; [lra | apply Rmax_r]).
    assert ((1 - a) * (1 - y) <= (1 - a) * Rmax 0 (1 - y))
      by (apply Rmult_le_compat_l; [lra | apply Rmax_r]).
    apply Rmax_lub; lra.
  - fold p q. destruct odds_pos as [Hp Hq].
    pose proof (IH (x * exp (- eps)) (y * exp (- eps)) a Ha) as L.
    pose proof (IH (x * exp eps) (y * exp eps) a Ha) as U.
    replace ((a * x + (1 - a) * y) * exp (- eps))
      with (a * (x * exp (- eps)) + (1 - a) * (y * exp (- eps))) by ring.
    replace ((a * x + (1 - a) * y) * exp eps)
      with (a * (x * exp eps) + (1 - a) * (y * exp eps)) by ring.
    apply (Rmult_le_compat_l p) in L; [| lra]. apply (Rmult_le_compat_l q) in U; [| lra].
    lra.
Qed.

Lemma hockey_stick_nonneg n g : 0 <= hockey_stick eps n g.
Proof.
  revert g. induction n as [| n IH]; intros g; cbn [hockey_stick]; [apply Rmax_l |].
  fold p q. destruct odds_pos.
  apply Rplus_le_le_0_compat; apply Rmult_le_pos; auto; lra.
Qed.

(** On the ball the divergence lies below a chord, which at [1] is one more step of randomised
    response. *)
Lemma hockey_stick_chord n g :
  exists a b, a + b = hockey_stick eps (S n) g
    /\ forall t, exp (- eps) <= t <= exp eps -> hockey_stick eps n (g * t) <= a + b * t.
Proof.
  cbn [hockey_stick]. fold p q.
  set (lo := exp (- eps)). set (hi := exp eps).
  destruct eps_nonneg as [He | He].
  - assert (L : lo < hi) by (apply exp_increasing; lra).
    set (flo := hockey_stick eps n (g * lo)). set (fhi := hockey_stick eps n (g * hi)).
    exists ((hi * flo - lo * fhi) / (hi - lo)), ((fhi - flo) / (hi - lo)). split.
    + assert (P : p = (hi - 1) / (hi - lo) /\ q = (1 - lo) / (hi - lo)).
      { pose proof odds_sum. pose proof odds_mean. fold lo hi in H0.
        split; apply Rmult_eq_reg_r with (hi - lo); try lra; field_simplify; nra. }
      destruct P as [-> ->]. field. lra.
    + intros t Ht.
      pose proof (hockey_stick_convex n (g * lo) (g * hi) ((hi - t) / (hi - lo))) as K.
      assert (B : 0 <= (hi - t) / (hi - lo) <= 1).
      { split; [apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; lra] |].
        apply Rmult_le_reg_r with (hi - lo); [lra |].
        replace ((hi - t) / (hi - lo) * (hi - lo)) with (hi - t) by (field; lra). lra. }
      specialize (K B).
      replace ((hi - t) / (hi - lo) * (g * lo) + (1 - (hi - t) / (hi - lo)) * (g * hi))
        with (g * t) in K by (field; lra).
      refine (Rle_trans _ _ _ K _). right. fold flo fhi. field. lra.
  - exists (hockey_stick eps n g), 0.
    unfold lo, hi. rewrite <- He, Ropp_0, exp_0. rewrite !Rmult_1_r. pose proof odds_sum.
    split; [rewrite <- Rmult_plus_distr_r, H; ring |].
    intros t Ht. replace t with 1 by lra. rewrite Rmult_1_r. lra.
Qed.

(** The step of every composition proof: two distributions within [eps] of each other, and what
    follows them at most [n] randomised responses apart. *)
Lemma composition_step {A : Type} (l : list A) (x y : A -> R) n g :
  distribution l x -> distribution l y -> near eps l x y ->
  (∑ a ∈ l, x a * hockey_stick eps n (g * (y a / x a))) <= hockey_stick eps (S n) g.
Proof.
  intros X Y N. destruct (hockey_stick_chord n g) as (a & b & <- & H).
  now apply (mean_of_density_le eps l x y (fun t => hockey_stick eps n (g * t)) a b).
Qed.

(** ** Closed form: one more vote changes a majority only where it breaks a tie *)

(** Where a walk stands that goes up with [p] and down with [q], seen from [j] below. *)
Fixpoint walk (n : nat) (j : Z) : R :=
  match n with
  | O => if Z.eq_dec j 0 then 1 else 0
  | S m => p * walk m (j - 1)%Z + q * walk m (j + 1)%Z
  end.

(** [TV_RR] gains [tanh(eps/2)] times the probability of a tie. *)
Lemma hockey_stick_succ n j :
  hockey_stick eps (S n) (exp (IZR j * eps))
  = hockey_stick eps n (exp (IZR j * eps)) + tanh (eps / 2) * walk n j.
Proof.
  revert j. induction n as [| n IH]; intros j.
  - cbn [hockey_stick walk]. fold p q.
    assert (Down : exp (IZR j * eps) * exp (- eps) = exp ((IZR j - 1) * eps))
      by (rewrite <- exp_plus; f_equal; ring).
    assert (Up : exp (IZR j * eps) * exp eps = exp ((IZR j + 1) * eps))
      by (rewrite <- exp_plus; f_equal; ring).
    destruct odds_pos as [Hp Hq]. pose proof odds_sum as S1. pose proof right_down as Rd.
    pose proof wrong_up as Wu.
    destruct (Z.eq_dec j 0) as [-> | Hj].
    + rewrite Rmult_0_l, exp_0, !Rmult_1_l, Rmult_1_r, <- odds_difference.
      pose proof (exp_ge_1 eps eps_nonneg).
      assert (exp (- eps) <= 1) by (rewrite <- exp_0; apply exp_le; lra).
      rewrite (Rmax_right 0 (1 - exp (- eps))), (Rmax_left 0 (1 - exp eps)),
        (Rmax_left 0 (1 - 1)) by lra. lra.
    + rewrite Rmult_0_r, Rplus_0_r.
      destruct (Z.lt_total j 0) as [N | [N | N]]; [| contradiction |].
      * assert (IZR j <= -1) by (apply (IZR_le j (-1)); lia).
        assert (B : forall x, x <= 0 -> exp (x * eps) <= 1).
        { intros x Hx. rewrite <- exp_0. apply exp_le.
          replace 0 with (0 * eps) by ring. apply Rmult_le_compat_r; lra. }
        pose proof (B (IZR j + 1) ltac:(lra)). pose proof (B (IZR j - 1) ltac:(lra)).
        pose proof (B (IZR j) ltac:(lra)). rewrite Down, Up, !Rmax_right, <- Down, <- Up by lra.
        replace (p * (1 - exp (IZR j * eps) * exp (- eps)) + q * (1 - exp (IZR j * eps) * exp eps))
          with (p + q - exp (IZR j * eps) * (p * exp (- eps) + q * exp eps)) by ring.
        rewrite odds_sum, odds_mean. ring.
      * assert (1 <= IZR j) by (apply (IZR_le 1 j); lia).
        assert (B : forall x, 0 <= x -> 1 <= exp (x * eps))
          by (intros; apply exp_ge_1, Rmult_le_pos; lra).
        pose proof (B (IZR j + 1) ltac:(lra)). pose proof (B (IZR j - 1) ltac:(lra)).
        pose proof (B (IZR j) ltac:(lra)). rewrite Down, Up, !Rmax_left by lra. ring.
  - change (hockey_stick eps (S (S n)) (exp (IZR j * eps)))
      with (p * hockey_stick eps (S n) (exp (IZR j * eps) * exp (- eps))
            + q * hockey_stick eps (S n) (exp (IZR j * eps) * exp eps)).
    change (hockey_stick eps (S n) (exp (IZR j * eps)))
      with (p * hockey_stick eps n (exp (IZR j * eps) * exp (- eps))
            + q * hockey_stick eps n (exp (IZR j * eps) * exp eps)).
    replace (exp (IZR j * eps) * exp (- eps)) with (exp (IZR (j - 1) * eps))
      by (rewrite <- exp_plus, minus_IZR; f_equal; ring).
    replace (exp (IZR j * eps) * exp eps) with (exp (IZR (j + 1) * eps))
      by (rewrite <- exp_plus, plus_IZR; f_equal; ring).
    rewrite (IH (j - 1)%Z), (IH (j + 1)%Z). cbn [walk]. ring.
Qed.

Lemma tv_rr_succ n : tv_rr (S n) eps = tv_rr n eps + tanh (eps / 2) * walk n 0.
Proof.
  unfold tv_rr. pose proof (hockey_stick_succ n 0) as H.
  replace (exp (IZR 0 * eps)) with 1 in H; [exact H |]. rewrite Rmult_0_l. now rewrite exp_0.
Qed.

Lemma tv_rr_0 : tv_rr 0 eps = 0.
Proof. unfold tv_rr. cbn. apply Rmax_left. lra. Qed.

Lemma walk_between n j : 0 <= walk n j <= 1.
Proof.
  revert j. induction n as [| n IH]; intros j; cbn [walk].
  - destruct (Z.eq_dec j 0); lra.
  - destruct odds_pos. pose proof odds_sum. pose proof (IH (j - 1)%Z). pose proof (IH (j + 1)%Z).
    split; [apply Rplus_le_le_0_compat; apply Rmult_le_pos; lra |].
    apply Rle_trans with (p * 1 + q * 1); [| lra].
    apply Rplus_le_compat; apply Rmult_le_compat_l; lra.
Qed.

Lemma tv_rr_nonneg n : 0 <= tv_rr n eps.
Proof. apply hockey_stick_nonneg. Qed.

Lemma tv_rr_mono n m : (n <= m)%nat -> tv_rr n eps <= tv_rr m eps.
Proof.
  induction 1 as [| m L IH]; [lra |]. rewrite tv_rr_succ.
  pose proof (walk_between m 0). pose proof (tanh_nonneg (eps / 2) ltac:(lra)).
  assert (0 <= tanh (eps / 2) * walk m 0) by (apply Rmult_le_pos; lra). lra.
Qed.

Lemma tv_rr_le_linear n : tv_rr n eps <= INR n * tanh (eps / 2).
Proof.
  pose proof (tanh_nonneg (eps / 2) ltac:(lra)).
  induction n as [| n IH]; [rewrite tv_rr_0; cbn; lra |].
  rewrite tv_rr_succ, S_INR. pose proof (walk_between n 0).
  assert (tanh (eps / 2) * walk n 0 <= tanh (eps / 2) * 1) by (apply Rmult_le_compat_l; lra).
  lra.
Qed.

(** *** Binomial coefficients *)

Fixpoint binomial (n k : nat) : R :=
  match n, k with
  | _, O => 1
  | O, S _ => 0
  | S m, S l => binomial m l + binomial m (S l)
  end.

Lemma binomial_above n k : (n < k)%nat -> binomial n k = 0.
Proof.
  revert k. induction n as [| n IH]; intros [| k] H; cbn; try lia; [reflexivity |].
  rewrite !IH by lia. ring.
Qed.

(** After [n] steps, [k] of them down, with [k] from [0] to [n]; and nowhere else. *)
Lemma walk_binomial n k :
  walk n (2 * Z.of_nat k - Z.of_nat n) = binomial n k * (p ^ k * q ^ (n - k)).
Proof.
  revert k. induction n as [| n IH]; intros k.
  - cbn [walk]. destruct k as [| k]; [cbn; ring |].
    destruct (Z.eq_dec _ 0); [lia |]. cbn. ring.
  - cbn [walk].
    replace (2 * Z.of_nat k - Z.of_nat (S n) + 1)%Z
      with (2 * Z.of_nat k - Z.of_nat n)%Z by lia.
    rewrite IH.
    destruct k as [| k].
    + replace (2 * Z.of_nat 0 - Z.of_nat (S n) - 1)%Z with (- Z.of_nat (n + 2))%Z by lia.
      assert (Z : forall n m, (n < m)%nat -> walk n (- Z.of_nat m) = 0).
      { clear. induction n as [| n IH]; intros m H; cbn [walk].
        - destruct (Z.eq_dec _ 0); [lia | reflexivity].
        - replace (- Z.of_nat m - 1)%Z with (- Z.of_nat (S m))%Z by lia.
          destruct m as [| m]; [lia |].
          replace (- Z.of_nat (S m) + 1)%Z with (- Z.of_nat m)%Z by lia.
          rewrite !IH by lia. ring. }
      rewrite Z by lia. replace (S n - 0)%nat with (S (n - 0)) by lia. cbn. destruct n; cbn; ring.
    + replace (2 * Z.of_nat (S k) - Z.of_nat (S n) - 1)%Z
        with (2 * Z.of_nat k - Z.of_nat n)%Z by lia.
      rewrite IH. cbn [binomial].
      destruct (le_lt_dec (S k) n) as [L | L].
      * replace (S n - S k)%nat with (S (n - S k)) by lia.
        replace (n - k)%nat with (S (n - S k)) by lia. cbn [pow]. ring.
      * rewrite (binomial_above n (S k)) by lia.
        replace (S n - S k)%nat with (n - k)%nat by lia. cbn [pow]. ring.
Qed.

Lemma walk_odd n j : Z.odd (Z.of_nat n + j) = true -> walk n j = 0.
Proof.
  revert j. induction n as [| n IH]; intros j H; cbn [walk].
  - destruct (Z.eq_dec j 0) as [-> |]; [discriminate | reflexivity].
  - rewrite !IH; [ring | |]; rewrite <- H, !Z.odd_add, Nat2Z.inj_succ, Z.odd_succ, <- Z.negb_odd;
      change (Z.odd (-1)) with true; change (Z.odd 1) with true;
      try (replace (j - 1)%Z with (j + -1)%Z by lia; rewrite Z.odd_add; change (Z.odd (-1)) with true);
      destruct (Z.odd (Z.of_nat n)), (Z.odd j); reflexivity.
Qed.

(** A tie among [2m] votes, [C(2m,m) (2 cosh(eps/2))^{−2m}]; none among an odd number. *)
Definition tie (m : nat) : R :=
  binomial (2 * m) m / (2 * cosh (eps / 2)) ^ (2 * m).

Lemma walk_even m : walk (2 * m) 0 = tie m.
Proof.
  pose proof (walk_binomial (2 * m) m) as W.
  replace (2 * Z.of_nat m - Z.of_nat (2 * m))%Z with 0%Z in W by lia.
  rewrite W. replace (2 * m - m)%nat with m by lia. unfold tie. unfold Rdiv at 1. f_equal.
  rewrite <- Rpow_mult_distr, pow_mult.
  replace ((2 * cosh (eps / 2)) ^ 2) with (4 * (cosh (eps / 2) * cosh (eps / 2))) by ring.
  pose proof (cosh_positive (eps / 2)).
  replace (p * q) with (/ (4 * (cosh (eps / 2) * cosh (eps / 2)))).
  - apply pow_inv.
  - rewrite Rinv_mult, <- odds_product. field.
Qed.

Lemma walk_uneven m : walk (2 * m + 1) 0 = 0.
Proof.
  apply walk_odd. rewrite Z.add_0_r. rewrite <- Z.odd_spec || apply Z.odd_spec.
  exists (Z.of_nat m). lia.
Qed.

(** [TV_RR(2k−1, eps) = TV_RR(2k, eps) = tanh(eps/2) Σ_{m<k} C(2m,m) (2 cosh(eps/2))^{−2m}]: with
    [n] steps the sum has the terms [m < n/2]. *)
Theorem tv_rr_closed_form n :
  tv_rr n eps = tanh (eps / 2) * ∑ m ∈ seq 0 ((n + 1) / 2), tie m.
Proof.
  assert (G : forall k,
    tv_rr (2 * k) eps = tanh (eps / 2) * (∑ m ∈ seq 0 k, tie m)
    /\ tv_rr (2 * k + 1) eps = tanh (eps / 2) * ∑ m ∈ seq 0 (S k), tie m).
  { assert (Odd : forall k, tv_rr (2 * k) eps = tanh (eps / 2) * (∑ m ∈ seq 0 k, tie m) ->
              tv_rr (2 * k + 1) eps = tanh (eps / 2) * ∑ m ∈ seq 0 (S k), tie m).
    { intros k E. rewrite Nat.add_1_r, tv_rr_succ, E, walk_even, seq_S, sum_app. cbn. ring. }
    induction k as [| k [_ IH]].
    - assert (Z : tv_rr (2 * 0) eps = tanh (eps / 2) * ∑ m ∈ seq 0 0, tie m)
        by (rewrite Nat.mul_0_r, tv_rr_0; cbn; ring).
      split; [exact Z | now apply Odd].
    - assert (E : tv_rr (2 * S k) eps = tanh (eps / 2) * ∑ m ∈ seq 0 (S k), tie m).
      { replace (2 * S k)%nat with (S (2 * k + 1)) by lia.
        rewrite tv_rr_succ, walk_uneven, IH. ring. }
      split; [exact E | now apply Odd]. }
  destruct (Nat.Even_or_Odd n) as [[k ->] | [k ->]].
  - replace ((2 * k + 1) / 2)%nat with k by (apply Nat.div_unique with 1%nat; lia). apply G.
  - replace ((2 * k + 1 + 1) / 2)%nat with (S k) by (apply Nat.div_unique with 0%nat; lia). apply G.
Qed.

(** ** Bounds in closed form *)

(** [√(1 − cosh(eps/2)^{−2n})], by the affinity of [n] randomised responses. *)
Lemma sqrt_add_le u v w z m :
  0 <= u -> 0 <= v -> 0 < w -> 0 < z -> 0 <= m ->
  u * u = w * w - m -> v * v = z * z - m -> (u + v) * (u + v) <= (w + z) * (w + z) - 4 * m.
Proof.
  intros Hu Hv Hw Hz Hm U V.
  assert (u * v <= w * z - m); [| nra].
  assert (m <= w * z).
  { assert (m <= w * w) by nra. assert (m <= z * z) by nra.
    destruct (Rle_dec w z); [apply Rle_trans with (w * w) | apply Rle_trans with (z * z)];
      try assumption; nra. }
  apply Rsqr_incr_0_var; [| lra]. unfold Rsqr.
  replace (u * v * (u * v)) with ((u * u) * (v * v)) by ring. rewrite U, V.
  pose proof (Rle_0_sqr (w - z)). unfold Rsqr in *.
  assert (0 <= m * ((w - z) * (w - z))) by (apply Rmult_le_pos; lra). lra.
Qed.

Definition affinity_square (n : nat) : R := (/ (cosh (eps / 2) * cosh (eps / 2))) ^ n.

Lemma affinity_square_between n : 0 < affinity_square n <= 1.
Proof.
  unfold affinity_square. pose proof (cosh_ge_1 (eps / 2)).
  assert (0 < / (cosh (eps / 2) * cosh (eps / 2))) by (apply Rinv_0_lt_compat; nra).
  assert (/ (cosh (eps / 2) * cosh (eps / 2)) <= 1)
    by (rewrite <- Rinv_1; apply Rinv_le_contravar; nra).
  split; [now apply pow_lt |].
  rewrite <- (pow1 n). apply pow_incr. lra.
Qed.

Lemma hockey_stick_affinity n g :
  0 < g ->
  2 * hockey_stick eps n g
  <= sqrt ((1 + g) * (1 + g) - 4 * g * affinity_square n) + (1 - g).
Proof.
  revert g. induction n as [| n IH]; intros g Hg.
  - cbn [hockey_stick affinity_square pow]. unfold affinity_square. cbn [pow].
    replace ((1 + g) * (1 + g) - 4 * g * 1) with ((1 - g) * (1 - g)) by ring.
    fold (Rsqr (1 - g)). rewrite sqrt_Rsqr_abs.
    unfold Rmax, Rabs. destruct Rle_dec, Rcase_abs; lra.
  - cbn [hockey_stick]. fold p q.
    destruct odds_pos as [Hp Hq]. pose proof odds_sum. pose proof right_down. pose proof wrong_up.
    set (lo := exp (- eps)) in *. set (hi := exp eps) in *.
    assert (Hlo : 0 < lo) by apply exp_pos. assert (Hhi : 0 < hi) by apply exp_pos.
    pose proof (IH (g * lo) ltac:(nra)) as L. pose proof (IH (g * hi) ltac:(nra)) as U.
    destruct (affinity_square_between n) as [Ha Ha'].
    set (A := affinity_square n) in *.
    replace (affinity_square (S n)) with (4 * (p * q) * A)
      by (unfold A, affinity_square; rewrite odds_product; reflexivity).
    set (u := sqrt ((1 + g * lo) * (1 + g * lo) - 4 * (g * lo) * A)) in *.
    set (v := sqrt ((1 + g * hi) * (1 + g * hi) - 4 * (g * hi) * A)) in *.
    assert (Pos : forall x, 0 < x -> 0 <= (1 + x) * (1 + x) - 4 * x * A).
    { intros x Hx. pose proof (Rle_0_sqr (1 - x)). unfold Rsqr in *.
      assert (4 * x * A <= 4 * x * 1) by (apply Rmult_le_compat_l; lra). lra. }
    pose proof (Pos (g * lo) ltac:(nra)) as P1. pose proof (Pos (g * hi) ltac:(nra)) as P2.
    assert (Uu : u * u = (1 + g * lo) * (1 + g * lo) - 4 * (g * lo) * A)
      by (apply sqrt_sqrt; assumption).
    assert (Vv : v * v = (1 + g * hi) * (1 + g * hi) - 4 * (g * hi) * A)
      by (apply sqrt_sqrt; assumption).
    assert (Hu : 0 <= u) by apply sqrt_pos. assert (Hv : 0 <= v) by apply sqrt_pos.
    assert (K : (p * u + q * v) * (p * u + q * v)
                <= ((p + g * q) + (q + g * p)) * ((p + g * q) + (q + g * p))
                   - 4 * (4 * g * (p * q) * A)).
    { apply sqrt_add_le.
      - apply Rmult_le_pos; lra.
      - apply Rmult_le_pos; lra.
      - nra.
      - nra.
      - assert (0 <= (p * q) * A) by (apply Rmult_le_pos; [apply Rmult_le_pos |]; lra).
        assert (0 <= g * ((p * q) * A)) by (apply Rmult_le_pos; lra). lra.
      - replace (p * u * (p * u)) with (p * p * (u * u)) by ring. rewrite Uu, <- H0. ring.
      - replace (q * v * (q * v)) with (q * q * (v * v)) by ring. rewrite Vv.
        replace (q * q * ((1 + g * hi) * (1 + g * hi) - 4 * (g * hi) * A))
          with ((q + g * (q * hi)) * (q + g * (q * hi)) - 4 * g * (q * (q * hi)) * A) by ring.
        rewrite H1. ring. }
    replace ((p + g * q + (q + g * p)) * (p + g * q + (q + g * p)))
      with ((p + q) * (p + q) * ((1 + g) * (1 + g))) in K by ring.
    rewrite H in K.
    assert (M : p * u + q * v <= sqrt ((1 + g) * (1 + g) - 4 * g * (4 * (p * q) * A))).
    { rewrite <- (sqrt_square (p * u + q * v))
        by (apply Rplus_le_le_0_compat; apply Rmult_le_pos; lra).
      apply sqrt_le_1_alt. lra. }
    apply (Rmult_le_compat_l p) in L; [| lra]. apply (Rmult_le_compat_l q) in U; [| lra].
    replace (p * (u + (1 - g * lo))) with (p * u + (p - g * (p * lo))) in L by ring.
    replace (q * (v + (1 - g * hi))) with (q * v + (q - g * (q * hi))) in U by ring.
    rewrite H0 in L. rewrite H1 in U.
    replace (1 - g) with ((p + q) - g * (p + q)) by (rewrite H; ring). lra.
Qed.

Theorem tv_rr_le_affinity n : tv_rr n eps <= sqrt (1 - affinity_square n).
Proof.
  pose proof (hockey_stick_affinity n 1 ltac:(lra)) as H. unfold tv_rr.
  replace ((1 + 1) * (1 + 1) - 4 * 1 * affinity_square n)
    with (2 * 2 * (1 - affinity_square n)) in H by ring.
  rewrite sqrt_mult, sqrt_square in H by (pose proof (affinity_square_between n); lra).
  lra.
Qed.

Theorem affinity_le_root n :
  sqrt (1 - affinity_square n) <= sqrt (INR n) * tanh (eps / 2).
Proof.
  pose proof (tanh_nonneg (eps / 2) ltac:(lra)).
  rewrite <- (sqrt_square (tanh (eps / 2))) by assumption.
  rewrite <- sqrt_mult by (try apply pos_INR; nra).
  apply sqrt_le_1_alt.
  pose proof (tanh_square (eps / 2)) as T. set (t := tanh (eps / 2)) in *.
  set (c := / (cosh (eps / 2) * cosh (eps / 2))) in *.
  assert (B : forall m, 1 - INR m * (t * t) <= c ^ m).
  { assert (Hc : 0 <= c) by (left; apply Rinv_0_lt_compat; pose proof (cosh_ge_1 (eps / 2)); nra).
    induction m as [| m IH]; [cbn; lra |]. rewrite S_INR. cbn [pow].
    assert (c ^ m <= 1) by (rewrite <- (pow1 m); apply pow_incr; nra).
    assert (c * c ^ m = c ^ m - t * t * c ^ m) by (rewrite T; ring).
    assert (t * t * c ^ m <= t * t * 1) by (apply Rmult_le_compat_l; nra). lra. }
  specialize (B n). unfold affinity_square. fold c. lra.
Qed.

Theorem tv_rr_le_root n : tv_rr n eps <= sqrt (INR n) * (eps / 2).
Proof.
  eapply Rle_trans; [apply tv_rr_le_affinity |].
  eapply Rle_trans; [apply affinity_le_root |].
  apply Rmult_le_compat_l; [apply sqrt_pos | apply tanh_le; lra].
Qed.

(** *** Sums over the steps of a response: [Σ_{h=1}^n TV_RR(h, eps)] *)

Fixpoint tv_rr_steps (n : nat) : R :=
  match n with O => 0 | S m => tv_rr_steps m + tv_rr (S m) eps end.

Lemma tv_rr_steps_le_composition n : tv_rr_steps n <= INR n * tv_rr n eps.
Proof.
  induction n as [| n IH]; [cbn; lra |]. cbn [tv_rr_steps]. rewrite S_INR.
  pose proof (tv_rr_mono n (S n) ltac:(lia)). pose proof (pos_INR n).
  assert (INR n * tv_rr n eps <= INR n * tv_rr (S n) eps) by (apply Rmult_le_compat_l; lra).
  lra.
Qed.

Lemma tv_rr_steps_le_elementary n :
  tv_rr_steps n <= tanh (eps / 2) * (INR n * (INR n + 1) / 2).
Proof.
  induction n as [| n IH]; [cbn; lra |]. cbn [tv_rr_steps].
  pose proof (tv_rr_le_linear (S n)). rewrite !S_INR in *. lra.
Qed.

Lemma tv_rr_steps_le_three_halves n :
  tv_rr_steps n <= INR n * sqrt (INR n) * eps / 2.
Proof.
  eapply Rle_trans; [apply tv_rr_steps_le_composition |].
  pose proof (tv_rr_le_root n). pose proof (pos_INR n).
  apply (Rmult_le_compat_l (INR n)) in H; lra.
Qed.

Lemma tv_rr_steps_le_paper n : tv_rr_steps n <= INR n ^ 2 * eps.
Proof.
  eapply Rle_trans; [apply tv_rr_steps_le_elementary |].
  pose proof (tanh_le (eps / 2) ltac:(lra)). pose proof (pos_INR n).
  destruct n as [| n]; [cbn; lra |]. rewrite S_INR in *. pose proof (pos_INR n).
  apply Rle_trans with (eps / 2 * ((INR n + 1) * (INR n + 1 + 1) / 2)).
  - apply Rmult_le_compat_r; nra.
  - nra.
Qed.

(** *** With a discount: [Σ_{h=1}^n γ^{h−1} TV_RR(h, eps)] *)

Fixpoint tv_rr_discounted (gamma : R) (n : nat) : R :=
  match n with O => 0 | S m => tv_rr_discounted gamma m + gamma ^ m * tv_rr (S m) eps end.

Fixpoint ties_discounted (gamma : R) (n : nat) (j : Z) : R :=
  match n with O => 0 | S m => ties_discounted gamma m j + gamma ^ m * walk m j end.

Lemma tv_rr_discounted_ties gamma n :
  (1 - gamma) * tv_rr_discounted gamma n
  = tanh (eps / 2) * ties_discounted gamma n 0 - gamma ^ n * tv_rr n eps.
Proof.
  induction n as [| n IH].
  - cbn [tv_rr_discounted ties_discounted pow]. rewrite tv_rr_0. ring.
  - cbn [tv_rr_discounted ties_discounted pow]. rewrite Rmult_plus_distr_l, IH, tv_rr_succ. ring.
Qed.

Lemma ties_discounted_step gamma n j :
  ties_discounted gamma (S n) j
  = walk 0 j + gamma * (p * ties_discounted gamma n (j - 1) + q * ties_discounted gamma n (j + 1)).
Proof.
  induction n as [| n IH].
  - cbn [ties_discounted pow]. ring.
  - change (ties_discounted gamma (S (S n)) j)
      with (ties_discounted gamma (S n) j + gamma ^ S n * walk (S n) j).
    rewrite IH. cbn [ties_discounted walk pow]. ring.
Qed.

(** How often the discounted walk stands at [j], at most: the two roots of
    [x = γ(p + q x²)] and [y = γ(q + p y²)] below and above. *)
Lemma ties_discounted_le gamma n :
  0 <= gamma < 1 ->
  ties_discounted gamma n 0
  <= / sqrt (1 - gamma ^ 2 / (cosh (eps / 2) * cosh (eps / 2))).
Proof.
  intros Hg. destruct odds_pos as [Hp Hq]. pose proof odds_sum as S1.
  pose proof (cosh_ge_1 (eps / 2)) as Hc.
  unfold Rdiv at 1. rewrite <- odds_product.
  set (d := 1 - gamma ^ 2 * (4 * (p * q))). set (s := sqrt d).
  assert (Hpq : 4 * (p * q) <= 1).
  { pose proof (Rle_0_sqr (p - q)). unfold Rsqr in *.
    assert ((p + q) * (p + q) = 1) by (rewrite S1; ring). lra. }
  assert (Hpq0 : 0 < p * q) by (apply Rmult_lt_0_compat; assumption).
  assert (Hd : 0 < d <= 1).
  { unfold d. assert (0 <= gamma ^ 2 < 1) by (cbn; nra).
    split; [nra |]. assert (0 <= gamma ^ 2 * (4 * (p * q))) by (apply Rmult_le_pos; lra). lra. }
  assert (Hs : 0 < s) by (apply sqrt_lt_R0; lra).
  assert (Hss : s * s = d) by (apply sqrt_sqrt; lra).
  assert (Hs1 : s <= 1) by (apply Rsqr_incr_0_var; unfold Rsqr; lra).
  destruct Hg as [[Hg | <-] Hg1].
  2: { assert (B : forall m, ties_discounted 0 m 0 <= 1).
       { intros [| m]; [cbn; lra |]. rewrite ties_discounted_step. cbn. lra. }
       eapply Rle_trans; [apply B |]. rewrite <- Rinv_1. apply Rinv_le_contravar; lra. }
  set (x := (1 - s) / (2 * q * gamma)). set (y := (1 - s) / (2 * p * gamma)).
  assert (Ex : x = gamma * (p + q * (x * x))).
  { unfold x. apply Rmult_eq_reg_r with (4 * q * gamma); [| nra].
    replace ((1 - s) / (2 * q * gamma) * (4 * q * gamma)) with (2 * (1 - s)) by (field; lra).
    replace (gamma * (p + q * ((1 - s) / (2 * q * gamma) * ((1 - s) / (2 * q * gamma))))
             * (4 * q * gamma))
      with (gamma ^ 2 * (4 * (p * q)) + (1 - 2 * s + s * s)) by (field; lra).
    rewrite Hss. unfold d. ring. }
  assert (Ey : y = gamma * (q + p * (y * y))).
  { unfold y. apply Rmult_eq_reg_r with (4 * p * gamma); [| nra].
    replace ((1 - s) / (2 * p * gamma) * (4 * p * gamma)) with (2 * (1 - s)) by (field; lra).
    replace (gamma * (q + p * ((1 - s) / (2 * p * gamma) * ((1 - s) / (2 * p * gamma))))
             * (4 * p * gamma))
      with (gamma ^ 2 * (4 * (p * q)) + (1 - 2 * s + s * s)) by (field; lra).
    rewrite Hss. unfold d. ring. }
  assert (Hx : 0 <= x) by (apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; nra]).
  assert (Hy : 0 <= y) by (apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; nra]).
  set (green := fun j : Z =>
    / s * (if Z_le_dec 0 j then x ^ Z.to_nat j else y ^ Z.to_nat (- j))).
  assert (Hs' : 0 < / s) by now apply Rinv_0_lt_compat.
  assert (Green : forall j, walk 0 j + gamma * (p * green (j - 1)%Z + q * green (j + 1)%Z)
                            = green j).
  { intros j. unfold green. cbn [walk].
    destruct (Z.lt_total j 0) as [N | [-> | N]].
    - destruct (Z.eq_dec j 0); [lia |]. destruct (Z_le_dec 0 (j - 1)); [lia |].
      destruct (Z_le_dec 0 j); [lia |].
      replace (Z.to_nat (- (j - 1))) with (S (Z.to_nat (- j))) by lia.
      destruct (Z.to_nat (- j)) as [| k] eqn:Ek; [lia |].
      assert (E : (if Z_le_dec 0 (j + 1) then x ^ Z.to_nat (j + 1)
                   else y ^ Z.to_nat (- (j + 1))) = y ^ k).
      { destruct (Z_le_dec 0 (j + 1)).
        - replace (Z.to_nat (j + 1)) with O by lia. replace k with O by lia. reflexivity.
        - f_equal. lia. }
      rewrite E. cbn [pow].
      replace (0 + gamma * (p * (/ s * (y * (y * y ^ k))) + q * (/ s * y ^ k)))
        with (/ s * (y ^ k * (gamma * (q + p * (y * y))))) by ring.
      rewrite <- Ey. ring.
    - cbn. change (Pos.to_nat 1) with 1%nat. rewrite !pow_1. destruct (Z.eq_dec 0 0); [| lia].
      assert (E : gamma * (p * y + q * x) = 1 - s) by (unfold x, y; field; lra).
      replace (1 + gamma * (p * (/ s * y) + q * (/ s * x)))
        with (1 + / s * (gamma * (p * y + q * x))) by ring.
      rewrite E. field. lra.
    - destruct (Z.eq_dec j 0); [lia |]. destruct (Z_le_dec 0 (j - 1)); [| lia].
      destruct (Z_le_dec 0 (j + 1)); [| lia]. destruct (Z_le_dec 0 j); [| lia].
      replace (Z.to_nat (j + 1)) with (S (S (Z.to_nat (j - 1)))) by lia.
      replace (Z.to_nat j) with (S (Z.to_nat (j - 1))) by lia.
      set (k := Z.to_nat (j - 1)). cbn [pow].
      replace (0 + gamma * (p * (/ s * x ^ k) + q * (/ s * (x * (x * x ^ k)))))
        with (/ s * (x ^ k * (gamma * (p + q * (x * x))))) by ring.
      rewrite <- Ex. ring. }
  assert (Pos : forall j, 0 <= green j).
  { intros j. unfold green. apply Rmult_le_pos; [lra |].
    destruct (Z_le_dec 0 j); now apply pow_le. }
  assert (B : forall m j, ties_discounted gamma m j <= green j).
  { induction m as [| m IH]; intros j; [apply Pos |].
    rewrite ties_discounted_step, <- Green.
    apply Rplus_le_compat_l, Rmult_le_compat_l; [lra |].
    apply Rplus_le_compat; apply Rmult_le_compat_l; try lra; apply IH. }
  specialize (B n 0%Z). unfold green in B. cbn in B. lra.
Qed.

Theorem tv_rr_discounted_le gamma n :
  0 <= gamma < 1 ->
  tv_rr_discounted gamma n
  <= tanh (eps / 2) / ((1 - gamma) * sqrt (1 - gamma ^ 2 / (cosh (eps / 2) * cosh (eps / 2)))).
Proof.
  intros Hg. pose proof (tv_rr_discounted_ties gamma n) as E.
  pose proof (ties_discounted_le gamma n Hg) as B.
  pose proof (tanh_nonneg (eps / 2) ltac:(lra)) as T.
  pose proof (tv_rr_nonneg n) as P. pose proof (pow_le gamma n ltac:(lra)) as G.
  apply (Rmult_le_compat_l (tanh (eps / 2))) in B; [| exact T].
  assert (0 <= gamma ^ n * tv_rr n eps) by (apply Rmult_le_pos; assumption).
  apply Rmult_le_reg_l with (1 - gamma); [lra |].
  unfold Rdiv at 1. rewrite Rinv_mult. revert B. generalize (/ sqrt (1 -
    gamma ^ 2 / (cosh (eps / 2) * cosh (eps / 2)))). intros i B.
  replace ((1 - gamma) * (tanh (eps / 2) * (/ (1 - gamma) * i))) with (tanh (eps / 2) * i)
    by (field; lra).
  lra.
Qed.

End Composition.
