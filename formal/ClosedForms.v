(** The closed form of what two policies of a ball can differ by. *)

From Coq Require Import Reals Lra List.
From Endorm Require Import Scalars Composition Values Cloning.
From Endorm Require Attained.
Open Scope R_scope.

(** Row tv-affinity: [TV(π_E(τ), π̂(τ)) ≤ √(1 − cosh(ε/2)^{−2H})]. *)
Theorem tv_affinity : forall {St T : Type} {D : Dynamics St T} eps (expert p : table St T) n s,
  0 <= eps -> policy expert n s -> policy p n s -> log_ratio_ball eps expert p n s ->
  tv expert p n s <= sqrt (1 - / cosh (eps / 2) ^ (2 * n)).
Proof.
  intros St T D eps expert p n s eps_nonneg expert_pol pol ball.
  eapply Rle_trans; [now apply (tv_composition eps) |].
  eapply Rle_trans; [now apply tv_rr_le_affinity |].
  right. do 2 f_equal. unfold affinity_square. rewrite pow_mult, <- pow_inv. do 2 f_equal. cbn. ring.
Qed.

(** At a single step it is attained, by the coin. *)
Theorem tv_affinity_attained : forall alpha eps s, 0 < alpha -> 0 <= eps ->
  tv (D := Attained.coin) (Attained.coin_expert alpha eps) (Attained.coin_clone eps) 1 s
  = sqrt (1 - / cosh (eps / 2) ^ (2 * 1)).
Proof.
  intros alpha eps s alpha_pos eps_nonneg.
  rewrite Attained.tv_composition_attained, tv_rr_succ, tv_rr_0 by assumption.
  rewrite <- (sqrt_square (tanh (eps / 2))) by (apply tanh_nonneg; lra).
  replace (/ cosh (eps / 2) ^ (2 * 1)) with (/ (cosh (eps / 2) * cosh (eps / 2)))
    by (cbn; f_equal; ring).
  rewrite <- tanh_square. cbn. ring_simplify (0 + sqrt (tanh (eps / 2) * tanh (eps / 2)) * 1).
  reflexivity.
Qed.
