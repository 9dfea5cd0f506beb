(** Theorem 2, RL on the endogenous reward (docs/theory.md, sections 4 and 7).

    [rl] maximises the plain value of [r̂], up to [delta]: it plays the most probable responses of
    [π̂]. Each bound holds with [delta] added, so [delta = 0] is the exact maximiser. *)

From Coq Require Import Reals List Lra Lia.
From Endorm Require Export Distances.
Import ListNotations.
Open Scope R_scope.

Section ReinforcementLearning.
Context {St T : Type} {D : Dynamics St T}.

Variables (alpha eps delta : R) (r p rl : table St T) (v : nat -> St -> R) (n : nat) (s : St).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis pol : policy p n s.
Hypothesis gauge_v : gauge v.

Let expert := soft_policy alpha r.
Let r_hat := endogenous alpha p v.

Hypothesis rl_pol : policy rl n s.
Hypothesis rl_optimal : optimal_up_to delta r_hat rl n s.

(** Any two policies differ in [r*] as they differ in [r̂], but for log-ratios:
    [V^q_{r*} − V^{q'}_{r*} = V^q_{r̂} − V^{q'}_{r̂} + α (E_q D − E_{q'} D)]. *)
Lemma true_and_endogenous : forall q q', positive p n s -> policy q n s -> policy q' n s ->
  value q r n s - value q' r n s =
  value q r_hat n s - value q' r_hat n s +
  alpha * (expect q n s (log_ratio expert p n s) - expect q' n s (log_ratio expert p n s)).
Proof.
  intros q q' pos q_pol q'_pol. unfold r_hat.
  rewrite !(value_endogenous alpha p) by assumption.
  rewrite !(value_telescoped alpha alpha_pos r) by assumption.
  unfold log_ratio. rewrite !expect_minus. fold expert. ring.
Qed.

Lemma rl_gap : forall q, positive p n s -> policy q n s ->
  value q r n s - value rl r n s <=
  alpha * (expect q n s (log_ratio expert p n s) - expect rl n s (log_ratio expert p n s)) + delta.
Proof.
  intros q pos q_pol. rewrite true_and_endogenous by assumption.
  pose proof (rl_optimal q q_pol). lra.
Qed.

(** Row rl-average: [V^{π_E} − V^{π_RL} ≤ α KL(π_E‖π̂) − α E D(τ_RL)]. *)
Theorem rl_average : positive p n s ->
  value expert r n s - value rl r n s <=
  alpha * kl expert p n s - alpha * expect rl n s (log_ratio expert p n s) + delta.
Proof.
  intros pos. pose proof (rl_gap expert pos (soft_policy_policy alpha r n s)).
  unfold kl. lra.
Qed.

Section Ball.
Hypothesis ball : log_ratio_ball eps expert p n s.

Lemma p_positive : positive p n s.
Proof. eapply ball_positive_r. exact ball. Qed.

Lemma expect_log_ratio : forall q, policy q n s ->
  - (INR n * eps) <= expect q n s (log_ratio expert p n s) <= INR n * eps.
Proof.
  intros q q_pol. split.
  - rewrite <- (expect_const q n s (- (INR n * eps)) q_pol).
    apply expect_le; [exact q_pol |]. intros tau tau_in _. now apply log_ratio_bound.
  - rewrite <- (expect_const q n s (INR n * eps) q_pol).
    apply expect_le; [exact q_pol |]. intros tau tau_in _. now apply log_ratio_bound.
Qed.

(** Row rl-any-comparator: [V^q − V^{π_RL} ≤ 2αHε] for every policy [q]. *)
Theorem rl_any_comparator : forall q, policy q n s ->
  value q r n s - value rl r n s <= 2 * alpha * INR n * eps + delta.
Proof.
  intros q q_pol. eapply Rle_trans; [apply rl_gap; auto using p_positive |].
  pose proof (expect_log_ratio q q_pol) as [_ above].
  pose proof (expect_log_ratio rl rl_pol) as [below _].
  assert (alpha * (expect q n s (log_ratio expert p n s) - expect rl n s (log_ratio expert p n s))
          <= alpha * (2 * (INR n * eps))) by (apply Rmult_le_compat_l; lra). lra.
Qed.

(** Row rl-expert: [V^{π_E} − V^{π_RL} ≤ αHε(1 + tanh(ε/2))]. *)
Theorem rl_expert :
  value expert r n s - value rl r n s <=
  alpha * INR n * eps * (1 + tanh (eps / 2)) + delta.
Proof.
  eapply Rle_trans; [apply rl_average; auto using p_positive |].
  pose proof (expect_log_ratio rl rl_pol) as [below _].
  pose proof (kl_ball eps p expert n s pol (soft_policy_policy alpha r n s)
                (ball_sym _ _ _ _ _ ball)) as divergence.
  apply (Rmult_le_compat_l alpha) in divergence; [| lra].
  apply (Rmult_le_compat_l alpha) in below; lra.
Qed.

(** Row theorem-2-rl, the paper's [V^{π_E} − V^{π_RL} ≤ R H ε], where [α(1 + tanh(ε/2)) ≤ R]. *)
Theorem theorem_2_rl : forall width, alpha * (1 + tanh (eps / 2)) <= width ->
  value expert r n s - value rl r n s <= width * (INR n * eps) + delta.
Proof.
  intros width wide. eapply Rle_trans; [apply rl_expert |].
  assert (0 <= INR n * eps) as nonneg.
  { destruct n as [| m]; [simpl; lra |].
    apply Rmult_le_pos; [apply pos_INR | eapply ball_radius; exact ball]. }
  apply (Rmult_le_compat_r (INR n * eps)) in wide; lra.
Qed.

End Ball.
End ReinforcementLearning.
