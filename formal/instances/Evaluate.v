(** What evaluates the definitions of the theorems on a small instance, with Coq-Interval.

    It brings primitive integers, whose axioms the theorems do without: nothing in this folder is
    read by a theorem. *)

From Coq Require Export Reals List Lra.
From Interval Require Export Tactic.
From Endorm Require Export Sums Definitions Composition.
From Endorm Require Paper.
From Endorm Require Export SoftValues Distances Preferences Cloning ReinforcementLearning Anchored.
From Endorm Require Export ClosedForms.
From Endorm Require Export Lengths OneResponse Moments.
Export ListNotations.
Open Scope R_scope.

(** The paper's prefix tree, of a vocabulary of two. *)
#[export] Instance prefixes : Dynamics (list nat) nat := Paper.prefix_tree 2 (le_S 1 1 (le_n 1)).

(** The policy of a response, and the values of logits at [α]. *)
Definition plays (tau : list nat) : table (list nat) nat :=
  fun _ s a => if Nat.eqb a (nth (length s) tau O) then 1 else 0.

Definition gauge_of_logits (alpha : R) (logits : list nat -> nat -> R) (n : nat) (s : list nat) :=
  match n with O => 0 | _ => soft_maximum alpha (acts s) (fun a => alpha * logits s a) end.

Lemma Rmax_abs x y : Rmax x y = (x + y + Rabs (x - y)) / 2.
Proof. unfold Rmax, Rabs. destruct Rle_dec, Rcase_abs; lra. Qed.

Lemma Rmin_abs x y : Rmin x y = (x + y - Rabs (x - y)) / 2.
Proof. unfold Rmin, Rabs. destruct Rle_dec, Rcase_abs; lra. Qed.

(** Decides which of two numbers is the lesser, where they differ. *)
Ltac compare :=
  repeat match goal with
         | |- context [Rle_dec ?x ?y] =>
             let no := fresh in
             destruct (Rle_dec x y) as [no | no];
             [ try (exfalso; apply (Rle_not_lt _ _ no); clear; interval with (i_prec 60))
             | try (exfalso; apply no; clear; interval with (i_prec 60)) ];
             clear no
         end.

(** Unfolds everything down to real operations, and encloses the result. *)
Ltac evaluate :=
  cbv -[Rplus Rmult Rminus Rdiv Rinv Ropp Rabs Rmax Rmin exp ln sqrt IZR Rle Rlt Rle_dec];
  compare; rewrite ?Rmax_abs, ?Rmin_abs;
  interval with (i_prec 60).

(** Evaluates what is said of every state of the tree. *)
Ltac evaluate_everywhere :=
  unfold policy, positive, log_ratio_ball, reward_range;
  repeat (cbn [everywhere];
          match goal with
          | |- True => exact I
          | |- _ /\ _ => split
          | |- forall a, In a _ -> _ => let a := fresh in intros a [<- | [<- | []]]
          end);
  evaluate.

(** What a claim says of a response [tau] once its assumptions hold. *)
Ltac conclusion claim tau :=
  lazymatch claim with
  | let x := ?v in @?body x => let c := eval cbv beta in (body v) in conclusion c tau
  | _ <-> ?rest => conclusion rest tau
  | _ -> ?rest => conclusion rest tau
  | forall x : list nat, @?body x => let c := eval cbv beta in (body tau) in conclusion c tau
  | ?c => c
  end.

(** Both sides of what a theorem claims are these numbers, to twelve digits after the point. *)
Ltac certify claim tau left_number right_number :=
  let type := type of claim in
  let said := conclusion type tau in
  let both l r :=
    assert (Rabs (l - left_number) <= 1 / 1000000000000) by evaluate;
    assert (Rabs (r - right_number) <= 1 / 1000000000000) by evaluate in
  lazymatch said with
  | ?l <= ?r => both l r
  | ?l = ?r => both l r
  end.
