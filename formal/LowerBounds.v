(** What no bound on cloning can beat (docs/theory.md, section 4): the exponent 3/2 at fixed
    temperature and vocabulary, and [R Σ_h TV_RR(h, ε)] where they are free. *)

From Coq Require Import Reals List Lra Lia ZArith PeanoNat.
From Endorm Require Export Attained.
Import ListNotations.
Open Scope R_scope.

(** ** [TV_RR(n, ε)] is of order [√n ε] *)

Section Ties.

(** [(k+1) C(n+1, k+1) = (n+1) C(n, k)] and [(n+1−k) C(n+1, k) = (n+1) C(n, k)]. *)
Lemma binomial_absorb : forall n k,
  INR (S k) * binomial (S n) (S k) = INR (S n) * binomial n k.
Proof.
  intros n. induction n as [| n IH]; intros k.
  - destruct k as [| k]; cbn [binomial]; simpl; lra.
  - change (binomial (S (S n)) (S k)) with (binomial (S n) k + binomial (S n) (S k)).
    rewrite Rmult_plus_distr_l, IH.
    destruct k as [| k]; [destruct n; cbn [binomial]; rewrite !S_INR; simpl (INR 0); lra |].
    specialize (IH k).
    change (binomial (S n) (S k)) with (binomial n k + binomial n (S k)) in IH at 1.
    change (binomial (S n) (S k)) with (binomial n k + binomial n (S k)).
    rewrite !S_INR in *. lra.
Qed.

Lemma binomial_absorb_below : forall n k,
  (INR (S n) - INR k) * binomial (S n) k = INR (S n) * binomial n k.
Proof.
  intros n [| k].
  - destruct n; cbn [binomial]; simpl (INR 0); ring.
  - rewrite Rmult_minus_distr_r, binomial_absorb. cbn [binomial]. ring.
Qed.

(** [C(2m+2, m+1) = C(2m, m) 2(2m+1)/(m+1)]. *)
Lemma central_binomial_succ : forall m,
  binomial (2 * S m) (S m) = binomial (2 * m) m * (2 * (2 * INR m + 1) / (INR m + 1)).
Proof.
  intros m. replace (2 * S m)%nat with (S (S (2 * m))) by lia.
  change (binomial (S (S (2 * m))) (S m))
    with (binomial (S (2 * m)) m + binomial (S (2 * m)) (S m)).
  pose proof (binomial_absorb (2 * m) m) as upper.
  pose proof (binomial_absorb_below (2 * m) m) as lower.
  rewrite !S_INR, mult_INR in *. simpl (INR 2) in *. pose proof (pos_INR m).
  apply Rmult_eq_reg_r with (INR m + 1); [| lra].
  replace (binomial (2 * m) m * (2 * (2 * INR m + 1) / (INR m + 1)) * (INR m + 1))
    with (2 * (2 * INR m + 1) * binomial (2 * m) m) by (field; lra).
  lra.
Qed.

(** [C(2m, m)² 4m ≥ 4^{2m}]. *)
Lemma central_binomial_large : forall m, (0 < m)%nat ->
  0 < binomial (2 * m) m /\ 1 <= (binomial (2 * m) m / 4 ^ m) ^ 2 * (4 * INR m).
Proof.
  intros m m_pos. induction m as [| m IH]; [lia | clear m_pos].
  destruct m as [| m]; [cbn [binomial Nat.mul Nat.add]; simpl; lra |].
  destruct IH as [pos large]; [lia |].
  set (k := S m) in *. rewrite central_binomial_succ. rewrite S_INR.
  assert (1 <= INR k) as k_real by (unfold k; rewrite S_INR; pose proof (pos_INR m); lra).
  set (c := binomial (2 * k) k) in *. set (power := 4 ^ k) in *.
  assert (0 < power) as power_pos by (apply pow_lt; lra).
  split.
  - apply Rmult_lt_0_compat; [exact pos |]. apply Rdiv_lt_0_compat; lra.
  - eapply Rle_trans; [exact large |].
    replace ((c * (2 * (2 * INR k + 1) / (INR k + 1)) / 4 ^ S k) ^ 2 * (4 * (INR k + 1)))
      with ((c / power) ^ 2 * ((2 * INR k + 1) ^ 2 / (INR k + 1)))
      by (cbn [pow]; fold power; field; lra).
    apply Rmult_le_compat_l; [apply pow2_ge_0 |].
    apply Rmult_le_reg_r with (INR k + 1); [lra |].
    replace ((2 * INR k + 1) ^ 2 / (INR k + 1) * (INR k + 1)) with ((2 * INR k + 1) ^ 2)
      by (field; lra). nra.
Qed.

Variable eps : R.
Hypothesis eps_nonneg : 0 <= eps.

(** As long as [ε√n ≤ 2], a tie of [2m < n + 1] votes has probability [1/(4√n)] or more. *)
Lemma tie_large : forall n m, (0 < n)%nat -> (2 * m <= n)%nat -> eps * sqrt (INR n) <= 2 ->
  / (4 * sqrt (INR n)) <= tie eps m.
Proof.
  intros n m n_pos few small.
  assert (1 <= INR n) as n_real by (apply (le_INR 1); lia).
  set (root := sqrt (INR n)) in *.
  assert (1 <= root) as root_large by (rewrite <- sqrt_1; now apply sqrt_le_1_alt).
  assert (root * root = INR n) as square by (apply sqrt_sqrt; lra).
  assert (/ (4 * root) <= 1) as at_most_one
    by (rewrite <- Rinv_1; apply Rinv_le_contravar; lra).
  destruct m as [| m]; [unfold tie; simpl; lra |]. set (k := S m) in *.
  (* the decay in [eps] *)
  pose proof (cosh_ge_1 (eps / 2)) as cosh_large.
  set (decay := / (cosh (eps / 2) * cosh (eps / 2))).
  assert (decay = 1 - tanh (eps / 2) * tanh (eps / 2)) as decay_tanh
    by (rewrite tanh_square; unfold decay; ring).
  assert (0 < decay) as decay_pos by (apply Rinv_0_lt_compat; nra).
  pose proof (tanh_le (eps / 2) ltac:(lra)) as tanh_small.
  pose proof (tanh_nonneg (eps / 2) ltac:(lra)) as tanh_pos.
  assert (forall j, 1 - INR j * (1 - decay) <= decay ^ j) as bernoulli.
  { intros j. induction j as [| j IH]; [simpl; lra |]. rewrite S_INR. cbn [pow].
    assert (decay <= 1) by nra.
    apply (Rmult_le_compat_l decay) in IH; [| lra].
    assert (0 <= INR j * ((1 - decay) * (1 - decay))); [| lra].
    apply Rmult_le_pos; [apply pos_INR |]. apply Rmult_le_pos; lra. }
  assert (/ 2 <= decay ^ k) as half.
  { eapply Rle_trans; [| apply bernoulli].
    assert (INR k <= INR n / 2) as k_small.
    { apply le_INR in few. rewrite mult_INR in few. simpl (INR 2) in few. lra. }
    assert (eps * eps * INR n <= 4) as eps_small.
    { rewrite <- square. replace (eps * eps * (root * root)) with ((eps * root) * (eps * root))
        by ring.
      assert (0 <= eps * root) by (apply Rmult_le_pos; lra). nra. }
    assert (1 - decay <= eps * eps / 4) as loss by nra.
    assert (INR k * (1 - decay) <= INR n / 2 * (eps * eps / 4)); [| lra].
    apply Rmult_le_compat; [apply pos_INR | nra | exact k_small | exact loss]. }
  (* the binomial *)
  destruct (central_binomial_large k ltac:(unfold k; lia)) as [pos large].
  assert (tie eps k = binomial (2 * k) k / 4 ^ k * decay ^ k) as ->.
  { unfold tie, decay. rewrite pow_mult. replace ((2 * cosh (eps / 2)) ^ 2)
      with (4 * (cosh (eps / 2) * cosh (eps / 2))) by ring.
    rewrite Rpow_mult_distr. unfold Rdiv. rewrite Rinv_mult, pow_inv. ring. }
  set (fair := binomial (2 * k) k / 4 ^ k) in *.
  assert (0 < fair) as fair_pos by (apply Rdiv_lt_0_compat; [exact pos | apply pow_lt; lra]).
  assert (/ (2 * root) <= fair) as fair_large.
  { apply Rsqr_incr_0_var; [| lra]. unfold Rsqr.
    rewrite <- Rinv_mult. apply Rmult_le_reg_r with (4 * INR n); [lra |].
    replace (/ (2 * root * (2 * root)) * (4 * INR n)) with 1
      by (rewrite <- square; field; lra).
    eapply Rle_trans; [exact large |].
    replace (fair ^ 2) with (fair * fair) by ring.
    apply Rmult_le_compat_l; [nra |].
    assert (INR k <= INR n) by (apply le_INR; lia). lra. }
  replace (/ (4 * root)) with (/ (2 * root) * / 2) by (field; lra).
  apply Rmult_le_compat; [apply Rlt_le, Rinv_0_lt_compat; lra | lra | assumption | assumption].
Qed.

(** [TV_RR(n, ε) ≥ √n ε/32] while [ε√n ≤ 2] and [ε ≤ 1]. *)
Lemma tv_rr_large : forall n, (0 < n)%nat -> eps <= 1 -> eps * sqrt (INR n) <= 2 ->
  sqrt (INR n) * eps / 32 <= tv_rr n eps.
Proof.
  intros n n_pos eps_small small. rewrite tv_rr_closed_form by exact eps_nonneg.
  assert (1 <= INR n) as n_real by (apply (le_INR 1); lia).
  set (root := sqrt (INR n)) in *.
  assert (1 <= root) as root_large by (rewrite <- sqrt_1; now apply sqrt_le_1_alt).
  assert (root * root = INR n) as square by (apply sqrt_sqrt; lra).
  assert (eps / 4 <= tanh (eps / 2)) as slope.
  { rewrite tanh_exp. pose proof (exp_ineq1_le eps). pose proof exp_le_3.
    assert (exp eps <= exp 1) by now apply exp_le.
    apply Rmult_le_reg_r with (exp eps + 1); [lra |].
    unfold Rdiv. rewrite (Rmult_assoc (exp eps - 1)), Rinv_l by lra. nra. }
  assert (root / 8 <= ∑ m ∈ seq 0 ((n + 1) / 2), tie eps m) as ties.
  { apply Rle_trans with (∑ _m ∈ seq 0 ((n + 1) / 2), / (4 * root)).
    - rewrite sum_const, seq_length.
      assert (INR n / 2 <= INR ((n + 1) / 2)) as count.
      { pose proof (Nat.div_mod (n + 1) 2 ltac:(lia)) as division.
        pose proof (Nat.mod_upper_bound (n + 1) 2 ltac:(lia)) as remainder.
        assert (n <= 2 * ((n + 1) / 2))%nat as enough by lia.
        apply le_INR in enough. rewrite mult_INR in enough. simpl (INR 2) in enough. lra. }
      replace (root / 8) with (INR n / 2 * / (4 * root)) by (rewrite <- square; field; lra).
      apply Rmult_le_compat_r; [apply Rlt_le, Rinv_0_lt_compat; lra | exact count].
    - apply sum_le. intros m m_in. apply in_seq in m_in. apply tie_large; try assumption.
      pose proof (Nat.div_mod (n + 1) 2 ltac:(lia)).
      pose proof (Nat.mod_upper_bound (n + 1) 2 ltac:(lia)). lia. }
  replace (root * eps / 32) with (eps / 4 * (root / 8)) by field.
  apply Rmult_le_compat; lra.
Qed.

End Ties.

(** ** Who leads after [n] votes *)

Section Lead.
Variable eps : R.
Hypothesis eps_nonneg : 0 <= eps.

(** The probability that the lead [j] is positive after [n] more votes, each an aye with
    probability [aye]. *)
Fixpoint leads (aye : R) (n : nat) (j : Z) : R :=
  match n with
  | O => if Z_lt_dec 0 j then 1 else 0
  | S m => aye * leads aye m (j + 1) + (1 - aye) * leads aye m (j - 1)
  end.

(** That the ayes lead is the event by which two randomised responses are told apart best. *)
Lemma leads_difference : forall n j,
  leads (odds_right eps) n j - exp (- IZR j * eps) * leads (odds_wrong eps) n j
  = hockey_stick eps n (exp (- IZR j * eps)).
Proof.
  pose proof (odds_sum eps) as one.
  intros n. induction n as [| n IH]; intros j; cbn [leads hockey_stick].
  - destruct (Z_lt_dec 0 j) as [ahead | behind].
    + rewrite Rmax_right; [ring |].
      apply IZR_lt in ahead. assert (0 <= IZR j * eps) by (apply Rmult_le_pos; lra).
      enough (exp (- IZR j * eps) <= 1) by lra.
      rewrite <- exp_0. apply exp_le. lra.
    + rewrite Rmax_left; [ring |].
      assert (IZR j <= 0) by (apply IZR_le; lia). assert (0 <= - IZR j * eps) by
        (apply Rmult_le_pos; lra). pose proof (exp_ge_1 (- IZR j * eps)). lra.
  - replace (exp (- IZR j * eps) * exp (- eps)) with (exp (- IZR (j + 1) * eps))
      by (rewrite <- exp_plus, plus_IZR; f_equal; ring).
    replace (exp (- IZR j * eps) * exp eps) with (exp (- IZR (j - 1) * eps))
      by (rewrite <- exp_plus, minus_IZR; f_equal; ring).
    rewrite <- !IH.
    replace (exp (- IZR (j + 1) * eps)) with (exp (- IZR j * eps) * exp (- eps))
      by (rewrite <- exp_plus, plus_IZR; f_equal; ring).
    replace (exp (- IZR (j - 1) * eps)) with (exp (- IZR j * eps) * exp eps)
      by (rewrite <- exp_plus, minus_IZR; f_equal; ring).
    replace (1 - odds_right eps) with (odds_wrong eps) by lra.
    replace (1 - odds_wrong eps) with (odds_right eps) by lra.
    set (g := exp (- IZR j * eps)).
    replace (odds_right eps * (leads (odds_right eps) n (j + 1)
               - g * exp (- eps) * leads (odds_wrong eps) n (j + 1))
             + odds_wrong eps * (leads (odds_right eps) n (j - 1)
               - g * exp eps * leads (odds_wrong eps) n (j - 1)))
      with (odds_right eps * leads (odds_right eps) n (j + 1)
            + odds_wrong eps * leads (odds_right eps) n (j - 1)
            - g * (odds_right eps * exp (- eps) * leads (odds_wrong eps) n (j + 1)
                   + odds_wrong eps * exp eps * leads (odds_wrong eps) n (j - 1))) by ring.
    rewrite right_down, wrong_up. ring.
Qed.

Lemma leads_tv_rr : forall n,
  leads (odds_right eps) n 0 - leads (odds_wrong eps) n 0 = tv_rr n eps.
Proof.
  intros n. pose proof (leads_difference n 0) as difference.
  replace (exp (- IZR 0 * eps)) with 1 in difference; [unfold tv_rr; lra |].
  rewrite <- exp_0. f_equal. ring.
Qed.

End Lead.

(** ** The exponent: coins, and payoffs if heads win *)

Section CoinPayoff.

(** The coins still to be tossed, and the lead of heads. *)
#[local] Instance coin_payoff : Dynamics (nat * Z) bool := {
  next := fun s heads => match s with
    | (O, lead) => (O, lead)
    | (S coins, lead) => (coins, if heads then lead + 1 else lead - 1)%Z
    end;
  acts := fun _ => [true; false];
  acts_nonempty := fun _ => ltac:(discriminate)
}.

Variable eps : R.
Hypothesis eps_nonneg : 0 <= eps.
Hypothesis eps_small : eps <= 1.

(** What every token pays on a level step: the soft value of a payoff step, less [log 2]. *)
Definition level_pay : R := - ln (odds_wrong 1) - ln 2.

(** Heads pay [ε] while coins are tossed; then [1] if heads have won. Without a win all tokens pay
    the same, and the soft value is the same. *)
Definition coin_payoff_reward : table (nat * Z) bool := fun _ s heads =>
  match s with
  | (S _, _) => if heads then eps else 0
  | (O, lead) => if Z_lt_dec 0 lead then (if heads then 1 else 0) else level_pay
  end.

(** The expert's next token. *)
Definition coin_payoff_law (s : nat * Z) (heads : bool) : R :=
  match s with
  | (S _, _) => answer eps heads
  | (O, lead) => if Z_lt_dec 0 lead then answer 1 heads else / 2
  end.

(** The clone takes the coins for their reverse. *)
Definition coin_payoff_clone : table (nat * Z) bool := fun _ s heads =>
  match s with
  | (S _, _) => answer eps (negb heads)
  | (O, _) => coin_payoff_law s heads
  end.

Lemma law_pos : forall s heads, 0 < coin_payoff_law s heads.
Proof.
  intros [[| coins] lead] heads; cbn [coin_payoff_law]; [| apply answer_pos].
  destruct Z_lt_dec; [apply answer_pos |]; lra.
Qed.

Lemma law_distribution : forall s, distribution [true; false] (coin_payoff_law s).
Proof.
  intros s. split; [intros heads _; apply Rlt_le, law_pos |].
  destruct s as [[| coins] lead]; cbn [coin_payoff_law sum fold_right].
  - destruct Z_lt_dec; [| lra]. pose proof (odds_sum 1). cbn [answer]. lra.
  - pose proof (odds_sum eps). cbn [answer]. lra.
Qed.

(** The soft value of a step, whatever the lead is. *)
Definition step_soft_value (coins : nat) : R :=
  match coins with O => - ln (odds_wrong 1) | S _ => - ln (odds_wrong eps) end.

Lemma reward_of_law : forall m coins lead heads,
  coin_payoff_reward m (coins, lead) heads
  = 1 * ln (coin_payoff_law (coins, lead) heads) + step_soft_value coins.
Proof.
  intros m [| coins] lead heads; cbn [coin_payoff_reward coin_payoff_law step_soft_value].
  - destruct Z_lt_dec.
    + destruct heads; cbn [answer]; [rewrite (ln_answers 1) |]; lra.
    + unfold level_pay. rewrite ln_Rinv by lra. lra.
  - destruct heads; cbn [answer]; [rewrite (ln_answers eps) |]; lra.
Qed.

Fixpoint soft_value_after (n coins : nat) : R :=
  match n with
  | O => 0
  | S m => step_soft_value coins + soft_value_after m (pred coins)
  end.

Lemma next_coins : forall coins lead heads, exists lead',
  next (coins, lead) heads = (pred coins, lead').
Proof. intros [| coins] lead heads; eexists; reflexivity. Qed.

Lemma coin_payoff_soft_values : forall n coins lead,
  soft_values 1 coin_payoff_reward n (coins, lead) = soft_value_after n coins.
Proof.
  intros n. induction n as [| n IH]; intros coins lead; [reflexivity |].
  apply (soft_values_level 1 coin_payoff_reward (coin_payoff_law (coins, lead))).
  - apply Rlt_0_1.
  - apply law_distribution.
  - intros heads _. apply law_pos.
  - intros heads _. apply reward_of_law.
  - intros heads _. destruct (next_coins coins lead heads) as [lead' ->]. apply IH.
Qed.

Lemma coin_payoff_expert : forall n s heads,
  soft_policy 1 coin_payoff_reward (S n) s heads = coin_payoff_law s heads.
Proof.
  intros n [coins lead] heads.
  apply (soft_policy_level 1 coin_payoff_reward (coin_payoff_law (coins, lead))
           (step_soft_value coins) (soft_value_after n (pred coins))).
  - apply Rlt_0_1.
  - apply law_distribution.
  - intros other _. apply law_pos.
  - intros other _. apply reward_of_law.
  - intros other _. destruct (next_coins coins lead other) as [lead' ->].
    apply coin_payoff_soft_values.
  - destruct heads; simpl; auto.
Qed.

Lemma coin_payoff_clone_policy : forall n s, policy coin_payoff_clone n s.
Proof.
  intros n s. apply everywhere_all. intros m [[| coins] lead].
  - exact (law_distribution (O, lead)).
  - destruct (answer_distribution eps) as [nonneg one]. split.
    + intros heads _. apply Rlt_le, answer_pos.
    + cbn [acts coin_payoff coin_payoff_clone sum fold_right negb] in *. lra.
Qed.

Lemma coin_payoff_ball : forall n s,
  log_ratio_ball eps (soft_policy 1 coin_payoff_reward) coin_payoff_clone n s.
Proof.
  intros n s. apply everywhere_all. intros m t heads _. rewrite coin_payoff_expert.
  split; [apply law_pos |].
  destruct t as [[| coins] lead]; cbn [coin_payoff_clone coin_payoff_law].
  - split; [exact (law_pos (O, lead) heads) |]. rewrite Rminus_eq_0, Rabs_R0. exact eps_nonneg.
  - split; [apply answer_pos |].
    destruct heads; cbn [negb answer]; rewrite (ln_answers eps); apply Rabs_le; lra.
Qed.

(** What a payoff step pays more than a level step, to the expert as to the clone. *)
Definition payoff_margin : R := odds_right 1 - level_pay.

Lemma payoff_margin_pos : 0 < payoff_margin.
Proof.
  pose proof (answer_distribution 1) as law.
  assert (distribution [true; false] (fun _ : bool => / 2)) as fair
    by (split; [intros heads _ | cbn [sum fold_right]]; lra).
  assert (payoff_margin =
    ∑ heads ∈ [true; false], answer 1 heads * (ln (answer 1 heads) - ln (/ 2))) as divergence.
  { cbn [sum fold_right answer]. rewrite (ln_answers 1), ln_Rinv by lra.
    unfold payoff_margin, level_pay. pose proof (odds_sum 1).
    replace (odds_wrong 1) with (1 - odds_right 1) at 3 by lra. ring. }
  assert (0 <= payoff_margin) as nonneg.
  { rewrite divergence. apply gibbs; [exact law | exact fair |]. intros heads _. lra. }
  destruct nonneg as [pos | zero]; [exact pos | exfalso].
  rewrite divergence in zero. symmetry in zero.
  pose proof (gibbs_eq [true; false] (answer 1) (fun _ : bool => / 2) law fair
                (fun heads _ => ltac:(lra)) zero true (or_introl eq_refl)) as half.
  cbn [answer] in half. pose proof (odds_difference 1) as gap. pose proof (odds_sum 1).
  rewrite tanh_exp in gap. pose proof (exp_ineq1 1 ltac:(lra)).
  assert (0 < (exp 1 - 1) / (exp 1 + 1)) by (apply Rdiv_lt_0_compat; lra). lra.
Qed.

Lemma level_pay_range : 0 <= level_pay <= 1.
Proof.
  pose proof payoff_margin_pos as margin. unfold payoff_margin in margin.
  pose proof (odds_pos 1) as [_ wrong]. pose proof (odds_sum 1).
  split; [| lra]. unfold level_pay.
  assert (ln 2 <= - ln (odds_wrong 1)); [| lra].
  rewrite <- ln_Rinv by exact wrong. apply ln_mono; [lra |].
  unfold odds_wrong. rewrite Rinv_inv. pose proof (exp_ineq1_le 1). lra.
Qed.

Lemma coin_payoff_range : forall n s, reward_range 0 1 coin_payoff_reward n s.
Proof.
  intros n s. apply everywhere_all. intros m [[| coins] lead] heads _;
    cbn [coin_payoff_reward].
  - pose proof level_pay_range. destruct Z_lt_dec; [destruct heads |]; lra.
  - destruct heads; lra.
Qed.

(** Payoffs are worth the same to both; so the difference is the coins', and who leads. *)
Definition paid (lead : Z) : R := if Z_lt_dec 0 lead then odds_right 1 else level_pay.

Lemma payoff_value : forall p n lead,
  (forall m t heads, p (S m) (O, t) heads = coin_payoff_law (O, t) heads) ->
  policy p n (O, lead) -> value p coin_payoff_reward n (O, lead) = INR n * paid lead.
Proof.
  intros p n lead same. induction n as [| n IH]; intros pol; [rewrite value_0; simpl; lra |].
  rewrite value_S by exact pol. destruct pol as [_ pol].
  cbn [acts coin_payoff next sum fold_right]. rewrite !same, S_INR.
  rewrite IH by (apply (pol true); now left).
  cbn [coin_payoff_reward coin_payoff_law]. unfold paid.
  pose proof (odds_sum 1). destruct Z_lt_dec; cbn [answer]; [| lra].
  replace (odds_wrong 1) with (1 - odds_right 1) by lra. ring.
Qed.

Lemma coins_value : forall (p : table (nat * Z) bool) aye n coins lead,
  (forall m k t (heads : bool), p (S m) (S k, t) heads = if heads then aye else 1 - aye) ->
  (forall m t heads, p (S m) (O, t) heads = coin_payoff_law (O, t) heads) ->
  policy p (coins + n) (coins, lead) ->
  value p coin_payoff_reward (coins + n) (coins, lead)
  = INR coins * (aye * eps) + INR n * (level_pay + payoff_margin * leads aye coins lead).
Proof.
  intros p aye n coins. induction coins as [| coins IH]; intros lead toss same pol.
  - cbn [Nat.add leads]. rewrite payoff_value by assumption. unfold paid, payoff_margin.
    destruct Z_lt_dec; simpl (INR 0); ring.
  - cbn [Nat.add leads]. rewrite value_S by exact pol. destruct pol as [_ pol].
    cbn [acts coin_payoff next sum fold_right]. rewrite !toss.
    rewrite !IH; try assumption; [| apply (pol false) | apply (pol true)]; try (simpl; tauto).
    cbn [coin_payoff_reward]. rewrite S_INR. ring.
Qed.

Theorem coin_payoff_gap : forall n,
  value (soft_policy 1 coin_payoff_reward) coin_payoff_reward (n + n) (n, 0%Z)
  - value coin_payoff_clone coin_payoff_reward (n + n) (n, 0%Z)
  = INR n * eps * tanh (eps / 2) + INR n * payoff_margin * tv_rr n eps.
Proof.
  intros n. pose proof (odds_sum eps) as one.
  rewrite (coins_value (soft_policy 1 coin_payoff_reward) (odds_right eps)).
  - rewrite (coins_value coin_payoff_clone (odds_wrong eps)).
    + rewrite <- (leads_tv_rr eps eps_nonneg), <- odds_difference. ring.
    + intros m k t []; cbn [coin_payoff_clone negb answer]; lra.
    + reflexivity.
    + apply coin_payoff_clone_policy.
  - intros m k t []; rewrite coin_payoff_expert; cbn [coin_payoff_law answer]; lra.
  - intros m t heads. apply coin_payoff_expert.
  - apply soft_policy_policy.
Qed.

End CoinPayoff.

(** At temperature one, with two tokens and rewards in [[0, 1]], a clone loses [c n^{3/2} ε] at the
    horizon [2n] while [ε√n ≤ 2]: the exponent of clone-three-halves cannot be improved. *)
Theorem clone_exponent : exists c, 0 < c /\ forall n eps,
  (1 <= n)%nat -> 0 <= eps <= 1 -> eps * sqrt (INR n) <= 2 ->
  exists (St T : Type) (D : Dynamics St T) (r clone : table St T) (s : St),
    let expert := soft_policy 1 r in
    vocabulary 2 (2 * n) s /\ reward_range 0 1 r (2 * n) s /\ policy clone (2 * n) s /\
    log_ratio_ball eps expert clone (2 * n) s /\
    c * (INR n * sqrt (INR n) * eps) <= value expert r (2 * n) s - value clone r (2 * n) s.
Proof.
  pose proof payoff_margin_pos as margin.
  exists (payoff_margin / 32). split; [lra |].
  intros n eps n_pos [eps_nonneg eps_small] small.
  exists (nat * Z)%type, bool, coin_payoff, (coin_payoff_reward eps), (coin_payoff_clone eps),
    (n, 0%Z).
  cbv zeta. replace (2 * n)%nat with (n + n)%nat by lia.
  split; [| split; [| split; [| split]]].
  - apply everywhere_all. intros m t. simpl. lia.
  - now apply coin_payoff_range.
  - now apply coin_payoff_clone_policy.
  - now apply coin_payoff_ball.
  - rewrite coin_payoff_gap by assumption.
    pose proof (tv_rr_large eps eps_nonneg n ltac:(lia) eps_small small) as large.
    assert (0 <= INR n * eps * tanh (eps / 2)).
    { apply Rmult_le_pos; [apply Rmult_le_pos; [apply pos_INR | lra] | apply tanh_nonneg; lra]. }
    apply Rle_trans with (INR n * payoff_margin * (sqrt (INR n) * eps / 32)); [right; field |].
    apply (Rmult_le_compat_l (INR n * payoff_margin)) in large; [lra |].
    apply Rmult_le_pos; [apply pos_INR | lra].
Qed.

(** The separation that the paper claims, with its true exponent: on one instance cloning loses
    [c n^{3/2} ε], and RL on the endogenous reward of the same clone [4nε] at most. *)
Theorem cloning_and_rl_separate : exists c, 0 < c /\ forall n eps,
  (1 <= n)%nat -> 0 <= eps <= 1 -> eps * sqrt (INR n) <= 2 ->
  exists (St T : Type) (D : Dynamics St T) (r clone : table St T) (s : St),
    let expert := soft_policy 1 r in
    reward_range 0 1 r (2 * n) s /\ policy clone (2 * n) s /\
    log_ratio_ball eps expert clone (2 * n) s /\
    c * (INR n * sqrt (INR n) * eps) <= value expert r (2 * n) s - value clone r (2 * n) s /\
    forall v rl, gauge v -> policy rl (2 * n) s ->
      optimal_up_to 0 (endogenous 1 clone v) rl (2 * n) s ->
      value expert r (2 * n) s - value rl r (2 * n) s <= 4 * (INR n * eps).
Proof.
  destruct clone_exponent as (c & c_pos & loses). exists c. split; [exact c_pos |].
  intros n eps n_pos between small.
  destruct (loses n eps n_pos between small)
    as (St & T & D & r & clone & s & _ & range & pol & ball & loss).
  exists St, T, D, r, clone, s. cbv zeta in *. repeat split; try assumption.
  intros v rl zero rl_pol best.
  pose proof (rl_any_comparator 1 eps 0 r clone rl v (2 * n) s Rlt_0_1 pol zero rl_pol best ball
                (soft_policy 1 r) (soft_policy_policy _ _ _ _)) as bound.
  rewrite mult_INR in bound. simpl (INR 2) in bound. lra.
Qed.

(** ** The constant: a majority vote of many tokens at a high temperature *)

(** At temperature [α], rewards in [[0, 1]] move the expert from uniform by [n/α] nats at most. *)
Lemma expert_near_uniform : forall {St T : Type} {D : Dynamics St T} alpha (vocab : nat)
  (r : table St T) n s a, 0 < alpha ->
  (forall t : St, length (acts t) = vocab) ->
  (forall m t b, In b (acts t) -> 0 <= r (S m) t b <= 1) -> In a (acts s) ->
  Rabs (ln (soft_policy alpha r (S n) s a) - ln (/ INR vocab)) <= INR (S n) / alpha.
Proof.
  intros St T D alpha vocab r n s a alpha_pos size range a_in.
  assert (0 < INR vocab) as some.
  { apply lt_0_INR. rewrite <- (size s). destruct (acts s); [contradiction | simpl; lia]. }
  assert (forall m t, INR m * (alpha * ln (INR vocab)) <= soft_values alpha r m t
                      <= INR m * (alpha * ln (INR vocab)) + INR m) as values.
  { assert (forall t c, soft_maximum alpha (acts t) (fun _ => c) = alpha * ln (INR vocab) + c)
      as constant.
    { intros t c. unfold soft_maximum. rewrite sum_const, size, ln_mult, ln_exp
        by (assumption || apply exp_pos). field. lra. }
    intros m. induction m as [| m IH]; intros t; [simpl; lra |].
    rewrite S_INR. cbn [soft_values].
    split; [eapply Rle_trans; [| apply soft_maximum_mono with (x := fun _ =>
                INR m * (alpha * ln (INR vocab)))]
           | eapply Rle_trans; [apply soft_maximum_mono with (y := fun _ =>
                1 + (INR m * (alpha * ln (INR vocab)) + INR m)) |]];
      auto using acts_nonempty; try (rewrite constant; lra);
      intros b b_in; specialize (range m t b b_in); specialize (IH (next t b)); lra. }
  pose proof (values n (next s a)) as after. pose proof (values (S n) s) as before.
  specialize (range n s a a_in).
  pose proof (ln_soft_policy alpha alpha_pos r n s a) as log. rewrite ln_Rinv by exact some.
  rewrite S_INR in *. apply Rabs_le.
  split; apply Rmult_le_reg_l with alpha; try exact alpha_pos;
    unfold Rdiv; rewrite ?Ropp_mult_distr_l_reverse, Rmult_minus_distr_l, log.
  - replace (alpha * - ((INR n + 1) * / alpha)) with (- (INR n + 1)) by (field; lra). lra.
  - replace (alpha * ((INR n + 1) * / alpha)) with (INR n + 1) by (field; lra). lra.
Qed.

Section MajorityVote.
Variables noes ayes : nat.
Hypothesis some_noes : (0 < noes)%nat.
Hypothesis some_ayes : (0 < ayes)%nat.

Lemma voters : seq 0 (noes + ayes) <> [].
Proof. destruct (noes + ayes)%nat eqn:none; [lia | discriminate]. Qed.

(** The lead of the ayes; the first tokens vote no, the others aye. *)
#[local] Instance majority_vote : Dynamics Z nat := {
  next := fun lead a => if a <? noes then (lead - 1)%Z else (lead + 1)%Z;
  acts := fun _ => seq 0 (noes + ayes);
  acts_nonempty := fun _ => voters
}.

(** A step pays if the ayes lead after its vote. *)
Definition vote_reward : table Z nat := fun _ lead a =>
  if Z_lt_dec 0 (next lead a) then 1 else 0.

(** Votes aye with probability [aye], and alike within ayes and within noes. *)
Definition vote (aye : R) : table Z nat := fun _ _ a =>
  if a <? noes then (1 - aye) / INR noes else aye / INR ayes.

Lemma sum_votes : forall (f : nat -> R) x y,
  (forall a, (a < noes)%nat -> f a = x) -> (forall a, (noes <= a)%nat -> f a = y) ->
  sum (seq 0 (noes + ayes)) f = INR noes * x + INR ayes * y.
Proof.
  intros f x y on_noes on_ayes. rewrite seq_app, sum_app. cbn [Nat.add].
  rewrite (sum_ext (seq 0 noes) f (fun _ => x)), (sum_ext (seq noes ayes) f (fun _ => y)).
  - now rewrite !sum_const, !seq_length.
  - intros a a_in. apply in_seq in a_in. apply on_ayes. lia.
  - intros a a_in. apply in_seq in a_in. apply on_noes. lia.
Qed.

Lemma noes_real : 0 < INR noes.
Proof. now apply lt_0_INR. Qed.

Lemma ayes_real : 0 < INR ayes.
Proof. now apply lt_0_INR. Qed.

Lemma vote_pos : forall aye m t a, 0 < aye < 1 -> 0 < vote aye m t a.
Proof.
  intros aye m t a between. pose proof noes_real. pose proof ayes_real. unfold vote.
  destruct (a <? noes); apply Rdiv_lt_0_compat; lra.
Qed.

Lemma vote_policy : forall aye n s, 0 < aye < 1 -> policy (vote aye) n s.
Proof.
  intros aye n s between. apply everywhere_all. intros m t.
  split; [intros a _; now apply Rlt_le, vote_pos |].
  pose proof noes_real. pose proof ayes_real. cbn [acts majority_vote].
  rewrite (sum_votes _ ((1 - aye) / INR noes) (aye / INR ayes)); [field; lra | |];
    intros a side; unfold vote; destruct (Nat.ltb_spec a noes); (reflexivity || lia).
Qed.

(** Its value: how likely the ayes lead after each step. *)
Lemma vote_value : forall aye n lead, 0 < aye < 1 ->
  value (vote aye) vote_reward n lead = ∑ h ∈ seq 1 n, leads aye h lead.
Proof.
  intros aye n lead between. pose proof noes_real. pose proof ayes_real. revert lead.
  induction n as [| n IH]; intros lead; [apply value_0 |].
  rewrite value_S by now apply vote_policy. cbn [acts majority_vote].
  assert (forall j, leads aye 0 j + (∑ h ∈ seq 1 n, leads aye h j)
                    = ∑ h ∈ seq 0 (S n), leads aye h j) as first by reflexivity.
  rewrite <- seq_shift, sum_map. cbn [leads]. rewrite sum_plus, !sum_scale, <- !first, <- !IH.
  rewrite (sum_votes _
    ((1 - aye) / INR noes * (leads aye 0 (lead - 1) + value (vote aye) vote_reward n (lead - 1)%Z))
    (aye / INR ayes * (leads aye 0 (lead + 1) + value (vote aye) vote_reward n (lead + 1)%Z))).
  - field. lra.
  - intros a a_no. unfold vote, vote_reward. cbn [next majority_vote leads].
    destruct (Nat.ltb_spec a noes); [reflexivity | lia].
  - intros a a_aye. unfold vote, vote_reward. cbn [next majority_vote leads].
    destruct (Nat.ltb_spec a noes); [lia | reflexivity].
Qed.

Section Gap.
Variables (alpha eps eta : R) (n : nat).
Hypothesis alpha_pos : 0 < alpha.
Hypothesis eps_nonneg : 0 <= eps.

Let share_noes := odds_wrong eps * INR (noes + ayes) / INR noes.
Let share_ayes := odds_right eps * INR (noes + ayes) / INR ayes.

(** The noes are a share of [1/(1 + e^ε)] of all tokens, and the temperature is high. *)
Hypothesis near_share : Rabs (ln share_noes) <= eta / 2 /\ Rabs (ln share_ayes) <= eta / 2.
Hypothesis hot : INR n / alpha <= eta / 2.

Let expert : table Z nat := soft_policy alpha vote_reward.

Lemma odds_between : 0 < odds_right eps < 1 /\ 0 < odds_wrong eps < 1.
Proof. pose proof (odds_pos eps). pose proof (odds_sum eps). lra. Qed.

Lemma vote_range : forall m t, reward_range 0 1 vote_reward m t.
Proof.
  intros m t. apply everywhere_all. intros k j a _. unfold vote_reward.
  destruct Z_lt_dec; lra.
Qed.

(** The expert is [eta] from the honest vote ... *)
Lemma expert_near_vote : forall lead,
  log_ratio_ball eta (vote (odds_right eps)) expert n lead.
Proof.
  intros lead.
  destruct odds_between as [right wrong]. destruct near_share as [near_noes near_ayes].
  pose proof noes_real as noes_pos. pose proof ayes_real as ayes_pos.
  assert (0 < INR (noes + ayes)) as all_pos by (rewrite plus_INR; lra).
  assert (forall k, (k <= n)%nat -> forall j,
    log_ratio_ball eta (vote (odds_right eps)) expert k j) as near; [| now apply near].
  intros k. induction k as [| k IH]; intros k_small j; cbn [log_ratio_ball everywhere]; [exact I |].
  split; [| intros a _; apply IH; lia].
  intros a a_in. split; [now apply vote_pos | split; [apply softmax_positive, acts_nonempty |]].
  assert (Rabs (ln (expert (S k) j a) - ln (/ INR (noes + ayes))) <= eta / 2) as near_expert.
  { eapply Rle_trans; [apply (expert_near_uniform alpha (noes + ayes)); try assumption |].
    - intros t. apply seq_length.
    - intros m t b _. unfold vote_reward. destruct Z_lt_dec; lra.
    - eapply Rle_trans; [| exact hot].
      apply Rmult_le_compat_r; [apply Rlt_le, Rinv_0_lt_compat; lra | now apply le_INR]. }
  assert (Rabs (ln (vote (odds_right eps) (S k) j a) - ln (/ INR (noes + ayes))) <= eta / 2)
    as near_vote.
  { rewrite <- ln_div by (now apply vote_pos || now apply Rinv_0_lt_compat).
    unfold vote. destruct (a <? noes).
    - pose proof (odds_sum eps). replace (1 - odds_right eps) with (odds_wrong eps) by lra.
      replace (odds_wrong eps / INR noes / / INR (noes + ayes)) with share_noes
        by (unfold share_noes; field; lra). exact near_noes.
    - replace (odds_right eps / INR ayes / / INR (noes + ayes)) with share_ayes
        by (unfold share_ayes; field; lra). exact near_ayes. }
  apply abs_le_inv in near_expert, near_vote. apply Rabs_le. lra.
Qed.

(** ... and the reversed vote [eps] from that. *)
Lemma votes_near : forall m t a,
  Rabs (ln (vote (odds_right eps) m t a) - ln (vote (odds_wrong eps) m t a)) <= eps.
Proof.
  intros m t a. destruct odds_between as [right wrong].
  pose proof noes_real. pose proof ayes_real. pose proof (odds_sum eps).
  pose proof (ln_answers eps) as apart.
  rewrite <- ln_div by now apply vote_pos.
  unfold vote. destruct (a <? noes).
  - replace ((1 - odds_right eps) / INR noes / ((1 - odds_wrong eps) / INR noes))
      with (odds_wrong eps / odds_right eps).
    + rewrite ln_div, apart by lra. apply Rabs_le. lra.
    + replace (1 - odds_right eps) with (odds_wrong eps) by lra.
      replace (1 - odds_wrong eps) with (odds_right eps) by lra. field. lra.
  - replace (odds_right eps / INR ayes / (odds_wrong eps / INR ayes))
      with (odds_right eps / odds_wrong eps) by (field; lra).
    rewrite ln_div, apart by lra. apply Rabs_le. lra.
Qed.

Lemma clone_near_expert : forall lead,
  log_ratio_ball (eps + eta) expert (vote (odds_wrong eps)) n lead.
Proof.
  intros lead. destruct odds_between as [right wrong].
  pose proof (expert_near_vote lead) as near. revert near. apply everywhere_imp.
  intros m t near a a_in. destruct (near a a_in) as (_ & pos & close).
  split; [exact pos | split; [now apply vote_pos |]].
  pose proof (votes_near m t a) as reversed.
  apply abs_le_inv in close, reversed. apply Rabs_le. lra.
Qed.

Lemma vote_gap :
  (∑ h ∈ seq 1 n, tv_rr h eps) - INR n ^ 2 * eta <=
  value expert vote_reward n 0%Z - value (vote (odds_wrong eps)) vote_reward n 0%Z.
Proof.
  destruct odds_between as [right wrong].
  pose proof (theorem_2_clone eta 0 1 (vote (odds_right eps)) expert vote_reward n 0%Z
    (vote_policy _ n 0%Z right) (soft_policy_policy _ _ _ _) (expert_near_vote 0%Z)
    (vote_range n 0%Z)) as near.
  assert (value (vote (odds_right eps)) vote_reward n 0%Z
          - value (vote (odds_wrong eps)) vote_reward n 0%Z = ∑ h ∈ seq 1 n, tv_rr h eps) as votes.
  { rewrite !vote_value, <- sum_minus by assumption. apply sum_ext. intros h _.
    now apply leads_tv_rr. }
  lra.
Qed.

End Gap.
End MajorityVote.

Lemma natural_above : forall x, 0 <= x -> exists n : nat, x < INR n <= x + 1.
Proof.
  intros x x_nonneg. destruct (archimed x) as [above within].
  exists (Z.to_nat (up x)). rewrite INR_IZR_INZ, Z2Nat.id; [lra |].
  apply le_IZR. lra.
Qed.

(** Shares of tokens come as near to a probability as one likes. *)
Lemma shares_of_tokens : forall eps eta, 0 <= eps -> 0 < eta -> exists noes ayes : nat,
  (0 < noes)%nat /\ (0 < ayes)%nat /\
  Rabs (ln (odds_wrong eps * INR (noes + ayes) / INR noes)) <= eta / 2 /\
  Rabs (ln (odds_right eps * INR (noes + ayes) / INR ayes)) <= eta / 2.
Proof.
  intros eps eta eps_nonneg eta_pos. pose proof (odds_pos eps) as [right wrong].
  pose proof (odds_sum eps) as one. set (w := odds_wrong eps) in *. set (r := odds_right eps) in *.
  assert (w <= r) as ordered.
  { pose proof (odds_difference eps) as gap. fold w r in gap.
    pose proof (tanh_nonneg (eps / 2) ltac:(lra)). lra. }
  assert (0 < 4 / eta) as fine by (apply Rdiv_lt_0_compat; lra).
  destruct (natural_above ((1 + 4 / eta) / w)) as (total & many & _).
  { apply Rlt_le, Rdiv_lt_0_compat; lra. }
  assert (1 + 4 / eta < w * INR total) as large.
  { apply (Rmult_lt_compat_l w) in many; [| exact wrong].
    replace (w * ((1 + 4 / eta) / w)) with (1 + 4 / eta) in many by (field; lra). exact many. }
  assert (0 <= INR total) as total_nonneg by apply pos_INR.
  assert (w * INR total <= r * INR total) as wider by (apply Rmult_le_compat_r; lra).
  assert (w * INR total + r * INR total = INR total) as parts
    by (rewrite <- Rmult_plus_distr_r; replace (w + r) with 1 by lra; ring).
  destruct (natural_above (w * INR total)) as (noes & above & within); [lra |].
  assert (noes <= total)%nat as fits by (apply INR_le; lra).
  set (ayes := (total - noes)%nat).
  assert (INR ayes = INR total - INR noes) as ayes_real by (unfold ayes; now rewrite minus_INR).
  exists noes, ayes. replace (noes + ayes)%nat with total by (unfold ayes; lia).
  assert (0 < INR noes) as noes_pos by lra. assert (0 < INR ayes) as ayes_pos by lra.
  assert (forall x y, 0 < y -> 4 / eta < y -> y <= x <= y + 1 ->
          0 <= ln (x / y) <= eta / 2) as near.
  { intros x y y_pos y_large between.
    assert (1 <= x / y <= 1 + eta / 2) as ratio.
    { split; apply Rmult_le_reg_r with y; try exact y_pos;
        unfold Rdiv at 1; rewrite Rmult_assoc, Rinv_l, Rmult_1_r by lra; [lra |].
      apply (Rmult_lt_compat_l (eta / 4)) in y_large; [| lra].
      replace (eta / 4 * (4 / eta)) with 1 in y_large by (field; lra). lra. }
    split; [rewrite <- ln_1; apply ln_mono; lra |].
    pose proof (ln_le_sub_1 (x / y) ltac:(lra)). lra. }
  split; [apply INR_lt; simpl; lra | split; [apply INR_lt; simpl; lra | split]].
  - assert (0 <= ln (INR noes / (w * INR total)) <= eta / 2) as bound by (apply near; lra).
    rewrite ln_div in bound |- * by (lra || apply Rmult_lt_0_compat; lra).
    apply Rabs_le. lra.
  - assert (0 <= ln (r * INR total / INR ayes) <= eta / 2) as bound by (apply near; lra).
    apply Rabs_le. lra.
Qed.

(** No bound in [H], [ε] and [R] alone is below clone-stepwise: for every [δ] a soft-optimal expert
    with rewards in [[0, 1]] has a clone within [ε + δ] that loses [Σ_h TV_RR(h, ε) − δ]. *)
Theorem clone_stepwise_approached : forall n eps delta, 0 <= eps -> 0 < delta ->
  exists (St T : Type) (D : Dynamics St T) (alpha : R) (r clone : table St T) (s : St),
    let expert := soft_policy alpha r in
    0 < alpha /\ reward_range 0 1 r n s /\ policy clone n s /\
    log_ratio_ball (eps + delta) expert clone n s /\
    (∑ h ∈ seq 1 n, tv_rr h eps) - delta <= value expert r n s - value clone r n s.
Proof.
  intros n eps delta eps_nonneg delta_pos.
  assert (0 <= INR n) as n_real by apply pos_INR.
  assert (0 < INR n ^ 2 + 1) as scale by nra.
  set (eta := delta / (INR n ^ 2 + 1)).
  assert (0 < eta) as eta_pos by now apply Rdiv_lt_0_compat.
  assert (eta * (INR n ^ 2 + 1) = delta) as split_delta by (unfold eta; field; lra).
  assert (0 <= INR n ^ 2 * eta) by (apply Rmult_le_pos; nra).
  destruct (shares_of_tokens eps eta eps_nonneg eta_pos)
    as (noes & ayes & some_noes & some_ayes & near).
  set (alpha := 2 * (INR n + 1) / eta).
  assert (0 < alpha) as alpha_pos by (apply Rdiv_lt_0_compat; lra).
  assert (INR n / alpha <= eta / 2) as hot.
  { unfold alpha. apply Rmult_le_reg_r with (2 * (INR n + 1)); [lra |].
    replace (INR n / (2 * (INR n + 1) / eta) * (2 * (INR n + 1))) with (INR n * eta)
      by (field; lra). nra. }
  pose proof (odds_between eps) as [right wrong].
  exists Z, nat, (majority_vote noes ayes some_noes some_ayes), alpha,
    (vote_reward noes ayes some_noes some_ayes),
    (vote noes ayes (odds_wrong eps)), 0%Z.
  cbv zeta. split; [exact alpha_pos | split; [apply vote_range | split; [| split]]].
  - now apply vote_policy.
  - pose proof (clone_near_expert noes ayes some_noes some_ayes alpha eps eta n alpha_pos
                  eps_nonneg near hot 0%Z) as ball.
    revert ball. apply everywhere_imp. intros m t ball a a_in.
    destruct (ball a a_in) as (expert_pos & pos & close). repeat split; try assumption. lra.
  - pose proof (vote_gap noes ayes some_noes some_ayes alpha eps eta n alpha_pos
                  eps_nonneg near hot) as gap. lra.
Qed.
