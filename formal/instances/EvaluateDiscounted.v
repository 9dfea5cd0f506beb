(** As Evaluate.v, without a last token: values are whatever solves their Bellman equations, so
    each is first enclosed between numbers that nearly solve them. *)

From Coq Require Export Bool.
From Endorm.instances Require Export Evaluate.
From Endorm Require Export Discounted DiscountedRows DiscountedCloning.
Open Scope R_scope.

(** States are the last token, of a vocabulary of two. *)
#[export] Instance window : Dynamics bool bool.
Proof. refine {| next _ a := a; acts _ := [false; true] |}. discriminate. Defined.

Definition table_of (x00 x01 x10 x11 : R) (s a : bool) : R :=
  if s then if a then x11 else x10 else if a then x01 else x00.

Definition values (x0 x1 : R) (s : bool) : R := if s then x1 else x0.

(** The policy that plays [f s] in each state [s], and its response that begins with [a]. *)
Definition chooses (f : bool -> bool) (s a : bool) : R := if Bool.eqb a (f s) then 1 else 0.

Definition follow (f : bool -> bool) (a : bool) (n : nat) : bool := Nat.iter n f a.

(** What such a response earns: [x] at first, then what the policy earns from its state on. *)
Definition earns (f : bool -> bool) (a : bool) (x : R) (w : bool -> R) (n : nat) : R :=
  match n with O => x | S m => w (follow f a m) end.

Lemma bounded_values x0 x1 : bounded (values x0 x1).
Proof.
  exists (Rabs x0 + Rabs x1). intros s. pose proof (Rabs_pos x0). pose proof (Rabs_pos x1).
  destruct s; cbn; lra.
Qed.

Lemma bounded_earns f a x x0 x1 : bounded (earns f a x (values x0 x1)).
Proof.
  exists (Rabs x + Rabs x0 + Rabs x1). intros n.
  pose proof (Rabs_pos x). pose proof (Rabs_pos x0). pose proof (Rabs_pos x1).
  destruct n as [| n]; cbn; [lra |]. destruct (follow f a n); cbn; lra.
Qed.

Lemma chooses_policy f : stationary_policy (chooses f).
Proof.
  intros s. split.
  - intros a _. unfold chooses. destruct (Bool.eqb a (f s)); lra.
  - cbn. unfold chooses. destruct (f s); cbn; lra.
Qed.

(** How near: soft values, and values of the policies that are made of them. *)
Definition finer : R := 1 / 100000000000000000000.
Definition fine : R := 1 / 1000000000000000.

(** Both values lie between numbers. *)
Definition enclosed (d : R) (v : bool -> R) (x0 x1 : R) : Prop :=
  (x0 - d <= v false <= x0 + d) /\ (x1 - d <= v true <= x1 + d).

Lemma enclose d v x0 x1 :
  (forall s, Rabs (v s - values x0 x1 s) <= d) -> enclosed d v x0 x1.
Proof.
  intros H. split; [specialize (H false) | specialize (H true)];
    apply Scalars.abs_le_inv in H; cbn in H; lra.
Qed.

Lemma enclose_first d (u : nat -> R) x : Rabs (u O - x) <= d -> x - d <= u O <= x + d.
Proof. intros H. apply Scalars.abs_le_inv in H. lra. Qed.

(** Evaluates where values are known to be enclosed. *)
Ltac evaluate_enclosed :=
  repeat match goal with
         | H : enclosed _ _ _ _ |- _ =>
             let x := fresh "known" in let y := fresh "known" in destruct H as [x y]; try clear H
         end;
  unfold finer, fine in *;
  cbv -[Rplus Rmult Rminus Rdiv Rinv Ropp Rabs Rmax Rmin exp ln sqrt IZR Rle];
  rewrite ?Rmax_abs, ?Rmin_abs;
  repeat match goal with
         | |- context [?v ?s] => is_var v; let x := fresh "x" in set (x := v s) in *; clearbody x
         end;
  repeat match goal with
         | H : ?P |- _ =>
             lazymatch type of P with
             | Prop =>
                 lazymatch P with
                 | _ <= ?y <= _ =>
                     tryif is_var y
                     then lazymatch goal with |- context [y] => fail | _ => clear H end
                     else clear H
                 | _ => clear H
                 end
             end
         end;
  interval with (i_prec 90).

(** Encloses the bounded solution [v] of an equation, by numbers that nearly solve it. *)
Ltac enclose_by near :=
  apply enclose; apply near; [apply bounded_values | intros []; evaluate_enclosed].

(** Encloses the return [u O] of a response. *)
Ltac enclose_return_by near :=
  apply enclose_first; apply near;
  [ apply bounded_earns
  | intros [| n];
    [ evaluate_enclosed
    | cbn [earns state_after next window];
      match goal with
      | |- context [follow ?f ?a (S n)] =>
          change (follow f a (S n)) with (f (follow f a n)); generalize (follow f a n)
      end;
      intros []; evaluate_enclosed ] ].

(** Both sides of what a theorem claims are these numbers, to twelve digits after the point. *)
Ltac certify_enclosed claim tau left_number right_number :=
  let type := type of claim in
  let said := conclusion type tau in
  let both l r :=
    assert (Rabs (l - left_number) <= 1 / 1000000000000) by evaluate_enclosed;
    assert (Rabs (r - right_number) <= 1 / 1000000000000) by evaluate_enclosed in
  lazymatch said with
  | ?l <= ?r => both l r
  | ?l = ?r => both l r
  end.
