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
  assert (payoff_margin = ∑ heads ∈ [true; false], answer 1 heads * (ln (answer 1 heads) - ln (/ 2)))
    as divergence.
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
