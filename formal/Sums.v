(** Sums and maxima over lists: [∑ x ∈ l, f x], [greatest l f], [least l f]. *)

From Coq Require Import Reals List Lra Lia PeanoNat.
Import ListNotations.
Open Scope R_scope.

Definition sum {A : Type} (l : list A) (f : A -> R) : R :=
  fold_right (fun x rest => f x + rest) 0 l.

Notation "∑ x ∈ l , e" := (sum l (fun x => e))
  (at level 41, x name, l at level 40, e at level 41, right associativity) : R_scope.

(** The greatest and the least of [f] on a list that is not empty. *)
Definition greatest {A : Type} (l : list A) (f : A -> R) : R :=
  match l with
  | [] => 0
  | x :: rest => fold_right (fun y top => Rmax (f y) top) (f x) rest
  end.

Definition least {A : Type} (l : list A) (f : A -> R) : R := - greatest l (fun x => - f x).

Section Sums.
Context {A B : Type}.
Implicit Types (l : list A) (f g : A -> R) (c : R).

Lemma sum_nil : forall f, sum [] f = 0.
Proof. reflexivity. Qed.

Lemma sum_cons : forall x l f, sum (x :: l) f = f x + sum l f.
Proof. reflexivity. Qed.

Lemma sum_app : forall l l' f, sum (l ++ l') f = sum l f + sum l' f.
Proof.
  intros l l' f. induction l as [| x l IH]; simpl.
  - lra.
  - rewrite IH. lra.
Qed.

Lemma sum_map : forall (l : list B) (h : B -> A) f, sum (map h l) f = ∑ x ∈ l, f (h x).
Proof. intros l h f. induction l as [| x l IH]; simpl; congruence. Qed.

Lemma sum_flat_map : forall (l : list B) (h : B -> list A) f,
  sum (flat_map h l) f = ∑ x ∈ l, sum (h x) f.
Proof.
  intros l h f. induction l as [| x l IH]; simpl; [reflexivity |].
  rewrite sum_app, IH. reflexivity.
Qed.

Lemma sum_ext : forall l f g, (forall x, In x l -> f x = g x) -> sum l f = sum l g.
Proof.
  intros l f g same. induction l as [| x l IH]; simpl; [reflexivity |].
  rewrite (same x (or_introl eq_refl)), IH; [reflexivity |].
  intros y y_in. apply same. now right.
Qed.

Lemma sum_le : forall l f g, (forall x, In x l -> f x <= g x) -> sum l f <= sum l g.
Proof.
  intros l f g below. induction l as [| x l IH]; simpl; [lra |].
  apply Rplus_le_compat; [apply below; now left |].
  apply IH. intros y y_in. apply below. now right.
Qed.

Lemma sum_lt : forall l f g,
  l <> [] -> (forall x, In x l -> f x < g x) -> sum l f < sum l g.
Proof.
  intros [| x l] f g nonempty below; [contradiction | simpl].
  apply Rplus_lt_le_compat; [apply below; now left |].
  apply sum_le. intros y y_in. apply Rlt_le, below. now right.
Qed.

Lemma sum_plus : forall l f g, (∑ x ∈ l, (f x + g x)) = sum l f + sum l g.
Proof. intros l f g. induction l as [| x l IH]; simpl; [| rewrite IH]; lra. Qed.

Lemma sum_minus : forall l f g, (∑ x ∈ l, (f x - g x)) = sum l f - sum l g.
Proof. intros l f g. induction l as [| x l IH]; simpl; [| rewrite IH]; lra. Qed.

Lemma sum_scale : forall l c f, (∑ x ∈ l, c * f x) = c * sum l f.
Proof. intros l c f. induction l as [| x l IH]; simpl; [| rewrite IH]; lra. Qed.

Lemma sum_scale_r : forall l c f, (∑ x ∈ l, f x * c) = sum l f * c.
Proof. intros l c f. induction l as [| x l IH]; simpl; [| rewrite IH]; lra. Qed.

Lemma sum_const : forall l c, (∑ _x ∈ l, c) = INR (length l) * c.
Proof.
  intros l c. induction l as [| x l IH]; cbn [length]; [simpl; lra |].
  rewrite sum_cons, S_INR, IH. lra.
Qed.

Lemma sum_zero : forall l f, (forall x, In x l -> f x = 0) -> sum l f = 0.
Proof.
  intros l f zero. rewrite (sum_ext l f (fun _ => 0) zero), sum_const. lra.
Qed.

Lemma sum_nonneg : forall l f, (forall x, In x l -> 0 <= f x) -> 0 <= sum l f.
Proof.
  intros l f nonneg. rewrite <- (sum_zero l (fun _ => 0)) by auto. now apply sum_le.
Qed.

Lemma sum_pos : forall l f, l <> [] -> (forall x, In x l -> 0 < f x) -> 0 < sum l f.
Proof.
  intros l f nonempty pos. rewrite <- (sum_zero l (fun _ => 0)) by auto. now apply sum_lt.
Qed.

Lemma sum_abs : forall l f, Rabs (sum l f) <= ∑ x ∈ l, Rabs (f x).
Proof.
  intros l f. induction l as [| x l IH]; simpl.
  - rewrite Rabs_R0. lra.
  - eapply Rle_trans; [apply Rabs_triang | lra].
Qed.

(** A term is at most the sum of terms that are not negative. *)
Lemma term_le_sum : forall l f x,
  (forall y, In y l -> 0 <= f y) -> In x l -> f x <= sum l f.
Proof.
  intros l f x nonneg x_in. induction l as [| y l IH]; [contradiction | simpl].
  assert (0 <= f y) by (apply nonneg; now left).
  assert (0 <= sum l f) by (apply sum_nonneg; intros z z_in; apply nonneg; now right).
  destruct x_in as [-> | x_in]; [lra |].
  enough (f x <= sum l f) by lra.
  apply IH; [| exact x_in]. intros z z_in. apply nonneg. now right.
Qed.

(** Terms that are not negative and sum to zero are zero. *)
Lemma sum_zero_terms : forall l f x,
  (forall y, In y l -> 0 <= f y) -> sum l f = 0 -> In x l -> f x = 0.
Proof.
  intros l f x nonneg zero x_in.
  pose proof (term_le_sum l f x nonneg x_in). pose proof (nonneg x x_in). lra.
Qed.

Lemma greatest_ge : forall l f x, In x l -> f x <= greatest l f.
Proof.
  intros [| y l] f x x_in; [contradiction | simpl].
  induction l as [| z l IH]; simpl in *.
  - destruct x_in as [-> | []]. lra.
  - destruct x_in as [-> | [-> | x_in]].
    + eapply Rle_trans; [apply IH; now left | apply Rmax_r].
    + apply Rmax_l.
    + eapply Rle_trans; [apply IH; now right | apply Rmax_r].
Qed.

Lemma greatest_in : forall l f, l <> [] -> exists x, In x l /\ greatest l f = f x.
Proof.
  intros [| y l] f nonempty; [contradiction | simpl]. clear nonempty.
  induction l as [| z l IH]; simpl in *.
  - exists y. split; [now left | reflexivity].
  - destruct IH as (x & x_in & ->).
    unfold Rmax. destruct (Rle_dec (f z) (f x)).
    + exists x. split; [| reflexivity]. destruct x_in; auto.
    + exists z. auto.
Qed.

Lemma least_le : forall l f x, In x l -> least l f <= f x.
Proof.
  intros l f x x_in. unfold least.
  pose proof (greatest_ge l (fun x => - f x) x x_in). cbv beta in *. lra.
Qed.

Lemma least_in : forall l f, l <> [] -> exists x, In x l /\ least l f = f x.
Proof.
  intros l f nonempty. unfold least.
  destruct (greatest_in l (fun x => - f x) nonempty) as (x & x_in & ->).
  exists x. split; [exact x_in | lra].
Qed.

End Sums.

Lemma sum_swap : forall {A B : Type} (l : list A) (l' : list B) (f : A -> B -> R),
  (∑ x ∈ l, ∑ y ∈ l', f x y) = ∑ y ∈ l', ∑ x ∈ l, f x y.
Proof.
  intros A B l l' f. induction l as [| x l IH]; simpl.
  - symmetry. now apply sum_zero.
  - rewrite IH, sum_plus. reflexivity.
Qed.

(** All mass on one number. *)
Lemma sum_at : forall n k (f : nat -> R), (k < n)%nat ->
  (∑ a ∈ seq 0 n, (if a =? k then 1 else 0) * f a) = f k.
Proof.
  intros n k f k_lt. replace n with (k + S (n - S k))%nat by lia.
  rewrite seq_app, sum_app. cbn [seq Nat.add]. rewrite sum_cons, Nat.eqb_refl.
  rewrite !sum_zero; [ring | |]; intros a a_in; apply in_seq in a_in; cbv beta;
    destruct (Nat.eqb_spec a k); lia || ring.
Qed.
