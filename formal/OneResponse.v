(** Cloning an expert that writes nearly one response to a prompt (docs/theory.md, section 7). *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Cloning.
Import ListNotations.
Open Scope R_scope.

(** ** Distributions on a list *)

Section NearlyOne.
Context {A : Type}.
Implicit Types (l : list A) (p q w : A -> R).

(** [∑ √(w p) |√p − √q| ≤ √((Σ w p) Σ (√p − √q)²)] for any part of [p]: [w] is zero or one. *)
Lemma part_of_root l p q w eta :
  (forall a, In a l -> 0 <= p a) -> (forall a, In a l -> w a = 0 \/ w a = 1) ->
  (∑ a ∈ l, w a * p a) <= eta ->
  (∑ a ∈ l, w a * (sqrt (p a) * Rabs (sqrt (p a) - sqrt (q a))))
  <= sqrt (eta * ∑ a ∈ l, (sqrt (p a) - sqrt (q a)) ^ 2).
Proof.
  intros p_nonneg part small.
  assert (0 <= ∑ a ∈ l, w a * p a).
  { apply sum_nonneg. intros a a_in. specialize (p_nonneg a a_in).
    destruct (part a a_in) as [-> | ->]; lra. }
  apply le_sqrt_of_weighted; [lra | apply sum_nonneg; intros; apply pow2_ge_0 |].
  intros k k_pos.
  apply Rle_trans with (∑ a ∈ l, (k / 2 * (w a * p a)
                                  + / (2 * k) * (sqrt (p a) - sqrt (q a)) ^ 2)).
  - apply sum_le. intros a a_in.
    pose proof (sqrt_sqrt (p a) (p_nonneg a a_in)) as root.
    set (d := sqrt (p a) - sqrt (q a)) in *.
    assert (0 <= / (2 * k)) as scale_nonneg by (left; apply Rinv_0_lt_compat; lra).
    destruct (part a a_in) as [-> | ->].
    + pose proof (Rmult_le_pos _ _ scale_nonneg (pow2_ge_0 d)). lra.
    + pose proof (mul_le_weighted k (sqrt (p a)) d k_pos) as young.
      rewrite Rabs_mult, (Rabs_pos_eq (sqrt (p a))), root in young by apply sqrt_pos.
      rewrite !Rmult_1_l. eapply Rle_trans; [exact young |]. right. field. lra.
  - rewrite sum_plus, !sum_scale.
    apply (Rmult_le_compat_l k) in small; [| lra].
    replace ((k * eta + (∑ a ∈ l, (sqrt (p a) - sqrt (q a)) ^ 2) / k) / 2)
      with (k * eta / 2 + / (2 * k) * ∑ a ∈ l, (sqrt (p a) - sqrt (q a)) ^ 2) by (field; lra).
    lra.
Qed.

(** [TV ≤ D² + 2√(η D²)] with [D² = Σ (√p − √q)²], where [p] has all but [η] of its mass on one
    element. *)
Lemma total_variation_of_one l p q top : distribution l p -> distribution l q -> In top l ->
  / 2 * (∑ a ∈ l, Rabs (p a - q a)) <=
  (∑ a ∈ l, (sqrt (p a) - sqrt (q a)) ^ 2)
  + 2 * sqrt ((1 - p top) * ∑ a ∈ l, (sqrt (p a) - sqrt (q a)) ^ 2).
Proof.
  intros p_law q_law top_in. pose proof p_law as [p_nonneg p_one]. pose proof q_law as [q_nonneg _].
  set (d2 := ∑ a ∈ l, (sqrt (p a) - sqrt (q a)) ^ 2).
  assert (0 <= d2) as d2_nonneg by (apply sum_nonneg; intros; apply pow2_ge_0).
  (* of where [q > p] and the rest, the one without [top] has at most [1 - p top] *)
  set (above := fun a => if Rlt_dec (p a) (q a) then 1 else 0).
  assert (forall w, (forall a, In a l -> w a = 0 \/ w a = 1) -> w top = 0 ->
          (∑ a ∈ l, w a * p a) <= 1 - p top) as rest.
  { intros w part zero. rewrite <- p_one.
    enough (p top <= ∑ a ∈ l, (1 - w a) * p a) as most.
    { rewrite (sum_ext _ _ (fun a => p a - w a * p a)), sum_minus in most by (intros; ring). lra. }
    replace (p top) with ((1 - w top) * p top) by (rewrite zero; ring).
    apply (term_le_sum l (fun a => (1 - w a) * p a)); [| exact top_in].
    intros a a_in. specialize (p_nonneg a a_in). destruct (part a a_in) as [-> | ->]; lra. }
  destruct (Rlt_dec (p top) (q top)) as [more | less].
  - rewrite total_variation_as_hockey_stick by assumption.
    pose proof (part_of_root l p q (fun a => 1 - above a) (1 - p top) p_nonneg) as bound.
    apply Rle_trans with (2 * ∑ a ∈ l,
      (1 - above a) * (sqrt (p a) * Rabs (sqrt (p a) - sqrt (q a)))).
    + rewrite <- sum_scale. apply sum_le. intros a a_in.
      pose proof (sqrt_sqrt _ (p_nonneg a a_in)). pose proof (sqrt_sqrt _ (q_nonneg a a_in)).
      pose proof (sqrt_pos (p a)). pose proof (sqrt_pos (q a)).
      unfold above. destruct (Rlt_dec (p a) (q a)) as [yes | no].
      * rewrite Rmax_left; lra.
      * assert (sqrt (q a) <= sqrt (p a)) by (apply sqrt_le_1_alt; lra).
        rewrite Rmax_right, Rabs_pos_eq by lra.
        pose proof (Rle_0_sqr (sqrt (p a) - sqrt (q a))). unfold Rsqr in *. nra.
    + enough ((∑ a ∈ l, (1 - above a) * (sqrt (p a) * Rabs (sqrt (p a) - sqrt (q a))))
              <= sqrt ((1 - p top) * d2)) by lra.
      assert (forall a, 1 - above a = 0 \/ 1 - above a = 1) as part
        by (intros a; unfold above; destruct Rlt_dec; lra).
      apply bound; [auto |]. apply (rest (fun a => 1 - above a)); [auto |].
      unfold above. destruct Rlt_dec; lra.
  - rewrite (sum_ext _ _ (fun a => Rabs (q a - p a))) by (intros; apply Rabs_minus_sym).
    rewrite total_variation_as_hockey_stick by assumption.
    pose proof (part_of_root l p q above (1 - p top) p_nonneg) as bound.
    apply Rle_trans with (d2 + 2 * ∑ a ∈ l,
      above a * (sqrt (p a) * Rabs (sqrt (p a) - sqrt (q a)))).
    + unfold d2. rewrite <- sum_scale, <- sum_plus. apply sum_le. intros a a_in.
      pose proof (sqrt_sqrt _ (p_nonneg a a_in)). pose proof (sqrt_sqrt _ (q_nonneg a a_in)).
      pose proof (pow2_ge_0 (sqrt (p a) - sqrt (q a))).
      unfold above. destruct (Rlt_dec (p a) (q a)) as [yes | no].
      * assert (sqrt (p a) <= sqrt (q a)) by (apply sqrt_le_1_alt; lra).
        rewrite Rmax_right, Rabs_minus_sym, Rabs_pos_eq by lra. right. cbn [pow]. lra.
      * rewrite Rmax_left; lra.
    + enough ((∑ a ∈ l, above a * (sqrt (p a) * Rabs (sqrt (p a) - sqrt (q a))))
              <= sqrt ((1 - p top) * d2)) by lra.
      assert (forall a, above a = 0 \/ above a = 1) as part
        by (intros a; unfold above; destruct Rlt_dec; auto).
      apply bound; [auto |]. apply rest; [auto |].
      unfold above. destruct Rlt_dec; [contradiction | reflexivity].
Qed.

End NearlyOne.

(** ** Responses *)

Section OneResponse.
Context {St T : Type} {D : Dynamics St T}.
Implicit Types (p q r expert : table St T) (n : nat) (s : St).

(** [D² = Σ_τ (√p − √q)² = 2(1 − BC)]. *)
Definition squared_distance p q n s : R :=
  ∑ tau ∈ responses n s, (sqrt (prob p n s tau) - sqrt (prob q n s tau)) ^ 2.

Lemma squared_distance_overlap : forall p q n s, policy p n s -> policy q n s ->
  squared_distance p q n s = 2 * (1 - bhattacharyya p q n s).
Proof.
  intros p q n s p_pol q_pol. unfold squared_distance, bhattacharyya.
  destruct (prob_distribution p n s p_pol) as [p_nonneg p_one].
  destruct (prob_distribution q n s q_pol) as [q_nonneg q_one].
  rewrite (sum_ext _ _ (fun tau => prob p n s tau + prob q n s tau
                                   - 2 * sqrt (prob p n s tau * prob q n s tau))).
  - rewrite sum_minus, sum_plus, sum_scale, p_one, q_one. ring.
  - intros tau tau_in. rewrite sqrt_mult by auto.
    pose proof (sqrt_sqrt _ (p_nonneg tau tau_in)). pose proof (sqrt_sqrt _ (q_nonneg tau tau_in)).
    cbn [pow]. lra.
Qed.

(** [η = 1 − max_τ p(τ)]: what a policy leaves to all responses but its most probable one. *)
Definition missing p n s : R := 1 - greatest (responses n s) (prob p n s).

(** [TV ≤ D² + 2√η D]. *)
Lemma tv_of_one_response : forall expert p n s, policy expert n s -> policy p n s ->
  tv expert p n s <= squared_distance expert p n s
    + 2 * sqrt (missing expert n s * squared_distance expert p n s).
Proof.
  intros expert p n s expert_pol pol. unfold missing.
  destruct (greatest_in _ (prob expert n s) (responses_nonempty n s)) as (top & top_in & ->).
  apply total_variation_of_one; auto using prob_distribution.
Qed.

(** Row clone-one-response: [≤ R_τ (D² + 2√η D)], and never above [R_τ]. *)
Theorem clone_one_response : forall expert p r n s, policy expert n s -> policy p n s ->
  value expert r n s - value p r n s <=
  return_range r n s *
  Rmin (squared_distance expert p n s
        + 2 * sqrt (missing expert n s * squared_distance expert p n s)) 1.
Proof.
  intros expert p r n s expert_pol pol.
  eapply Rle_trans; [now apply clone_tv |].
  apply Rmult_le_compat_l; [apply return_range_nonneg |].
  apply Rmin_glb; [now apply tv_of_one_response | now apply tv_le_1].
Qed.

End OneResponse.
